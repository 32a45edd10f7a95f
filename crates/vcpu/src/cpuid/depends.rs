//! Which features need which, as data, and the closure over it.

use super::bit::Bit;
use super::feature::bit;
use super::table::{clear, has};
use super::xstate;
use drystone_hypervisor::Cpuid;

/// A feature, and all that it needs. Sources: Intel SDM volume 1, chapters 13 to 19 (state that XSAVE manages; AVX-512
/// foundation and its extensions), volume 3, 2.5 (control registers); AMD APM volumes 3 and 4; kernel document
/// virt/kvm/x86/cpuid for what KVM brings.
const NEEDS: &[(Bit, &[Bit])] = &[
    (bit("mmxext"), &[bit("mmx")]),
    (bit("3dnow"), &[bit("mmx")]),
    (bit("3dnowext"), &[bit("3dnow")]),
    (bit("fxsr"), &[bit("fpu")]),
    (bit("fxsr_opt"), &[bit("fxsr")]),
    (bit("sse"), &[bit("fxsr")]),
    (bit("misalignsse"), &[bit("sse")]),
    (bit("sse2"), &[bit("sse")]),
    (bit("pni"), &[bit("sse2")]),
    (bit("ssse3"), &[bit("pni")]),
    (bit("sse4a"), &[bit("pni")]),
    (bit("sse4_1"), &[bit("ssse3")]),
    (bit("sse4_2"), &[bit("sse4_1")]),
    (bit("pclmulqdq"), &[bit("sse2")]),
    (bit("aes"), &[bit("sse2")]),
    (bit("sha_ni"), &[bit("ssse3")]),
    (bit("gfni"), &[bit("sse2")]),
    (bit("cx16"), &[bit("cx8")]),
    (bit("lahf_lm"), &[bit("lm")]),
    (bit("fsgsbase"), &[bit("lm")]),
    (bit("rdtscp"), &[bit("tsc")]),
    (bit("clflushopt"), &[bit("clflush")]),
    (bit("clwb"), &[bit("clflush")]),
    (bit("tsxldtrk"), &[bit("rtm")]),
    // State that XSAVE manages.
    (bit("xsave"), &[bit("fxsr")]),
    (bit("xsaveopt"), &[bit("xsave")]),
    (bit("xsavec"), &[bit("xsave")]),
    (bit("xgetbv1"), &[bit("xsave")]),
    (bit("xsaves"), &[bit("xsavec")]),
    (bit("xfd"), &[bit("xgetbv1")]),
    (bit("pku"), &[bit("xsave")]),
    (bit("mpx"), &[bit("xsave")]),
    (bit("avx"), &[bit("xsave"), bit("sse4_2")]),
    (bit("fma"), &[bit("avx")]),
    (bit("f16c"), &[bit("avx")]),
    (bit("fma4"), &[bit("avx")]),
    (bit("xop"), &[bit("avx")]),
    (bit("avx2"), &[bit("avx")]),
    (bit("vaes"), &[bit("avx"), bit("aes")]),
    (bit("vpclmulqdq"), &[bit("avx"), bit("pclmulqdq")]),
    (bit("avx_vnni"), &[bit("avx2")]),
    (bit("avx_ifma"), &[bit("avx2")]),
    (bit("avx_vnni_int8"), &[bit("avx2")]),
    (bit("avx_vnni_int16"), &[bit("avx2")]),
    (bit("avx_ne_convert"), &[bit("avx2")]),
    (bit("sha512"), &[bit("avx2")]),
    (bit("sm3"), &[bit("avx")]),
    (bit("sm4"), &[bit("avx2")]),
    (bit("avx512f"), &[bit("avx2"), bit("fma"), bit("f16c")]),
    (bit("avx512dq"), &[bit("avx512f")]),
    (bit("avx512ifma"), &[bit("avx512f")]),
    (bit("avx512pf"), &[bit("avx512f")]),
    (bit("avx512er"), &[bit("avx512f")]),
    (bit("avx512cd"), &[bit("avx512f")]),
    (bit("avx512bw"), &[bit("avx512f")]),
    (bit("avx512vl"), &[bit("avx512f")]),
    (bit("avx512_vnni"), &[bit("avx512f")]),
    (bit("avx512_vpopcntdq"), &[bit("avx512f")]),
    (bit("avx512_4vnniw"), &[bit("avx512f")]),
    (bit("avx512_4fmaps"), &[bit("avx512f")]),
    (bit("avx512_vp2intersect"), &[bit("avx512f")]),
    (bit("avx512vbmi"), &[bit("avx512bw")]),
    (bit("avx512_vbmi2"), &[bit("avx512bw")]),
    (bit("avx512_bitalg"), &[bit("avx512bw")]),
    (bit("avx512_bf16"), &[bit("avx512bw")]),
    (bit("avx512_fp16"), &[bit("avx512bw"), bit("avx512dq"), bit("avx512vl")]),
    (bit("avx10"), &[bit("avx512bw"), bit("avx512dq"), bit("avx512vl")]),
    (bit("amx_tile"), &[bit("xsave"), bit("xfd")]),
    (bit("amx_int8"), &[bit("amx_tile")]),
    (bit("amx_bf16"), &[bit("amx_tile")]),
    (bit("amx_fp16"), &[bit("amx_tile")]),
    (bit("amx_complex"), &[bit("amx_tile")]),
    (bit("apx_f"), &[bit("xsave")]),
    (bit("shstk"), &[bit("xsaves")]),
    (bit("ibt"), &[bit("xsaves")]),
    // Paging, timers, interrupt controllers.
    (bit("pse36"), &[bit("pse")]),
    (bit("mca"), &[bit("mce")]),
    (bit("nx"), &[bit("pae")]),
    (bit("lm"), &[bit("pae")]),
    (bit("syscall"), &[bit("lm")]),
    (bit("pdpe1gb"), &[bit("lm")]),
    (bit("la57"), &[bit("lm")]),
    (bit("lam"), &[bit("lm")]),
    (bit("pcid"), &[bit("pge"), bit("lm")]),
    (bit("invpcid"), &[bit("pcid")]),
    (bit("lkgs"), &[bit("lm")]),
    (bit("wrmsrns"), &[bit("msr")]),
    (bit("fred"), &[bit("lkgs")]),
    (bit("msrlist"), &[bit("wrmsrns")]),
    (bit("msr_imm"), &[bit("wrmsrns")]),
    (bit("x2apic"), &[bit("apic"), bit("msr")]),
    (bit("tsc_deadline_timer"), &[bit("apic"), bit("tsc")]),
    (bit("arat"), &[bit("apic")]),
    (bit("tsc_adjust"), &[bit("tsc"), bit("msr")]),
    (bit("constant_tsc"), &[bit("tsc")]),
    (bit("svm"), &[bit("lm")]),
    // Speculation.
    (bit("intel_stibp"), &[bit("spec_ctrl")]),
    (bit("spec_ctrl_ssbd"), &[bit("spec_ctrl")]),
    (bit("ibrs_always_on"), &[bit("amd_ibrs")]),
    (bit("ibrs_preferred"), &[bit("amd_ibrs")]),
    (bit("amd_stibp_always_on"), &[bit("amd_stibp")]),
    (bit("amd_ibpb_ret"), &[bit("amd_ibpb")]),
    (bit("ibpb_brtype"), &[bit("amd_ibpb")]),
    // What KVM brings. A flush of another vCPU's TLB is deferred by a flag beside its steal time.
    (bit("kvmclock"), &[bit("tsc"), bit("msr")]),
    (bit("kvmclock2"), &[bit("tsc"), bit("msr")]),
    (bit("kvmclock_stable"), &[bit("kvmclock2")]),
    (bit("kvm_steal_time"), &[bit("msr")]),
    (bit("kvm_pv_tlb_flush"), &[bit("kvm_steal_time")]),
    (bit("kvm_pv_eoi"), &[bit("apic")]),
    (bit("kvm_pv_ipi"), &[bit("apic")]),
    (bit("kvm_pv_unhalt"), &[bit("apic")]),
    (bit("kvm_asyncpf_vmexit"), &[bit("kvm_asyncpf")]),
    (bit("kvm_asyncpf_int"), &[bit("kvm_asyncpf"), bit("apic")]),
];

