use crate::aml::system_bus_device;
use crate::bytes::{self, lock};
use acpi_tables::aml::{IO, Name, ResourceTemplate};
use acpi_tables::{Aml, AmlSink};
use drystone_bus::{BusDevice, Effect};
use drystone_state::{Component, ComponentError, Persist, PersistDyn, RestoreError, SaveError, Schema};
use serde::{Deserialize, Serialize};
use std::sync::Mutex;

/// The kernel panicked, and does what its `panic` parameter says.
const PANICKED: u8 = 0x01;
/// The kernel panicked, and starts the one that it kept for taking a dump.
const CRASH_LOADED: u8 = 0x02;

/// Through which a guest's kernel says that it panicked: the paravirtual device pvpanic on the ISA bus, one port wide.
///
/// A read says which events it understands; a write of one of them is the event. Linux uses it with its module
/// `pvpanic-mmio`, which finds the AML's QEMU0001 also where it is at a port. Source: QEMU's `docs/specs/pvpanic.rst`,
/// Linux's `include/uapi/misc/pvpanic.h`.
///
/// A guest that takes a dump is told of once until it is reset, however often it says so: it goes on by itself, and must not
/// be able to flood whoever listens.
#[derive(Default)]
pub struct PvPanic(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    dump_told: bool,
}

impl PvPanic {
    /// Its port.
    pub const PORT: u16 = 0x505;
    /// How many ports it takes.
    pub const LEN: u64 = 1;

    /// A device that has heard of no panic.
    pub fn new() -> Self {
        Self::default()
    }

    /// The guest reads from `offset` on: which events there are.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        bytes::read(offset, data, |at| if at == 0 { PANICKED | CRASH_LOADED } else { 0xff });
    }

    /// The guest writes from `offset` on. [`Effect::Panic`] for a panic, [`Effect::CrashLoaded`] for the first that
    /// leads to a dump. Other bits mean nothing.
    pub fn write(&self, offset: u64, data: &[u8]) -> Effect {
        let mut inner = lock(&self.0);
        bytes::write(offset, data, |at, value| match at {
            0 if value & PANICKED != 0 => Effect::Panic,
            0 if value & CRASH_LOADED != 0 && !std::mem::replace(&mut inner.dump_told, true) => {
                Effect::CrashLoaded
            }
            _ => Effect::None,
        })
    }
}

impl BusDevice for PvPanic {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.read(offset, data);
    }
    fn write(&self, offset: u64, data: &[u8]) -> Effect {
        self.write(offset, data)
    }
}

/// A QEMU0001 device below `\_SB`, with its port.
impl Aml for PvPanic {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let io = IO::new(Self::PORT, Self::PORT, 1, 1);
        system_bus_device(
            "PEVT",
            vec![
                &Name::new("_HID".into(), &"QEMU0001"),
                &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&io])),
            ],
            sink,
        );
    }
}

impl Component for PvPanic {
    fn pause(&self) -> Result<(), ComponentError> {
        Ok(())
    }
    fn resume(&self) -> Result<(), ComponentError> {
        Ok(())
    }
    fn reset(&self) -> Result<(), ComponentError> {
        let Inner { dump_told } = &mut *lock(&self.0);
        *dump_told = false;
        Ok(())
    }
    fn persist(&self) -> Option<&dyn PersistDyn> {
        Some(self)
    }
}

/// The saved state of a [`PvPanic`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PvPanicState {
    /// Whether a dump was told of since the last reset.
    pub dump_told: bool,
}

impl Schema for PvPanicState {
    const KIND: &'static str = "pvpanic";
    const VERSION: u32 = 1;
}

impl Persist for PvPanic {
    type State = PvPanicState;

    fn save(&self) -> Result<PvPanicState, SaveError> {
        let Inner { dump_told } = *lock(&self.0);
        Ok(PvPanicState { dump_told })
    }

    fn restore(&self, state: PvPanicState) -> Result<(), RestoreError> {
        let PvPanicState { dump_told } = state;
        *lock(&self.0) = Inner { dump_told };
        Ok(())
    }
}

#[cfg(test)]
mod tests;
