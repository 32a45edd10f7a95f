//! Between this workspace's register structs and KVM's (kernel document virt/kvm/api).

use drystone_hypervisor::{Cpuid, CpuidEntry, DescriptorTable, Regs, Segment, Sregs};
use kvm_bindings::{
    KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2, kvm_dtable, kvm_regs, kvm_segment, kvm_sregs,
};

macro_rules! copy_fields {
    ($to:ident from $from:ident: $($field:ident)*) => { $to { $($field: $from.$field),* } };
}

pub(crate) fn regs_from(r: &kvm_regs) -> Regs {
    copy_fields!(Regs from r: rax rbx rcx rdx rsi rdi rsp rbp r8 r9 r10 r11 r12 r13 r14 r15 rip rflags)
}

pub(crate) fn regs_to(r: &Regs) -> kvm_regs {
    copy_fields!(kvm_regs from r: rax rbx rcx rdx rsi rdi rsp rbp r8 r9 r10 r11 r12 r13 r14 r15 rip rflags)
}

fn segment_from(s: &kvm_segment) -> Segment {
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

fn segment_to(s: &Segment) -> kvm_segment {
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

fn table_from(t: &kvm_dtable) -> DescriptorTable {
    DescriptorTable { base: t.base, limit: t.limit }
}

fn table_to(t: &DescriptorTable) -> kvm_dtable {
    kvm_dtable { base: t.base, limit: t.limit, padding: [0; 3] }
}

macro_rules! convert_sregs {
    ($to:ident from $from:ident, $segment:ident, $table:ident $(, $more:ident)*) => {
        $to {
            cs: $segment(&$from.cs),
            ds: $segment(&$from.ds),
            es: $segment(&$from.es),
            fs: $segment(&$from.fs),
            gs: $segment(&$from.gs),
            ss: $segment(&$from.ss),
            tr: $segment(&$from.tr),
            ldt: $segment(&$from.ldt),
            gdt: $table(&$from.gdt),
            idt: $table(&$from.idt),
            cr0: $from.cr0,
            cr2: $from.cr2,
            cr3: $from.cr3,
            cr4: $from.cr4,
            cr8: $from.cr8,
            efer: $from.efer,
            apic_base: $from.apic_base,
            $($more,)*
        }
    };
}

pub(crate) fn sregs_from(s: &kvm_sregs) -> Sregs {
    convert_sregs!(Sregs from s, segment_from, table_from)
}

/// `interrupt_bitmap` (an interrupt on its way in) has no place in [`Sregs`]: it stays as it is.
pub(crate) fn sregs_to(s: &Sregs, interrupt_bitmap: [u64; 4]) -> kvm_sregs {
    convert_sregs!(kvm_sregs from s, segment_to, table_to, interrupt_bitmap)
}

pub(crate) fn cpuid_from(entries: &[kvm_cpuid_entry2]) -> Cpuid {
    let entry = |e: &kvm_cpuid_entry2| CpuidEntry {
        leaf: e.function,
        subleaf: (e.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX != 0).then_some(e.index),
        eax: e.eax,
        ebx: e.ebx,
        ecx: e.ecx,
        edx: e.edx,
    };
    Cpuid(entries.iter().map(entry).collect())
}

pub(crate) fn cpuid_to(cpuid: &Cpuid) -> Vec<kvm_cpuid_entry2> {
    let entry = |e: &CpuidEntry| kvm_cpuid_entry2 {
        function: e.leaf,
        index: e.subleaf.unwrap_or(0),
        flags: if e.subleaf.is_some() { KVM_CPUID_FLAG_SIGNIFCANT_INDEX } else { 0 },
        eax: e.eax,
        ebx: e.ebx,
        ecx: e.ecx,
        edx: e.edx,
        padding: [0; 3],
    };
    cpuid.0.iter().map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every field differs from its neighbours, so that two that are swapped are noticed.
    #[test]
    fn registers_survive_the_way_there_and_back() {
        let mut n = 0;
        let mut next = || {
            n += 1;
            n
        };
        let regs = Regs {
            rax: next(),
            rbx: next(),
            rcx: next(),
            rdx: next(),
            rsi: next(),
            rdi: next(),
            rsp: next(),
            rbp: next(),
            r8: next(),
            r15: next(),
            rip: next(),
            rflags: next(),
            ..Regs::default()
        };
        assert_eq!(regs_from(&regs_to(&regs)), regs);

        let mut segment = || Segment {
            base: next(),
            limit: next() as u32,
            selector: next() as u16,
            kind: 11,
            present: true,
            dpl: 3,
            l: true,
            avl: true,
            ..Segment::default()
        };
        let (cs, ss, tr) = (segment(), segment(), segment());
        let gdt = DescriptorTable { base: 77, limit: 78 };
        let sregs = Sregs {
            cs,
            ss,
            tr,
            gdt,
            cr0: 1,
            cr2: 2,
            cr3: 3,
            cr4: 4,
            cr8: 5,
            efer: 6,
            apic_base: 7,
            ..Sregs::default()
        };
        let kvm = sregs_to(&sregs, [1, 2, 3, 4]);
        assert_eq!((sregs_from(&kvm), kvm.interrupt_bitmap), (sregs, [1, 2, 3, 4]));
        assert_eq!((kvm.cs.type_, kvm.cs.s, kvm.cs.l, kvm.cs.g), (11, 0, 1, 0));
    }

    #[test]
    fn a_leaf_keeps_whether_its_subleaf_matters() {
        let entry = |subleaf| CpuidEntry { leaf: 7, subleaf, eax: 1, ebx: 2, ecx: 3, edx: 4 };
        let cpuid = Cpuid(vec![entry(None), entry(Some(0)), entry(Some(2))]);
        assert_eq!(cpuid_from(&cpuid_to(&cpuid)), cpuid);
    }
}
