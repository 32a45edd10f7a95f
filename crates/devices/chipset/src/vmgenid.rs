use crate::aml::system_bus_device;
use crate::bytes::lock;
use crate::{Ged, GedEvent, GedFull};
use acpi_tables::aml::{Name, Notify, Package, Path};
use acpi_tables::{Aml, AmlSink};
use drystone_bus::Interrupt;
use drystone_memory::Mem;
use drystone_state::{Component, ComponentError, Persist, PersistDyn, RestoreError, SaveError, Schema};
use serde::{Deserialize, Serialize};
use std::sync::Mutex;
use vm_memory::{Bytes, GuestAddress};

/// The notification "the identifier has changed".
const CHANGED: u8 = 0x80;

/// Gives 16 bytes that nobody can foresee.
pub type Entropy = Box<dyn Fn() -> std::io::Result<[u8; 16]> + Send + Sync>;

/// Tells a guest that it is no longer the only one with its past: a virtual machine generation identifier, which lies in guest
/// memory and changes whenever the machine is restored, unless that is to keep its [`Identity`]. Linux then seeds its random numbers anew, so that two machines
/// from one snapshot do not have the same secrets.
///
/// Source: Microsoft's "Virtual Machine Generation ID", Linux's `drivers/virt/vmgenid.c`.
pub struct VmGenId<M: Mem> {
    address: u64,
    memory: M,
    entropy: Entropy,
    identity: Identity,
    event: GedEvent,
    inner: Mutex<Inner>,
}

/// Who a restored machine is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Identity {
    /// Another one: what it was made from may be used again.
    #[default]
    New,
    /// The same, which only moved: nobody else has its past.
    Kept,
}

struct Inner {
    id: [u8; 16],
    /// The guest does not know of it yet.
    untold: bool,
}

/// The identifier cannot be made or put into guest memory.
#[derive(Debug, thiserror::Error)]
pub enum VmGenIdError {
    /// The event device is full.
    #[error(transparent)]
    Ged(#[from] GedFull),
    /// There are no random bytes.
    #[error("generation identifier: cannot get random bytes: {0}")]
    Entropy(std::io::Error),
    /// Its address is no guest memory.
    #[error("generation identifier: cannot write it to guest memory at {address:#x}: {cause}")]
    Memory {
        /// Guest-physical address.
        address: u64,
        /// What was said.
        cause: String,
    },
    /// Its address is no guest memory.
    #[error("generation identifier: cannot read it from guest memory at {address:#x}: {cause}")]
    Read {
        /// Guest-physical address.
        address: u64,
        /// What was said.
        cause: String,
    },
}

impl<M: Mem> VmGenId<M> {
    /// Bytes of guest memory that it takes.
    pub const LEN: u64 = 16;

    /// An identifier at the guest-physical address `address`, a multiple of 8 in memory that the guest's memory map lists as
    /// reserved, told of by `ged`. It is written to memory by [`write`](Self::write), by a reset and by a restore.
    ///
    /// # Errors
    /// [`VmGenIdError::Ged`], [`VmGenIdError::Entropy`].
    pub fn new(address: u64, memory: M, ged: &mut Ged, entropy: Entropy) -> Result<Self, VmGenIdError> {
        let event = ged.add(&Notify::new(&Path::new("\\_SB_.VGEN"), &CHANGED))?;
        let id = entropy().map_err(VmGenIdError::Entropy)?;
        let inner = Mutex::new(Inner { id, untold: false });
        Ok(Self { address, memory, entropy, identity: Identity::New, event, inner })
    }

    /// Says what a restore is to make of the machine; a new one unless said.
    pub fn with_identity(self, identity: Identity) -> Self {
        Self { identity, ..self }
    }

    /// Puts the identifier into guest memory, for a machine that boots.
    ///
    /// # Errors
    /// [`VmGenIdError::Memory`].
    pub fn write(&self) -> Result<(), VmGenIdError> {
        self.put(&lock(&self.inner).id)
    }

    fn put(&self, id: &[u8; 16]) -> Result<(), VmGenIdError> {
        let memory = self.memory.memory();
        memory
            .write_slice(id, GuestAddress(self.address))
            .map_err(|e| VmGenIdError::Memory { address: self.address, cause: e.to_string() })
    }

    /// Takes over the identifier that the guest has, and may have changed: then it has fooled itself.
    fn keep(&self, untold: bool) -> Result<(), VmGenIdError> {
        let mut id = [0; 16];
        let read = self.memory.memory().read_slice(&mut id, GuestAddress(self.address));
        read.map_err(|e| VmGenIdError::Read { address: self.address, cause: e.to_string() })?;
        *lock(&self.inner) = Inner { id, untold };
        Ok(())
    }

    fn change(&self) -> Result<(), VmGenIdError> {
        let id = (self.entropy)().map_err(VmGenIdError::Entropy)?;
        self.put(&id)?;
        *lock(&self.inner) = Inner { id, untold: true };
        Ok(())
    }
}

/// The device `\_SB.VGEN`, with the address of the identifier as two halves of 32 bits.
impl<M: Mem> Aml for VmGenId<M> {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let (low, high) = (self.address as u32, (self.address >> 32) as u32);
        system_bus_device(
            "VGEN",
            vec![
                &Name::new("_HID".into(), &"DRYS0001"),
                &Name::new("_CID".into(), &"VM_Gen_Counter"),
                &Name::new("_DDN".into(), &"VM_Gen_Counter"),
                &Name::new("ADDR".into(), &Package::new(vec![&low, &high])),
            ],
            sink,
        );
    }
}

impl<M: Mem> Component for VmGenId<M> {
    fn pause(&self) -> Result<(), ComponentError> {
        Ok(())
    }
    /// An interrupt that came earlier would be lost when the interrupt controllers take their state over.
    fn resume(&self) -> Result<(), ComponentError> {
        if std::mem::take(&mut lock(&self.inner).untold) {
            self.event.trigger();
        }
        Ok(())
    }
    /// The guest starts anew, in the same machine.
    fn reset(&self) -> Result<(), ComponentError> {
        let Self { address: _, memory: _, entropy: _, identity: _, event: _, inner } = self;
        let mut inner = lock(inner);
        inner.untold = false;
        self.put(&inner.id).map_err(ComponentError::new)
    }
    fn persist(&self) -> Option<&dyn PersistDyn> {
        Some(self)
    }
}

/// What is saved of a [`VmGenId`]. A restored machine is another one, or finds its identifier in its memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmGenIdState {
    /// The guest does not know yet that it was restored.
    pub untold: bool,
}

impl Schema for VmGenIdState {
    const KIND: &'static str = "vmgenid";
    const VERSION: u32 = 1;
}

impl<M: Mem> Persist for VmGenId<M> {
    type State = VmGenIdState;
    fn save(&self) -> Result<VmGenIdState, SaveError> {
        Ok(VmGenIdState { untold: lock(&self.inner).untold })
    }
    fn restore(&self, VmGenIdState { untold }: VmGenIdState) -> Result<(), RestoreError> {
        let restored = match self.identity {
            Identity::New => self.change(),
            Identity::Kept => self.keep(untold),
        };
        restored.map_err(|e| RestoreError::Invalid { kind: VmGenIdState::KIND, cause: e.to_string() })
    }
}

#[cfg(test)]
mod tests;
