mod aml;
mod state;

pub use state::GedState;

use crate::bytes::{self, lock};
use acpi_tables::Aml;
use drystone_bus::{BusDevice, Effect, Interrupt};
use drystone_state::{Component, ComponentError, PersistDyn};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex};

/// Where a [`Ged`] is. Absent settings take the values given here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GedConfig {
    /// First I/O port of its register; 0x604. It takes [`Ged::LEN`] ports, and must be at most 0xfffc.
    pub base: u16,
    /// Its global system interrupt; 9. Whoever makes the `Interrupt` wires it there.
    pub gsi: u32,
}

impl Default for GedConfig {
    fn default() -> Self {
        Self { base: 0x604, gsi: 9 }
    }
}

/// All events of a [`Ged`] are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the ACPI event device has no room for another event: it has {}", Ged::MAX_EVENTS)]
pub struct GedFull;

/// A Generic Event Device (ACPI 6.5, 5.6.9): one interrupt by which everything that happens to a hardware-reduced machine
/// is told to its guest, from the power button to hot plug.
///
/// Whoever has something to tell adds an event while the machine is put together, with the AML that the guest runs when it
/// occurs, and gets an [`Interrupt`] to trigger. So a controller for hot plug is built like any other device, with an
/// interrupt, and names neither this one nor its registers.
///
/// The guest finds out which events occurred in one register of 32 bits. A read gives what has occurred since the last
/// one, byte by byte, and clears it; so two events never share an answer, and none is lost.
pub struct Ged {
    config: GedConfig,
    line: Arc<Line>,
    /// What the guest runs on event n, as AML.
    handlers: Vec<Vec<u8>>,
}

struct Line {
    interrupt: Arc<dyn Interrupt>,
    /// Events that the guest has not read yet: bit n for event n.
    pending: Mutex<u32>,
}

/// One event of a [`Ged`]: triggering it tells the guest.
#[derive(Clone)]
pub struct GedEvent {
    line: Arc<Line>,
    bit: u32,
}

impl Interrupt for GedEvent {
    fn trigger(&self) {
        *lock(&self.line.pending) |= self.bit;
        self.line.interrupt.trigger();
    }
}

impl Ged {
    /// How many ports its register takes.
    pub const LEN: u64 = 4;
    /// How many events there can be.
    pub const MAX_EVENTS: usize = 32;

    /// A device without events.
    pub fn new(config: GedConfig, interrupt: Arc<dyn Interrupt>) -> Self {
        let line = Arc::new(Line { interrupt, pending: Mutex::default() });
        Self { config, line, handlers: Vec::new() }
    }

    /// Adds an event. When it occurs, the guest runs `handler`: AML terms in a method of the device, for example a `Notify`,
    /// with absolute names. Events are numbered in the order in which they are added, which a saved state depends on.
    ///
    /// # Errors
    /// [`GedFull`] when there are [`MAX_EVENTS`](Self::MAX_EVENTS).
    pub fn add(&mut self, handler: &dyn Aml) -> Result<GedEvent, GedFull> {
        let number = self.handlers.len();
        if number >= Self::MAX_EVENTS {
            return Err(GedFull);
        }
        let mut aml = Vec::new();
        handler.to_aml_bytes(&mut aml);
        self.handlers.push(aml);
        Ok(GedEvent { line: self.line.clone(), bit: 1 << number })
    }

    /// The settings that it was built with.
    pub fn config(&self) -> &GedConfig {
        &self.config
    }

    /// The guest reads from `offset` on.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        let mut pending = lock(&self.line.pending);
        bytes::read(offset, data, |at| match at {
            0..Self::LEN => {
                let shift = 8 * at as u32;
                let byte = (*pending >> shift) as u8;
                *pending &= !(0xff << shift);
                byte
            }
            _ => 0xff,
        });
    }

    /// The guest writes, which means nothing: it cannot make events.
    pub fn write(&self, _offset: u64, _data: &[u8]) -> Effect {
        Effect::None
    }
}

impl BusDevice for Ged {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.read(offset, data);
    }
    fn write(&self, offset: u64, data: &[u8]) -> Effect {
        self.write(offset, data)
    }
}

impl Component for Ged {
    fn pause(&self) -> Result<(), ComponentError> {
        Ok(())
    }
    fn resume(&self) -> Result<(), ComponentError> {
        Ok(())
    }
    fn reset(&self) -> Result<(), ComponentError> {
        let Self { config: _, handlers: _, line } = self;
        let Line { interrupt: _, pending } = line.as_ref();
        *lock(pending) = 0;
        Ok(())
    }
    fn persist(&self) -> Option<&dyn PersistDyn> {
        Some(self)
    }
}

#[cfg(test)]
mod tests;
