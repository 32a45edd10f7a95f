use super::{Shared, must_succeed};
use crate::error::{call, invalid};
use drystone_hypervisor::{Datamatch, Error, Guard, IoAddress};
use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use std::sync::Arc;
use vmm_sys_util::errno;
use vmm_sys_util::eventfd::EventFd;

pub(super) fn register_irqfd(shared: &Arc<Shared>, event: &EventFd, gsi: u32) -> Result<Guard, Error> {
    let attempt = || format!("wire an event to interrupt {gsi}");
    shared.needs_lines(attempt)?;
    // A copy of the descriptor, to unregister with: KVM compares the eventfd behind it, and the caller's may be
    // closed by then.
    let event = event.try_clone().map_err(|cause| Error::Call { attempt: attempt(), cause })?;
    shared.fd.register_irqfd(&event, gsi).map_err(call(attempt))?;
    let shared = shared.clone();
    Ok(Guard::new(move || must_succeed(shared.fd.unregister_irqfd(&event, gsi), "unregister an irqfd")))
}

pub(super) fn register_ioeventfd(
    shared: &Arc<Shared>,
    event: &EventFd,
    addr: IoAddress,
    datamatch: Option<Datamatch>,
) -> Result<Guard, Error> {
    let attempt = || match addr {
        IoAddress::Pio(port) => format!("register a doorbell at port {port:#x}"),
        IoAddress::Mmio(addr) => format!("register a doorbell at {addr:#x}"),
    };
    if let Some(Datamatch { len, value }) = datamatch {
        let fits = match len {
            1 | 2 | 4 => value >> (len * 8) == 0,
            8 => true,
            _ => return Err(invalid(attempt(), "its width is not 1, 2, 4 or 8 bytes")),
        };
        if !fits {
            return Err(invalid(attempt(), format!("{value:#x} does not fit into {len} bytes")));
        }
    }
    let event = event.try_clone().map_err(|cause| Error::Call { attempt: attempt(), cause })?;
    ioeventfd(&shared.fd, &event, addr, datamatch, true).map_err(call(attempt))?;
    let shared = shared.clone();
    Ok(Guard::new(move || {
        must_succeed(ioeventfd(&shared.fd, &event, addr, datamatch, false), "unregister an ioeventfd");
    }))
}

/// Registers or unregisters. The type of the value is how kvm-ioctls learns the width.
fn ioeventfd(
    fd: &VmFd,
    event: &EventFd,
    addr: IoAddress,
    datamatch: Option<Datamatch>,
    register: bool,
) -> Result<(), errno::Error> {
    fn with<T: Into<u64>>(
        fd: &VmFd,
        event: &EventFd,
        addr: IoEventAddress,
        value: T,
        register: bool,
    ) -> Result<(), errno::Error> {
        if register {
            fd.register_ioevent(event, &addr, value)
        } else {
            fd.unregister_ioevent(event, &addr, value)
        }
    }
    let addr = match addr {
        IoAddress::Pio(port) => IoEventAddress::Pio(port.into()),
        IoAddress::Mmio(addr) => IoEventAddress::Mmio(addr),
    };
    // The casts cut nothing off: the caller checked.
    match datamatch {
        None => with(fd, event, addr, NoDatamatch, register),
        Some(Datamatch { value, len: 1 }) => with(fd, event, addr, value as u8, register),
        Some(Datamatch { value, len: 2 }) => with(fd, event, addr, value as u16, register),
        Some(Datamatch { value, len: 4 }) => with(fd, event, addr, value as u32, register),
        Some(Datamatch { value, .. }) => with(fd, event, addr, value, register),
    }
}
