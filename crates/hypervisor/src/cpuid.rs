use serde::{Deserialize, Serialize};

/// One answer of the CPUID instruction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuidEntry {
    /// EAX on input: the leaf.
    pub leaf: u32,
    /// ECX on input, or `None` if the leaf ignores it.
    pub subleaf: Option<u32>,
    /// Result registers.
    #[allow(missing_docs)]
    pub eax: u32,
    #[allow(missing_docs)]
    pub ebx: u32,
    #[allow(missing_docs)]
    pub ecx: u32,
    #[allow(missing_docs)]
    pub edx: u32,
}

/// All that a virtual CPU answers to CPUID; leaves that are absent answer zeros.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpuid(pub Vec<CpuidEntry>);

impl Cpuid {
    /// The entry of `leaf`, and of `subleaf` where that matters to the leaf.
    pub fn get(&self, leaf: u32, subleaf: u32) -> Option<&CpuidEntry> {
        self.0.iter().find(|e| e.leaf == leaf && e.subleaf.is_none_or(|s| s == subleaf))
    }

    /// As [`get`](Self::get), to change it.
    pub fn get_mut(&mut self, leaf: u32, subleaf: u32) -> Option<&mut CpuidEntry> {
        self.0.iter_mut().find(|e| e.leaf == leaf && e.subleaf.is_none_or(|s| s == subleaf))
    }

    /// Guest-physical address width in bits (leaf 0x8000_0008, EAX bits 7:0); 36 where the leaf is absent
    /// (Intel SDM volume 3, 5.1.4).
    pub fn physical_address_bits(&self) -> u8 {
        self.get(0x8000_0008, 0).map_or(36, |e| e.eax.to_le_bytes()[0])
    }
}
