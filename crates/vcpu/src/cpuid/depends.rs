//! Which features need which, as data, and the closure over it.

use super::feature::Feature;
use super::table::{clear, has};
use super::xstate;
use drystone_hypervisor::Cpuid;

/// A feature, and all that it needs. Sources: Intel SDM volume 1, chapters 13 to 19 (state that XSAVE manages; AVX-512
/// foundation and its extensions), volume 3, 2.5 (control registers); AMD APM volumes 3 and 4; kernel document
/// virt/kvm/x86/cpuid for what KVM brings.
const NEEDS: &[(&str, &[&str])] = &[
    ("mmxext", &["mmx"]),
    ("3dnow", &["mmx"]),
    ("3dnowext", &["3dnow"]),
    ("fxsr", &["fpu"]),
    ("fxsr_opt", &["fxsr"]),
    ("sse", &["fxsr"]),
    ("misalignsse", &["sse"]),
    ("sse2", &["sse"]),
    ("pni", &["sse2"]),
    ("ssse3", &["pni"]),
    ("sse4a", &["pni"]),
    ("sse4_1", &["ssse3"]),
    ("sse4_2", &["sse4_1"]),
    ("pclmulqdq", &["sse2"]),
    ("aes", &["sse2"]),
    ("sha_ni", &["ssse3"]),
    ("gfni", &["sse2"]),
    ("cx16", &["cx8"]),
    ("lahf_lm", &["lm"]),
    ("fsgsbase", &["lm"]),
    ("rdtscp", &["tsc"]),
    ("clflushopt", &["clflush"]),
    ("clwb", &["clflush"]),
    ("tsxldtrk", &["rtm"]),
    // State that XSAVE manages.
    ("xsave", &["fxsr"]),
    ("xsaveopt", &["xsave"]),
    ("xsavec", &["xsave"]),
    ("xgetbv1", &["xsave"]),
    ("xsaves", &["xsavec"]),
    ("xfd", &["xgetbv1"]),
    ("pku", &["xsave"]),
    ("mpx", &["xsave"]),
    ("avx", &["xsave", "sse4_2"]),
    ("fma", &["avx"]),
    ("f16c", &["avx"]),
    ("fma4", &["avx"]),
    ("xop", &["avx"]),
    ("avx2", &["avx"]),
    ("vaes", &["avx", "aes"]),
    ("vpclmulqdq", &["avx", "pclmulqdq"]),
    ("avx_vnni", &["avx2"]),
    ("avx_ifma", &["avx2"]),
    ("avx_vnni_int8", &["avx2"]),
    ("avx_vnni_int16", &["avx2"]),
    ("avx_ne_convert", &["avx2"]),
    ("sha512", &["avx2"]),
    ("sm3", &["avx"]),
    ("sm4", &["avx2"]),
    ("avx512f", &["avx2", "fma", "f16c"]),
    ("avx512dq", &["avx512f"]),
    ("avx512ifma", &["avx512f"]),
    ("avx512pf", &["avx512f"]),
    ("avx512er", &["avx512f"]),
    ("avx512cd", &["avx512f"]),
    ("avx512bw", &["avx512f"]),
    ("avx512vl", &["avx512f"]),
    ("avx512_vnni", &["avx512f"]),
    ("avx512_vpopcntdq", &["avx512f"]),
    ("avx512_4vnniw", &["avx512f"]),
    ("avx512_4fmaps", &["avx512f"]),
    ("avx512_vp2intersect", &["avx512f"]),
    ("avx512vbmi", &["avx512bw"]),
    ("avx512_vbmi2", &["avx512bw"]),
    ("avx512_bitalg", &["avx512bw"]),
    ("avx512_bf16", &["avx512bw"]),
    ("avx512_fp16", &["avx512bw", "avx512dq", "avx512vl"]),
    ("avx10", &["avx512bw", "avx512dq", "avx512vl"]),
    ("amx_tile", &["xsave", "xfd"]),
    ("amx_int8", &["amx_tile"]),
    ("amx_bf16", &["amx_tile"]),
    ("amx_fp16", &["amx_tile"]),
    ("amx_complex", &["amx_tile"]),
    ("apx_f", &["xsave"]),
    ("shstk", &["xsaves"]),
    ("ibt", &["xsaves"]),
    // Paging, timers, interrupt controllers.
    ("pse36", &["pse"]),
    ("mca", &["mce"]),
    ("nx", &["pae"]),
    ("lm", &["pae"]),
    ("syscall", &["lm"]),
    ("pdpe1gb", &["lm"]),
    ("la57", &["lm"]),
    ("lam", &["lm"]),
    ("pcid", &["pge", "lm"]),
    ("invpcid", &["pcid"]),
    ("lkgs", &["lm"]),
    ("wrmsrns", &["msr"]),
    ("fred", &["lkgs"]),
    ("msrlist", &["wrmsrns"]),
    ("msr_imm", &["wrmsrns"]),
    ("x2apic", &["apic", "msr"]),
    ("tsc_deadline_timer", &["apic", "tsc"]),
    ("arat", &["apic"]),
    ("tsc_adjust", &["tsc", "msr"]),
    ("constant_tsc", &["tsc"]),
    ("svm", &["lm"]),
    // Speculation.
    ("intel_stibp", &["spec_ctrl"]),
    ("spec_ctrl_ssbd", &["spec_ctrl"]),
    ("ibrs_always_on", &["amd_ibrs"]),
    ("ibrs_preferred", &["amd_ibrs"]),
    ("amd_stibp_always_on", &["amd_stibp"]),
    ("amd_ibpb_ret", &["amd_ibpb"]),
    ("ibpb_brtype", &["amd_ibpb"]),
    // What KVM brings. A flush of another vCPU's TLB is deferred by a flag beside its steal time.
    ("kvmclock", &["tsc", "msr"]),
    ("kvmclock2", &["tsc", "msr"]),
    ("kvmclock_stable", &["kvmclock2"]),
    ("kvm_steal_time", &["msr"]),
    ("kvm_pv_tlb_flush", &["kvm_steal_time"]),
    ("kvm_pv_eoi", &["apic"]),
    ("kvm_pv_ipi", &["apic"]),
    ("kvm_pv_unhalt", &["apic"]),
    ("kvm_asyncpf_vmexit", &["kvm_asyncpf"]),
    ("kvm_asyncpf_int", &["kvm_asyncpf", "apic"]),
];

