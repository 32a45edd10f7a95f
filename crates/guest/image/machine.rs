use crate::acpi::{self, Madt, Power, Table};
use crate::hardware::Memory;
use crate::interrupts::Interrupts;
use crate::start_info::StartInfo;

/// What this guest finds when it starts.
pub struct Machine {
    pub memory: Memory,
    pub info: Option<StartInfo>,
    pub madt: Option<Madt>,
    pub power: Power,
    pub ecam: Option<(u64, u8, u8)>,
    pub interrupts: Option<Interrupts>,
}

impl Machine {
    /// Looks around, from the start info on.
    pub fn find(start_info: u64) -> Self {
        let memory = Memory;
        let info = StartInfo::read(&memory, start_info);
        let rsdp = info.map_or(0, |i| i.rsdp);
        let table = |signature: &[u8; 4]| acpi::tables(&memory, rsdp).find(|t| t.signature == *signature);
        let madt = table(b"APIC").map(|t| Madt::read(&memory, &t));
        let power = table(b"FACP").map(|t| Power::read(&memory, &t)).unwrap_or_default();
        let ecam = table(b"MCFG").and_then(|t| acpi::ecam(&memory, &t));
        let interrupts = madt.as_ref().and_then(Interrupts::new);
        Self { memory, info, madt, power, ecam, interrupts }
    }

    /// Every ACPI table.
    pub fn tables(&self) -> impl Iterator<Item = Table> + '_ {
        acpi::tables(&self.memory, self.rsdp())
    }

    pub fn rsdp(&self) -> u64 {
        self.info.map_or(0, |i| i.rsdp)
    }
}
