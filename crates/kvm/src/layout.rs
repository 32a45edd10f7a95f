//! Layouts of Linux that are saved as they are (`arch/x86/include/uapi/asm/kvm.h`). Should a later version of the bindings have others, the
//! build breaks here, and not the restore of an older snapshot on somebody's machine.

use kvm_bindings::{
    kvm_debugregs, kvm_dtable, kvm_irqchip, kvm_lapic_state, kvm_mp_state, kvm_pit_channel_state,
    kvm_pit_state2, kvm_regs, kvm_segment, kvm_sregs, kvm_vcpu_events, kvm_xcr, kvm_xcrs,
};
use std::mem::offset_of;

const _: () = {
    assert!(size_of::<kvm_mp_state>() == 4);
    assert!(size_of::<kvm_regs>() == 144 && offset_of!(kvm_regs, rip) == 128);
    assert!(size_of::<kvm_segment>() == 24 && size_of::<kvm_dtable>() == 16);
    assert!(size_of::<kvm_sregs>() == 312 && offset_of!(kvm_sregs, interrupt_bitmap) == 280);
    assert!(size_of::<kvm_xcr>() == 16 && size_of::<kvm_xcrs>() == 392 && offset_of!(kvm_xcrs, xcrs) == 8);
    assert!(size_of::<kvm_debugregs>() == 128 && offset_of!(kvm_debugregs, dr7) == 40);
    assert!(size_of::<kvm_lapic_state>() == 1024);
    assert!(size_of::<kvm_vcpu_events>() == 64 && offset_of!(kvm_vcpu_events, sipi_vector) == 16);
    assert!(size_of::<kvm_irqchip>() == 520 && offset_of!(kvm_irqchip, chip) == 8);
    assert!(size_of::<kvm_pit_channel_state>() == 24 && size_of::<kvm_pit_state2>() == 112);
};
