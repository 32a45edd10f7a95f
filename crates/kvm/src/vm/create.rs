use super::{
    Shared, TSC_DEADLINE, deferred::Deferred, msr_filter, rings::Rings, routes::Routes, slots::Slots,
};
use crate::error::{call, invalid};
use drystone_hypervisor::{Error, InterruptControllers, VmConfig};
use drystone_memory::Layout;
use kvm_bindings::{
    KVM_CAP_HALT_POLL, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_PIT_SPEAKER_DUMMY, kvm_enable_cap,
    kvm_irqchip, kvm_pit_config,
};
use kvm_ioctls::{Cap, VmFd};
use std::sync::Mutex;
use std::time::Duration;

/// Inputs of an I/O APIC: this many interrupt numbers are kept free for one in the VMM.
pub(super) const IOAPIC_PINS: u32 = 24;

/// Makes a VM. Everything in here must come before its first vCPU.
pub(super) fn create(kvm: &kvm_ioctls::Kvm, config: &VmConfig) -> Result<Shared, Error> {
    if config.pit && config.interrupts != InterruptControllers::Full {
        return Err(invalid("create a VM", "its timer needs all of its interrupt controllers"));
    }
    let fd = create_fd(kvm)?;
    // Intel processors without "unrestricted guest" borrow these pages for real mode; others ignore them.
    let tss = Layout::KVM_RESERVED.start;
    let identity_map = Layout::KVM_RESERVED.end - 0x1000;
    if fd.check_extension(Cap::SetIdentityMapAddr) {
        fd.set_identity_map_address(identity_map)
            .map_err(call(|| format!("place KVM's identity map at {identity_map:#x}")))?;
    }
    fd.set_tss_address(tss as usize)
        .map_err(call(|| format!("place KVM's task state segment at {tss:#x}")))?;
    match config.interrupts {
        InterruptControllers::None => {}
        InterruptControllers::Split => create_local_apics(&fd)?,
        InterruptControllers::Full => create_interrupt_controllers(&fd, config)?,
    }
    msr_filter::install(&fd, &config.msrs)?;
    let rings = Rings::enable(&fd, config.dirty)?;
    if let Some(limit) = config.halt_poll {
        limit_halt_polling(&fd, limit)?;
    }
    let msrs = kvm.get_msr_index_list().map_err(call(|| "list the host's MSRs"))?;
    // Older kernels do not list it.
    let mut msr_list = msrs.as_slice().to_vec();
    if !msr_list.contains(&TSC_DEADLINE) {
        msr_list.push(TSC_DEADLINE);
    }
    Ok(Shared {
        xsave_size: usize::try_from(fd.check_extension_int(Cap::Xsave2)).ok().filter(|&n| n > 0),
        routes: Routes::new(config.interrupts, fd.check_extension_int(Cap::IrqRouting)),
        fd,
        rings,
        deferred: Deferred::default(),
        slots: Slots::new(kvm.get_nr_memslots()),
        config: config.clone(),
        passage: Mutex::default(),
        msr_list,
    })
}

/// Making a VM takes the host a while, and gives up when a signal comes: that is no reason to fail.
fn create_fd(kvm: &kvm_ioctls::Kvm) -> Result<VmFd, Error> {
    loop {
        match kvm.create_vm() {
            Err(e) if e.errno() == libc::EINTR => {}
            done => return done.map_err(call(|| "create a VM")),
        }
    }
}

/// [`Error::Missing`] unless the host has all of these.
pub(super) fn require(fd: &VmFd, caps: &[Cap], what: &str) -> Result<(), Error> {
    if caps.iter().all(|&cap| fd.check_extension(cap)) {
        return Ok(());
    }
    Err(Error::Missing { what: what.into() })
}

fn limit_halt_polling(fd: &VmFd, limit: Duration) -> Result<(), Error> {
    let attempt = || format!("limit halt polling to {limit:?}");
    if fd.check_extension_raw(KVM_CAP_HALT_POLL.into()) <= 0 {
        return Err(Error::Missing { what: "limit of halt polling (KVM_CAP_HALT_POLL)".into() });
    }
    let nanoseconds = u32::try_from(limit.as_nanos()).map_err(|_| invalid(attempt(), "it is too long"))?;
    let cap =
        kvm_enable_cap { cap: KVM_CAP_HALT_POLL, args: [nanoseconds.into(), 0, 0, 0], ..Default::default() };
    fd.enable_cap(&cap).map_err(call(attempt))
}

fn create_local_apics(fd: &VmFd) -> Result<(), Error> {
    let what = "local APICs without the other interrupt controllers (KVM_CAP_SPLIT_IRQCHIP, KVM_CAP_IRQFD)";
    require(fd, &[Cap::SplitIrqchip, Cap::Irqfd], what)?;
    let cap = kvm_enable_cap {
        cap: kvm_bindings::KVM_CAP_SPLIT_IRQCHIP,
        args: [IOAPIC_PINS.into(), 0, 0, 0],
        ..Default::default()
    };
    fd.enable_cap(&cap).map_err(call(|| "create the local APICs"))
}

fn create_interrupt_controllers(fd: &VmFd, config: &VmConfig) -> Result<(), Error> {
    let what = "interrupt controllers (KVM_CAP_IRQCHIP, KVM_CAP_IRQFD)";
    require(fd, &[Cap::Irqchip, Cap::Irqfd], what)?;
    fd.create_irq_chip().map_err(call(|| "create the interrupt controllers"))?;
    [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE].iter().try_for_each(|&pic| mask_pic(fd, pic))?;
    if !config.pit {
        return Ok(());
    }
    require(fd, &[Cap::Pit2], "timer (KVM_CAP_PIT2)")?;
    // The dummy answers port 0x61 inside KVM: Linux polls it to calibrate its clocks.
    let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
    fd.create_pit2(pit).map_err(call(|| "create the timer"))
}

/// Masks all inputs of a PIC, as firmware leaves it. KVM's begins unmasked, with vectors from 0 on, and the first local APIC passes
/// on what it says: a line that is raised before the guest has set it up would be an exception out of nothing. A guest that uses
/// it initialises it (ICW1 to ICW4), and that unmasks it (Intel 8259A data sheet).
fn mask_pic(fd: &VmFd, chip_id: u32) -> Result<(), Error> {
    let mut chip = kvm_irqchip { chip_id, ..Default::default() };
    fd.get_irqchip(&mut chip).map_err(call(|| format!("read interrupt controller {chip_id}")))?;
    // SAFETY: KVM filled in this member for these controllers, and any bits are valid in it.
    unsafe { &mut chip.chip.pic }.imr = 0xff;
    fd.set_irqchip(&chip).map_err(call(|| format!("mask interrupt controller {chip_id}")))
}
