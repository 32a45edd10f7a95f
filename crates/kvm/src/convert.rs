//! KVM's structs to ours and back.
use drystone_hypervisor::{Cpuid, CpuidEntry, DescriptorTable, Error, Regs, Segment, Sregs};
use kvm_bindings::{
    CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2, kvm_dtable, kvm_regs, kvm_segment, kvm_sregs,
};

macro_rules! same_names {
    ($from:expr, $to:ident { $($field:ident),* $(,)? }) => { $to { $($field: $from.$field),* } };
}

pub(crate) fn regs_from_kvm(r: &kvm_regs) -> Regs {
    same_names!(
        r,
        Regs { rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags }
    )
}

pub(crate) fn regs_to_kvm(r: &Regs) -> kvm_regs {
    same_names!(
        r,
        kvm_regs {
            rax,
            rbx,
            rcx,
            rdx,
            rsi,
            rdi,
            rsp,
            rbp,
            r8,
            r9,
            r10,
            r11,
            r12,
            r13,
            r14,
            r15,
            rip,
            rflags
        }
    )
}

fn segment_from_kvm(s: &kvm_segment) -> Segment {
    Segment {
        base: s.base,
        limit: s.limit,
        selector: s.selector,
        kind: s.type_,
        present: s.present != 0,
        dpl: s.dpl,
        db: s.db != 0,
        s: s.s != 0,
        l: s.l != 0,
        g: s.g != 0,
        avl: s.avl != 0,
        unusable: s.unusable != 0,
    }
}

fn segment_to_kvm(s: &Segment) -> kvm_segment {
    kvm_segment {
        base: s.base,
        limit: s.limit,
        selector: s.selector,
        type_: s.kind,
        present: s.present.into(),
        dpl: s.dpl,
        db: s.db.into(),
        s: s.s.into(),
        l: s.l.into(),
        g: s.g.into(),
        avl: s.avl.into(),
        unusable: s.unusable.into(),
        padding: 0,
    }
}

pub(crate) fn sregs_from_kvm(s: &kvm_sregs) -> Sregs {
    let table = |t: &kvm_dtable| DescriptorTable { base: t.base, limit: t.limit };
    Sregs {
        cs: segment_from_kvm(&s.cs),
        ds: segment_from_kvm(&s.ds),
        es: segment_from_kvm(&s.es),
        fs: segment_from_kvm(&s.fs),
        gs: segment_from_kvm(&s.gs),
        ss: segment_from_kvm(&s.ss),
        tr: segment_from_kvm(&s.tr),
        ldt: segment_from_kvm(&s.ldt),
        gdt: table(&s.gdt),
        idt: table(&s.idt),
        cr0: s.cr0,
        cr2: s.cr2,
        cr3: s.cr3,
        cr4: s.cr4,
        cr8: s.cr8,
        efer: s.efer,
        apic_base: s.apic_base,
    }
}

/// What our struct does not hold (pending interrupts) is left as it is in `old`.
pub(crate) fn sregs_to_kvm(s: &Sregs, old: kvm_sregs) -> kvm_sregs {
    let table = |t: &DescriptorTable| kvm_dtable { base: t.base, limit: t.limit, padding: [0; 3] };
    kvm_sregs {
        cs: segment_to_kvm(&s.cs),
        ds: segment_to_kvm(&s.ds),
        es: segment_to_kvm(&s.es),
        fs: segment_to_kvm(&s.fs),
        gs: segment_to_kvm(&s.gs),
        ss: segment_to_kvm(&s.ss),
        tr: segment_to_kvm(&s.tr),
        ldt: segment_to_kvm(&s.ldt),
        gdt: table(&s.gdt),
        idt: table(&s.idt),
        cr0: s.cr0,
        cr2: s.cr2,
        cr3: s.cr3,
        cr4: s.cr4,
        cr8: s.cr8,
        efer: s.efer,
        apic_base: s.apic_base,
        interrupt_bitmap: old.interrupt_bitmap,
    }
}

pub(crate) fn cpuid_from_kvm(cpuid: &CpuId) -> Cpuid {
    let entry = |e: &kvm_cpuid_entry2| CpuidEntry {
        leaf: e.function,
        subleaf: (e.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX != 0).then_some(e.index),
        eax: e.eax,
        ebx: e.ebx,
        ecx: e.ecx,
        edx: e.edx,
    };
    Cpuid(cpuid.as_slice().iter().map(entry).collect())
}

pub(crate) fn cpuid_to_kvm(cpuid: &Cpuid) -> Result<CpuId, Error> {
    let entry = |e: &CpuidEntry| kvm_cpuid_entry2 {
        function: e.leaf,
        index: e.subleaf.unwrap_or(0),
        flags: if e.subleaf.is_some() { KVM_CPUID_FLAG_SIGNIFCANT_INDEX } else { 0 },
        eax: e.eax,
        ebx: e.ebx,
        ecx: e.ecx,
        edx: e.edx,
        ..Default::default()
    };
    let entries: Vec<_> = cpuid.0.iter().map(entry).collect();
    CpuId::from_entries(&entries).map_err(|e| Error::Invalid {
        attempt: format!("set CPUID of {} entries", entries.len()),
        why: format!("{e:?}"),
    })
}
