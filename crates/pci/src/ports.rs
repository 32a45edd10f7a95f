use crate::{CONFIG_SIZE, Segment, lock};
use drystone_bus::{BusDevice, Effect};
use drystone_state::{Component, ComponentError, Persist, PersistDyn, RestoreError, SaveError, Schema};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex};

const ENABLE: u32 = 1 << 31;
/// Enable, bus, device, function, and a register of 32 bits.
const WRITABLE: u32 = ENABLE | 0x00ff_fffc;
const ADDRESS_LEN: usize = 4;
const DATA: u64 = 4;

/// Configuration mechanism #1 (PCI Local Bus 3.0, 3.2.2.3.2): an address register at port 0xcf8, and a window on the
/// register that it selects at 0xcfc. It reaches the first 256 bytes of each function of bus 0.
///
/// For firmware that knows nothing else, and for Linux, which prefers it for those 256 bytes wherever it answers. Each access
/// then takes two exits from the guest instead of one, unless the hypervisor holds writes to the address register
/// ([`ADDRESS_LEN`](Self::ADDRESS_LEN) ports) back until the guest's next access: they mean nothing before.
pub struct ConfigPorts {
    segment: Arc<Segment>,
    address: Mutex<u32>,
}

impl ConfigPorts {
    /// The first port.
    pub const BASE: u16 = 0xcf8;
    /// How many ports it takes.
    pub const LEN: u64 = 8;

    /// How many of its ports are the address register's, from the first on. What is written there matters to the next access
    /// to any of its ports alone, and has no effect of its own. A machine that has something else at one of them, such as a reset
    /// register at 0xcf9, must not hold writes back: a guest that halts after one would wait for ever.
    pub const ADDRESS_LEN: u16 = ADDRESS_LEN as u16;

    /// Ports for `segment`.
    pub fn new(segment: Arc<Segment>) -> Self {
        Self { segment, address: Mutex::new(0) }
    }

    /// The guest reads from `offset` on, counted from [`BASE`](Self::BASE).
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        if offset == 0 && data.len() == ADDRESS_LEN {
            data.copy_from_slice(&lock(&self.address).to_le_bytes());
        } else if let Some(at) = self.selected(offset, data.len()) {
            self.segment.read(at, data);
        }
    }

    /// The guest writes from `offset` on, counted from [`BASE`](Self::BASE). Only a write of 32 bits reaches the address
    /// register.
    pub fn write(&self, offset: u64, data: &[u8]) -> Effect {
        if let (0, Ok(address)) = (offset, data.try_into()) {
            *lock(&self.address) = u32::from_le_bytes(address) & WRITABLE;
            return Effect::None;
        }
        self.selected(offset, data.len()).map_or(Effect::None, |at| self.segment.write(at, data))
    }

    /// Where in ECAM the address register points, for an access to the data window.
    fn selected(&self, offset: u64, len: usize) -> Option<u64> {
        let byte = offset.checked_sub(DATA)?;
        let within = u64::try_from(len).ok()?.checked_add(byte)? <= 4;
        let address = *lock(&self.address);
        (within && address & ENABLE != 0).then_some(())?;
        let (function, register) = (u64::from(address >> 8 & 0xffff), u64::from(address & 0xfc));
        Some(function * u64::from(CONFIG_SIZE) + register + byte)
    }
}

impl BusDevice for ConfigPorts {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.read(offset, data);
    }
    fn write(&self, offset: u64, data: &[u8]) -> Effect {
        self.write(offset, data)
    }
}

impl Component for ConfigPorts {
    fn pause(&self) -> Result<(), ComponentError> {
        Ok(())
    }
    fn resume(&self) -> Result<(), ComponentError> {
        Ok(())
    }
    fn reset(&self) -> Result<(), ComponentError> {
        let Self { segment: _, address } = self;
        *lock(address) = 0;
        Ok(())
    }
    fn persist(&self) -> Option<&dyn PersistDyn> {
        Some(self)
    }
}

/// The saved state of [`ConfigPorts`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigPortsState {
    /// The address register.
    pub address: u32,
}

impl Schema for ConfigPortsState {
    const KIND: &'static str = "pci-config-ports";
    const VERSION: u32 = 1;
}

impl Persist for ConfigPorts {
    type State = ConfigPortsState;

    fn save(&self) -> Result<ConfigPortsState, SaveError> {
        Ok(ConfigPortsState { address: *lock(&self.address) })
    }

    fn restore(&self, state: ConfigPortsState) -> Result<(), RestoreError> {
        let ConfigPortsState { address } = state;
        if address & !WRITABLE != 0 {
            let cause = format!("address {address:#x} has reserved bits");
            return Err(RestoreError::Invalid { kind: ConfigPortsState::KIND, cause });
        }
        *lock(&self.address) = address;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
