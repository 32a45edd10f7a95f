mod calendar;
mod cmos;
mod registers;
mod state;

pub use cmos::RtcConfig;
pub use state::RtcState;

use crate::aml::system_bus_device;
use crate::bytes::{self, lock};
use acpi_tables::aml::{EISAName, IO, Name, ResourceTemplate};
use acpi_tables::{Aml, AmlSink};
use drystone_bus::{BusDevice, Clock, Effect};
use drystone_state::{Component, ComponentError, Persist, PersistDyn, RestoreError, SaveError};
use registers::Registers;
use std::sync::{Arc, Mutex};

/// The CMOS register that holds the century, to be named in the FADT's CENTURY field (ACPI 6.5, 5.2.9): a guest
/// reads it only when the FADT names it.
pub const RTC_CENTURY_REGISTER: u8 = 0x32;

/// The real-time clock of a PC, an MC146818 with 128 bytes of CMOS RAM (index port 0x70, data port 0x71).
///
/// It shows the injected clock's wall time as UTC. A guest that sets the time moves its own offset to that clock,
/// not the host's. Time and RAM survive a reset, as on a battery.
///
/// It has no interrupt: the alarm, update and periodic flags of status C are there for a guest that polls, and the
/// AML names no interrupt, with which Linux uses the clock for reading and setting and says "no alarms".
/// Bit 7 of the index (NMI mask) is ignored.
pub struct Rtc {
    inner: Mutex<Registers>,
    clock: Arc<dyn Clock>,
}

impl Rtc {
    /// First of its two ports.
    pub const BASE: u16 = 0x70;
    /// How many ports it takes.
    pub const LEN: u64 = 2;

    /// A clock that shows `clock`'s wall time, in BCD and 24 hours.
    pub fn new(config: &RtcConfig, clock: Arc<dyn Clock>) -> Self {
        let inner = Mutex::new(Registers::new(config, &*clock));
        Self { inner, clock }
    }

    /// The guest reads from `offset` on: 0 is the index port, which reads as all ones, 1 the data port.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        let mut inner = lock(&self.inner);
        bytes::read(offset, data, |at| if at == 1 { inner.read(&*self.clock) } else { 0xff });
    }

    /// The guest writes from `offset` on: 0 is the index port, 1 the data port. It never has an effect.
    pub fn write(&self, offset: u64, data: &[u8]) -> Effect {
        let mut inner = lock(&self.inner);
        bytes::write(offset, data, |at, value| {
            match at {
                0 => inner.select(value),
                1 => inner.write(value, &*self.clock),
                _ => {}
            }
            Effect::None
        })
    }
}

impl BusDevice for Rtc {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.read(offset, data);
    }
    fn write(&self, offset: u64, data: &[u8]) -> Effect {
        self.write(offset, data)
    }
}

impl Component for Rtc {
    /// It does nothing by itself, and goes on showing the host's time after a pause.
    fn pause(&self) -> Result<(), ComponentError> {
        Ok(())
    }
    fn resume(&self) -> Result<(), ComponentError> {
        Ok(())
    }
    /// The time that the guest has set, and CMOS RAM, stay: they run on a battery.
    fn reset(&self) -> Result<(), ComponentError> {
        lock(&self.inner).reset(&*self.clock);
        Ok(())
    }
    fn persist(&self) -> Option<&dyn PersistDyn> {
        Some(self)
    }
}

impl Persist for Rtc {
    type State = RtcState;
    fn save(&self) -> Result<RtcState, SaveError> {
        Ok(lock(&self.inner).save())
    }
    fn restore(&self, state: RtcState) -> Result<(), RestoreError> {
        lock(&self.inner).restore(&state, &*self.clock)
    }
}

/// A PNP0B00 device below `\_SB`, with its ports and no interrupt.
impl Aml for Rtc {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let io = IO::new(Self::BASE, Self::BASE, 1, 2);
        system_bus_device(
            "RTC_",
            vec![
                &Name::new("_HID".into(), &EISAName::new("PNP0B00")),
                &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&io])),
            ],
            sink,
        );
    }
}

#[cfg(test)]
mod tests;
