//! CPUID of processors that exist, recorded on them, as KVM on such a host would offer it: for tests of what depends on
//! a host that the tests do not run on.
//!
//! A file has one answer a line, in hexadecimal: leaf, subleaf (`--` where the leaf has none), EAX, EBX, ECX, EDX.

use drystone_hypervisor::{Cpuid, CpuidEntry};

/// A recorded processor.
#[derive(Debug, Clone, Copy)]
pub struct Host {
    /// Its code name.
    pub name: &'static str,
    text: &'static str,
}

/// Xeon of 2010: SSE4.2 and AES, no AVX.
pub const WESTMERE: Host = Host { name: "Westmere", text: include_str!("hosts/westmere.txt") };
/// Xeon of 2014: AVX2.
pub const HASWELL: Host = Host { name: "Haswell", text: include_str!("hosts/haswell.txt") };
/// Xeon of 2023: AVX-512 and AMX.
pub const SAPPHIRE_RAPIDS: Host =
    Host { name: "Sapphire Rapids", text: include_str!("hosts/sapphire_rapids.txt") };
/// EPYC of 2021: AVX2.
pub const MILAN: Host = Host { name: "Milan", text: include_str!("hosts/milan.txt") };
/// EPYC of 2022: AVX-512.
pub const GENOA: Host = Host { name: "Genoa", text: include_str!("hosts/genoa.txt") };

/// All of them.
pub const ALL: [Host; 5] = [WESTMERE, HASWELL, SAPPHIRE_RAPIDS, MILAN, GENOA];

/// What KVM adds: its signature, and all features that it has had so far but memory encryption's.
const KVM: [CpuidEntry; 2] = [
    CpuidEntry {
        leaf: 0x4000_0000,
        subleaf: None,
        eax: 0x4000_0001,
        ebx: 0x4b4d_564b,
        ecx: 0x564b_4d56,
        edx: 0x4d,
    },
    CpuidEntry { leaf: 0x4000_0001, subleaf: None, eax: 0x0100_7efb, ebx: 0, ecx: 0, edx: 0 },
];
/// Leaf 1 ECX: x2APIC and TSC deadline, which KVM emulates everywhere.
const EMULATED: u32 = 1 << 21 | 1 << 24;

impl Host {
    /// Its answers.
    ///
    /// # Panics
    /// If the recording is broken.
    pub fn table(&self) -> Cpuid {
        let mut cpuid = Cpuid(self.text.lines().map(entry).chain(KVM).collect());
        cpuid.get_mut(1, 0).expect("leaf 1").ecx |= EMULATED;
        cpuid
    }
}

fn entry(line: &str) -> CpuidEntry {
    let fields: Vec<_> = line.split(' ').collect();
    let [leaf, subleaf, eax, ebx, ecx, edx] = fields[..] else { panic!("six fields in {line:?}") };
    let number = |text: &str| u32::from_str_radix(text, 16).expect("a hexadecimal number");
    CpuidEntry {
        leaf: number(leaf),
        subleaf: (subleaf != "--").then(|| number(subleaf)),
        eax: number(eax),
        ebx: number(ebx),
        ecx: number(ecx),
        edx: number(edx),
    }
}
