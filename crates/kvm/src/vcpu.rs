use crate::context::{self, InternalError};
use crate::convert;
use crate::kick::Latch;
use crate::state;
use crate::vm::{Inner, call};
use drystone_hypervisor::{Cpuid, Error, Exit, IoHandler, Kicker, Msr, Regs, RunError, Sregs, Vcpu};
use drystone_state::Blob;
use kvm_bindings::{
    KVM_EXIT_IO_OUT, KVM_INTERNAL_ERROR_EMULATION, KVM_MAX_CPUID_ENTRIES, Msrs, kvm_msr_entry,
};
use kvm_ioctls::{VcpuExit, VcpuFd};
use std::io;
use std::sync::Arc;

pub(crate) struct KvmVcpu {
    fd: VcpuFd,
    id: u32,
    latch: Arc<Latch>,
    vm: Arc<Inner>,
}

impl KvmVcpu {
    pub(crate) fn new(mut fd: VcpuFd, id: u32, vm: Arc<Inner>) -> Result<Self, Error> {
        let flag = &raw mut fd.get_kvm_run().immediate_exit;
        // SAFETY: the page is mapped as long as `fd` lives, and moving `fd` does not move it; `drop` closes the latch
        // before `fd` goes; nothing else in this crate accesses the field.
        let latch = unsafe { Latch::new(flag) };
        Ok(Self { fd, id, latch, vm })
    }

    fn failed(&mut self, error: InternalError) -> RunError {
        let (id, context) = (self.id, Box::new(context::read(&self.fd, &self.vm.slots, Some(&error))));
        let InternalError { suberror, data, .. } = error;
        if suberror == KVM_INTERNAL_ERROR_EMULATION {
            return RunError::Emulation { id, context };
        }
        RunError::Internal { id, suberror, data, context }
    }
}

impl Drop for KvmVcpu {
    fn drop(&mut self) {
        self.latch.close();
    }
}

impl Vcpu for KvmVcpu {
    fn id(&self) -> u32 {
        self.id
    }

    fn run(&mut self, io: &mut dyn IoHandler) -> Result<Exit, RunError> {
        let id = self.id;
        loop {
            let in_run = self.latch.enter();
            let result = self.fd.run();
            drop(in_run);
            let unexpected = |what: String| Err(RunError::Unexpected { id, what });
            return match result {
                Ok(VcpuExit::IoIn(..) | VcpuExit::IoOut(..)) => {
                    string_io(&mut self.fd, io);
                    Ok(Exit::Io)
                }
                Ok(VcpuExit::MmioRead(addr, data)) => {
                    io.mmio_read(addr, data);
                    Ok(Exit::Io)
                }
                Ok(VcpuExit::MmioWrite(addr, data)) => {
                    io.mmio_write(addr, data);
                    Ok(Exit::Io)
                }
                Ok(VcpuExit::Hlt) => Ok(Exit::Halted),
                Ok(VcpuExit::Shutdown) => Ok(Exit::Shutdown),
                Ok(VcpuExit::Debug(_)) => Ok(Exit::Debug),
                Ok(VcpuExit::InternalError) => {
                    let error = InternalError::read(self.fd.get_kvm_run());
                    Err(self.failed(error))
                }
                Ok(VcpuExit::FailEntry(reason, _)) => {
                    let context = Box::new(context::read(&self.fd, &self.vm.slots, None));
                    Err(RunError::FailedEntry { id, reason, context })
                }
                // The guest asked for something between exits that needs no answer.
                Ok(VcpuExit::Intr | VcpuExit::IrqWindowOpen | VcpuExit::SetTpr) => continue,
                Ok(other) => unexpected(format!("{other:?}")),
                Err(e) if e.errno() == libc::EINTR => {
                    self.latch.consume();
                    Ok(Exit::Interrupted)
                }
                // A secondary CPU that has just been started (SIPI), or a page that is on its way: run again.
                Err(e) if e.errno() == libc::EAGAIN => continue,
                Err(e) => Err(RunError::Call { id, cause: io::Error::from(e) }),
            };
        }
    }

    fn kicker(&self) -> Arc<dyn Kicker> {
        self.latch.clone()
    }

