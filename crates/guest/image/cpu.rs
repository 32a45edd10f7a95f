//! What CPUID says (Intel SDM volume 2; AMD64 manual volume 3, appendix E).

use core::fmt::Write;

/// Answers a leaf and a subleaf with EAX, EBX, ECX, EDX.
pub type Cpuid = fn(u32, u32) -> [u32; 4];

const EXTENDED: u32 = 0x8000_0000;
const HYPERVISOR: u32 = 0x4000_0000;
/// Leaf 1, ECX: there is a hypervisor that says so.
const HYPERVISOR_PRESENT: u32 = 1 << 31;
/// Leaf 0x4000_0001, EAX: kvm-clock with the newer registers.
const KVM_CLOCK: u32 = 1 << 3;

/// Features worth naming: leaf, register, bit.
const FEATURES: &[(&str, u32, usize, u32)] = &[
    ("sse2", 1, 3, 26),
    ("sse4.2", 1, 2, 20),
    ("aes", 1, 2, 25),
    ("x2apic", 1, 2, 21),
    ("tsc-deadline", 1, 2, 24),
    ("xsave", 1, 2, 26),
    ("avx", 1, 2, 28),
    ("rdrand", 1, 2, 30),
    ("avx2", 7, 1, 5),
    ("smep", 7, 1, 7),
    ("smap", 7, 1, 20),
    ("avx512f", 7, 1, 16),
    ("1GiB-pages", EXTENDED + 1, 3, 26),
    ("svm", EXTENDED + 1, 2, 2),
    ("vmx", 1, 2, 5),
];

/// Up to 48 bytes of text in registers.
struct Text([u8; 48]);

impl Text {
    fn of(registers: impl Iterator<Item = u32>) -> Self {
        let mut text = [0; 48];
        text.chunks_mut(4).zip(registers).for_each(|(to, from)| to.copy_from_slice(&from.to_le_bytes()));
        Self(text)
    }
    fn as_str(&self) -> &str {
        core::str::from_utf8(&self.0).unwrap_or("unreadable").trim_matches(['\0', ' '])
    }
}

/// Whether the hypervisor offers kvm-clock.
pub fn has_kvm_clock(cpuid: Cpuid) -> bool {
    has_hypervisor(cpuid)
        && signature(cpuid).as_str() == "KVMKVMKVM"
        && cpuid(HYPERVISOR + 1, 0)[0] & KVM_CLOCK != 0
}

fn has_hypervisor(cpuid: Cpuid) -> bool {
    cpuid(1, 0)[2] & HYPERVISOR_PRESENT != 0
}

fn signature(cpuid: Cpuid) -> Text {
    let [_, ebx, ecx, edx] = cpuid(HYPERVISOR, 0);
    Text::of([ebx, ecx, edx].into_iter())
}

/// Prints vendor, name, family, address width and features.
pub fn print(out: &mut dyn Write, cpuid: Cpuid) {
    let [highest, ebx, ecx, edx] = cpuid(0, 0);
    let vendor = Text::of([ebx, edx, ecx].into_iter());
    let extended = cpuid(EXTENDED, 0)[0];
    let brand =
        Text::of((EXTENDED + 2..EXTENDED + 5).filter(|l| *l <= extended).flat_map(|leaf| cpuid(leaf, 0)));
    let brand = if brand.as_str().is_empty() { "no name" } else { brand.as_str() };
    say!(out, "processor  {}, {brand}", vendor.as_str());
    let version = cpuid(1, 0)[0];
    let bits = if extended >= EXTENDED + 8 { cpuid(EXTENDED + 8, 0)[0] & 0xff } else { 36 };
    let (family, model) = family_and_model(version);
    say!(
        out,
        "           family {family:#x}, model {model:#x}, stepping {}; {bits} address bits",
        version & 0xf
    );
    let _ = out.write_str("           features:");
    for (name, leaf, register, bit) in FEATURES {
        let known = *leaf <= if *leaf < EXTENDED { highest } else { extended };
        if known && cpuid(*leaf, 0).get(*register).is_some_and(|r| r >> bit & 1 == 1) {
            let _ = write!(out, " {name}");
        }
    }
    say!(out);
    if has_hypervisor(cpuid) {
        say!(out, "hypervisor {}", signature(cpuid).as_str());
    } else {
        say!(out, "hypervisor none that shows itself");
    }
}

/// As both vendors compose them from leaf 1, EAX.
fn family_and_model(version: u32) -> (u32, u32) {
    let (family, model) = (version >> 8 & 0xf, version >> 4 & 0xf);
    let extended_model = (version >> 16 & 0xf) << 4;
    match family {
        0xf => (family + (version >> 20 & 0xff), model | extended_model),
        6 => (family, model | extended_model),
        _ => (family, model),
    }
}