/// What the feature at `bit` needs, directly.
pub(super) fn needs_of(bit: &Bit) -> impl Iterator<Item = &'static Bit> + use<> {
    let bit = *bit;
    NEEDS.iter().filter(move |(of, _)| *of == bit).flat_map(|(_, needs)| needs.iter())
}

/// Removes every feature whose needs are not met, and again what needs those, until nothing more goes.
pub(super) fn close(cpuid: &mut Cpuid) {
    // Each round removes something or is the last.
    loop {
        let gone: Vec<_> = xstate::without_state(cpuid).into_iter().chain(unmet(cpuid)).collect();
        if gone.is_empty() {
            return;
        }
        for bit in gone {
            clear(cpuid, &bit);
        }
    }
}

/// Features that are there without all that they need.
pub(super) fn unmet(cpuid: &Cpuid) -> Vec<Bit> {
    let met = |needs: &[Bit]| needs.iter().all(|need| has(cpuid, need));
    NEEDS.iter().filter(|(of, needs)| has(cpuid, of) && !met(needs)).map(|(of, _)| *of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_needs_itself_and_nothing_is_listed_twice() {
        for (of, needs) in NEEDS {
            assert_eq!(needs_of(of).count(), needs.len(), "{of}");
            let mut seen = vec![*of];
            let mut next = 0;
            while let Some(at) = seen.get(next).copied() {
                for need in needs_of(&at) {
                    assert_ne!(need, of, "it needs itself");
                    seen.push(*need);
                }
                next += 1;
                assert!(next < 1000);
            }
        }
    }
}