    fn regs(&self) -> Result<Regs, Error> {
        let attempt = || format!("read the registers of vCPU {}", self.id);
        self.fd.get_regs().map(|r| convert::regs_from_kvm(&r)).map_err(|e| call(attempt())(e))
    }
    fn set_regs(&mut self, regs: &Regs) -> Result<(), Error> {
        let attempt = format!("set the registers of vCPU {}", self.id);
        self.fd.set_regs(&convert::regs_to_kvm(regs)).map_err(call(attempt))
    }
    fn sregs(&self) -> Result<Sregs, Error> {
        let attempt = format!("read the segment registers of vCPU {}", self.id);
        self.fd.get_sregs().map(|s| convert::sregs_from_kvm(&s)).map_err(call(attempt))
    }
    fn set_sregs(&mut self, sregs: &Sregs) -> Result<(), Error> {
        let attempt = || format!("set the segment registers of vCPU {}", self.id);
        let old = self.fd.get_sregs().map_err(|e| call(attempt())(e))?;
        self.fd.set_sregs(&convert::sregs_to_kvm(sregs, old)).map_err(|e| call(attempt())(e))
    }
    fn cpuid(&self) -> Result<Cpuid, Error> {
        let attempt = format!("read the CPUID of vCPU {}", self.id);
        let cpuid = self.fd.get_cpuid2(KVM_MAX_CPUID_ENTRIES).map_err(call(attempt))?;
        Ok(convert::cpuid_from_kvm(&cpuid))
    }
    fn set_cpuid(&mut self, cpuid: &Cpuid) -> Result<(), Error> {
        let attempt = format!("set the CPUID of vCPU {}", self.id);
        self.fd.set_cpuid2(&convert::cpuid_to_kvm(cpuid)?).map_err(call(attempt))
    }

    fn msrs(&self, indices: &[u32]) -> Result<Vec<Msr>, Error> {
        let mut values = Vec::with_capacity(indices.len());
        for index in indices {
            let mut list = msr_list(&[Msr { index: *index, value: 0 }], "read")?;
            let attempt = || format!("read MSR {index:#x} of vCPU {}", self.id);
            let read = self.fd.get_msrs(&mut list).map_err(|e| call(attempt())(e))?;
            let entry = list.as_slice().first().filter(|_| read == 1);
            let why = "this host has no such register".into();
            let entry = entry.ok_or(Error::Invalid { attempt: attempt(), why })?;
            values.push(Msr { index: *index, value: entry.data });
        }
        Ok(values)
    }

    fn set_msrs(&mut self, msrs: &[Msr]) -> Result<(), Error> {
        for msr in msrs {
            let list = msr_list(std::slice::from_ref(msr), "set")?;
            let attempt = || format!("set MSR {:#x} of vCPU {} to {:#x}", msr.index, self.id, msr.value);
            if self.fd.set_msrs(&list).map_err(|e| call(attempt())(e))? != 1 {
                return Err(Error::Invalid { attempt: attempt(), why: "the host refuses it".into() });
            }
        }
        Ok(())
    }

    fn save(&self) -> Result<Blob, Error> {
        state::save_vcpu(&self.fd, self.id, &self.vm)
    }
    fn restore(&mut self, blob: &Blob) -> Result<(), Error> {
        state::restore_vcpu(&self.fd, self.id, &self.vm, blob)
    }
}

fn msr_list(msrs: &[Msr], verb: &str) -> Result<Msrs, Error> {
    let entries: Vec<_> =
        msrs.iter().map(|m| kvm_msr_entry { index: m.index, data: m.value, ..Default::default() }).collect();
    Msrs::from_entries(&entries).map_err(|e| Error::Invalid {
        attempt: format!("{verb} {} MSRs", entries.len()),
        why: format!("{e:?}"),
    })
}

/// Hands a port access to `io`, one element at a time: INS and OUTS with a REP prefix arrive as many at once, and
/// kvm-ioctls' exit shows neither their width nor their number.
fn string_io(fd: &mut VcpuFd, io: &mut dyn IoHandler) {
    let run: *mut kvm_bindings::kvm_run = fd.get_kvm_run();
    // SAFETY: the exit reason says that this variant of the union is in use; all variants are plain integers.
    let access = unsafe { (*run).__bindgen_anon_1.io };
    let (size, count) = (usize::from(access.size), access.count as usize);
    let offset = usize::try_from(access.data_offset).unwrap_or(0);
    // SAFETY: KVM put `count` elements of `size` bytes at this offset into the mapping that begins with kvm_run (KVM
    // API, 5); nobody else refers to them while `fd` is borrowed.
    let data = unsafe { std::slice::from_raw_parts_mut(run.cast::<u8>().add(offset), size * count) };
    for element in data.chunks_exact_mut(size.max(1)) {
        if u32::from(access.direction) == KVM_EXIT_IO_OUT {
            io.pio_write(access.port, element);
        } else {
            io.pio_read(access.port, element);
        }
    }
}
