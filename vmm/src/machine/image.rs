use super::payload::Payload;
use drystone_hypervisor::{Error, Vcpu};
use drystone_loader::{AcpiConfig, Boot, Entry, Protocol};
use drystone_memory::{GuestRam, Layout};
use drystone_state::{Component, ComponentError, NoState, Persist, PersistDyn, RestoreError, SaveError};
use drystone_vcpu::BootState;
use drystone_vcpu::boot::{self, LinuxBoot, PvhBoot};
use std::ops::Range;
use std::sync::Mutex;
use vm_memory::GuestAddressSpace;

/// Describes the machine's hardware to the guest; called with a function that takes the description, because that
/// borrows from the devices.
pub(super) type Describe = Box<dyn Fn(&mut dyn FnMut(&AcpiConfig<'_>)) + Send + Sync>;

/// Guest RAM, and what the guest is booted from. A reset wipes the one and loads the other again.
pub(super) struct BootImage {
    pub(super) ram: GuestRam,
    pub(super) layout: Layout,
    /// What is loaded, or why it cannot be.
    pub(super) payload: Result<Payload, String>,
    pub(super) describe: Describe,
    /// Addresses that are not for RAM.
    pub(super) reserved: Vec<Range<u64>>,
    /// Where the guest begins, as of the last time that it was loaded.
    pub(super) entry: Mutex<Option<Entry>>,
}

impl BootImage {
    /// Puts everything into guest RAM, which must be all zeros.
    pub(super) fn load(&self) -> Result<(), ComponentError> {
        let missing = |why| ComponentError::new(format!("the guest cannot be started again: {why}"));
        let payload = self.payload.as_ref().map_err(missing)?;
        let memory = self.ram.view().memory();
        let mut entry = None;
        (self.describe)(&mut |acpi| {
            let boot = Boot {
                kernel: &payload.kernel,
                protocol: payload.protocol,
                initrd: payload.initrd.as_ref(),
                cmdline: &payload.cmdline,
                acpi: Some(acpi),
                reserved: &self.reserved,
            };
            entry = Some(drystone_loader::setup(&*memory, &self.layout, &boot));
        });
        let entry = entry.transpose().map_err(ComponentError::new)?;
        boot::write_tables(&*memory).map_err(ComponentError::new)?;
        if matches!(entry, Some(Entry { protocol: Protocol::Linux, .. })) {
            boot::write_page_tables(&*memory).map_err(ComponentError::new)?;
        }
        *self.entry.lock().unwrap_or_else(|e| e.into_inner()) = entry;
        Ok(())
    }
}

impl BootState for BootImage {
    fn apply(&self, vcpu: &mut dyn Vcpu) -> Result<(), Error> {
        let entry = self.entry.lock().unwrap_or_else(|e| e.into_inner());
        let Some(entry) = entry.as_ref() else {
            let attempt = format!("start vCPU {}", vcpu.id());
            return Err(Error::Invalid { attempt, why: "no kernel is loaded".into() });
        };
        let Entry { protocol, rip, boot_params, .. } = *entry;
        match protocol {
            Protocol::Linux => LinuxBoot { entry: rip, zero_page: boot_params }.apply(vcpu),
            Protocol::Pvh => PvhBoot { entry: rip, start_info: boot_params }.apply(vcpu),
        }
    }
}

impl Component for BootImage {
    // RAM does not move by itself.
    fn pause(&self) -> Result<(), ComponentError> {
        Ok(())
    }
    fn resume(&self) -> Result<(), ComponentError> {
        Ok(())
    }
    fn reset(&self) -> Result<(), ComponentError> {
        self.ram.discard_all().map_err(ComponentError::new)?;
        self.load()
    }
    fn persist(&self) -> Option<&dyn PersistDyn> {
        Some(self)
    }
}

/// The content of RAM is not a component's state: it is saved beside it, as a stream.
impl Persist for BootImage {
    type State = NoState;
    fn save(&self) -> Result<NoState, SaveError> {
        Ok(NoState {})
    }
    fn restore(&self, _: NoState) -> Result<(), RestoreError> {
        Ok(())
    }
}
