use super::{DATA, FLAT, TSS as TSS_64, firmware_msrs, map};
use crate::BootState;
use drystone_hypervisor::{DescriptorTable, Error, Regs, Segment, Sregs, Vcpu};

/// 32-bit code, execute and read, accessed.
pub(super) const CODE: Segment = Segment { selector: 0x30, kind: 0xb, db: true, ..FLAT };
/// A busy 32-bit TSS, of the length that the protocol asks for.
pub(super) const TSS: Segment = Segment { selector: 0x38, limit: 0x67, ..TSS_64 };

/// General registers at a PVH entry point: EBX holds `start_info`, everything else that the protocol leaves open is zero.
pub fn pvh_regs(entry: u64, start_info: u64) -> Regs {
    const ALWAYS_SET: u64 = 1 << 1;
    Regs { rip: entry, rbx: start_info, rflags: ALWAYS_SET, ..Regs::default() }
}

/// Protected mode without paging, on the GDT of [`write_tables`](super::write_tables). `reset` are the registers of a
/// vCPU as it was made; only the local APIC's base address is taken over.
pub fn protected_mode_sregs(reset: &Sregs) -> Sregs {
    const CR0_PE: u64 = 1;
    const CR0_ET: u64 = 1 << 4;
    Sregs {
        cs: CODE,
        ds: DATA,
        es: DATA,
        fs: DATA,
        gs: DATA,
        ss: DATA,
        tr: TSS,
        ldt: Segment { unusable: true, ..Segment::default() },
        gdt: DescriptorTable { base: map::GDT, limit: map::GDT_LEN - 1 },
        idt: DescriptorTable::default(),
        cr0: CR0_PE | CR0_ET,
        cr2: 0,
        cr3: 0,
        cr4: 0,
        cr8: 0,
        efer: 0,
        apic_base: reset.apic_base,
    }
}

/// Starts a kernel at its PVH entry point on vCPU 0, the boot processor. The others get firmware's model-specific
/// registers and nothing else: they wait for the start-up interrupt that the kernel sends them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PvhBoot {
    /// Guest-physical address of the entry point.
    pub entry: u64,
    /// Guest-physical address of `hvm_start_info`, below 4 GiB.
    pub start_info: u64,
}

impl PvhBoot {
    /// With the start info where the boot parameters would be, at [`map::ZERO_PAGE`].
    pub fn new(entry: u64) -> Self {
        Self { entry, start_info: map::ZERO_PAGE }
    }
}

impl BootState for PvhBoot {
    fn apply(&self, vcpu: &mut dyn Vcpu) -> Result<(), Error> {
        vcpu.set_msrs(&firmware_msrs())?;
        if vcpu.id() != 0 {
            return Ok(());
        }
        let sregs = protected_mode_sregs(&vcpu.sregs()?);
        vcpu.set_sregs(&sregs)?;
        vcpu.set_regs(&pvh_regs(self.entry, self.start_info))
    }
}
