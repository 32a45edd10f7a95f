//! Virtio devices, written once.
//!
//! A device author implements [`Worker`] and [`VirtioDevice`]; [`VirtioCore`] adds everything that is the same for all
//! devices (negotiation, status, rings, reset, pause, saved state); a transport, [`Mmio`] or [`Pci`], decodes registers into calls
//! of the core; and whoever likes calls [`VirtioCore::kick`] and [`VirtioCore::ready`]: an event loop, a test, a
//! fuzzer. Numbers in parentheses are sections of the virtio 1.3 specification.
//!
//! Only the modern interface is there (VIRTIO_F_VERSION_1 is mandatory), with split rings.
#![forbid(unsafe_code)]
#![doc = include_str!("../README.md")]

mod chain;
mod core;
mod cx;
mod device;
mod fault;
mod mailbox;
mod mmio;
mod notify;
mod pci;
mod ring;
mod timer;
mod view;

pub use crate::core::status::{
    ACKNOWLEDGE, DRIVER, DRIVER_OK, F_ACCESS_PLATFORM, F_EVENT_IDX, F_INDIRECT_DESC, F_RING_RESET,
    F_VERSION_1, FAILED, FEATURES_OK, NEEDS_RESET,
};
pub use crate::core::{
    BuildError, CoreState, Host, LaneInfo, Next, QueueRegisters, QueueState, StuckError, VirtioCore,
};
pub use chain::{Chain, Seg, part};
pub use cx::Cx;
pub use device::{Description, SharedMemory, Source, VirtioDevice, Worker};
pub use fault::{Attempt, Event, Fault, Observer, Unobserved};
pub use mailbox::{Mailbox, PostError, Postbox, mailbox};
pub use mmio::{Mmio, MmioConfig, MmioState};
pub use notify::{Doorbell, Interrupts, Notification};
pub use pci::{Pci, PciError, PciState, Unwired, Wiring};
pub use ring::RingRef;
pub use timer::Timer;
pub use view::View;
