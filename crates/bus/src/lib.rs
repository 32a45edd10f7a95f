//! How a virtual CPU's accesses reach devices, and how devices answer.
//!
//! [`AddressMap`] finds the device behind a port or a physical address; [`BusDevice`] is what it finds. A write
//! returns an [`Effect`], a plain value for what is beyond the device (power off, reset, a range that moves): whoever
//! dispatched the write applies it once no device lock is held, so no device ever calls back into its VMM.
//! [`Interrupt`] and [`Clock`] are what a device is given instead of a hypervisor and the host's time.
#![forbid(unsafe_code)]
#![doc = include_str!("../README.md")]

mod clock;
mod device;
mod interrupt;
mod map;
mod relocate;

pub use clock::{Clock, ManualClock, SystemClock};
pub use device::{BusDevice, Effect};
pub use interrupt::Interrupt;
pub use map::{AddressMap, Bus, MapError};
pub use relocate::Relocate;