/// What `feature` needs, directly.
pub(super) fn needs_of(feature: &Feature) -> impl Iterator<Item = &'static Feature> + use<> {
    let name = feature.name;
    let needs = NEEDS.iter().filter(move |(of, _)| *of == name).flat_map(|(_, needs)| needs.iter());
    needs.filter_map(|name| Feature::named(name))
}

/// Removes every feature whose needs are not met, and again what needs those, until nothing more goes.
pub(super) fn close(cpuid: &mut Cpuid) {
    // Each round removes something or is the last.
    loop {
        let gone: Vec<_> = xstate::without_state(cpuid).chain(unmet(cpuid)).collect();
        if gone.is_empty() {
            return;
        }
        for feature in gone {
            clear(cpuid, &feature.bit);
        }
    }
}

/// Features that are there without all that they need.
pub(super) fn unmet(cpuid: &Cpuid) -> impl Iterator<Item = &'static Feature> + use<> {
    let met = |name: &&&str| Feature::named(name).is_some_and(|f| has(cpuid, &f.bit));
    let mut found = Vec::new();
    for (name, needs) in NEEDS {
        if let Some(feature) = Feature::named(name)
            && has(cpuid, &feature.bit)
            && !needs.iter().all(|name| met(&name))
        {
            found.push(feature);
        }
    }
    found.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_a_feature_and_nothing_needs_itself() {
        for (name, _) in NEEDS {
            let feature = Feature::named(name).unwrap_or_else(|| panic!("{name}"));
            assert_eq!(
                needs_of(feature).count(),
                NEEDS.iter().filter(|(n, _)| n == name).map(|n| n.1.len()).sum::<usize>()
            );
            let mut seen = vec![feature];
            let mut next = 0;
            while let Some(at) = seen.get(next).copied() {
                for need in needs_of(at) {
                    assert_ne!(need, feature, "{name} needs itself");
                    seen.push(need);
                }
                next += 1;
                assert!(next < 1000);
            }
        }
    }
}
