use super::cpu::{GuestCpu, guest_thread};
use super::rendezvous::{Access, Rendezvous, State, Turn, Yield};
use super::vm::Shared;
use super::{FakeHypervisor, Op};
use crate::{
    Cpuid, DescriptorTable, Error, Exit, IoHandler, Kicker, Msr, Regs, RunError, Segment, Sregs, Vcpu,
};
use drystone_state::{Blob, Schema};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

/// The model-specific registers that a fake CPU has: those that a 64-bit Linux boot touches.
const MSRS: [u32; 19] = [
    0x10,
    0x1b,
    0x3a,
    0x174,
    0x175,
    0x176,
    0x1a0,
    0x277,
    0x2ff,
    0x6e0,
    0xc000_0080,
    0xc000_0081,
    0xc000_0082,
    0xc000_0083,
    0xc000_0084,
    0xc000_0100,
    0xc000_0101,
    0xc000_0102,
    0xc000_0103,
];

/// What is saved of a vCPU.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FakeVcpuState {
    regs: Regs,
    sregs: Sregs,
    msrs: Vec<Msr>,
    /// What the host could not save.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    unsaved: Vec<String>,
}

impl Schema for FakeVcpuState {
    const KIND: &'static str = "fake-vcpu";
    const VERSION: u32 = 1;
}

pub(super) struct FakeVcpu {
    id: u32,
    host: FakeHypervisor,
    vm: Arc<Shared>,
    meet: Arc<Rendezvous>,
    thread: Option<JoinHandle<()>>,
}

impl FakeVcpu {
    pub(super) fn new(id: u32, host: &FakeHypervisor, vm: Arc<Shared>) -> Self {
        let state = State {
            turn: Turn::Host,
            kicked: false,
            stop: false,
            yielded: None,
            answer: None,
            incomplete: false,
            has_run: false,
            told_stopped: false,
            steps: host.steps,
            regs: Regs { rip: 0xfff0, rflags: 2, ..Regs::default() },
            sregs: reset_sregs(id),
            cpuid: Cpuid::default(),
            msrs: MSRS.iter().map(|&i| (i, 0)).collect(),
            unsaved: Vec::new(),
        };
        let meet = Arc::new(Rendezvous { state: Mutex::new(state), changed: Condvar::new() });
        Self { id, host: host.clone(), vm, meet, thread: None }
    }

    pub(super) fn rendezvous(&self) -> &Arc<Rendezvous> {
        &self.meet
    }

    fn start_program(&mut self) -> io::Result<()> {
        let program = (self.host.factory)(self.id);
        let cpu = GuestCpu::new(self.id, self.meet.clone(), self.vm.clone(), self.host.recorder.clone());
        let name = format!("fake-vcpu{}", self.id);
        let thread = std::thread::Builder::new().name(name).spawn(move || guest_thread(cpu, program))?;
        self.thread = Some(thread);
        Ok(())
    }

    /// Unwinds the guest's thread, which waits for its turn, or has never had one.
    fn stop_program(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        self.meet.lock().stop = true;
        self.meet.changed.notify_all();
        let _ = thread.join();
    }

    fn invalid(&self, attempt: &str, why: String) -> Error {
        Error::Invalid { attempt: format!("{attempt} vCPU {}", self.id), why }
    }

    /// Hands an access to its handler and keeps the answer for the guest.
    fn serve(&self, access: Access, io: &mut dyn IoHandler) {
        let (answer, is_input) = match access {
            Access::In { port, width, mut data } => {
                for item in data.chunks_mut(width) {
                    io.pio_read(port, item);
                    self.host.recorder.push(self.id, Op::PioRead { port, data: item.to_vec() });
                }
                (data, true)
            }
            Access::Out { port, width, data } => {
                for item in data.chunks(width) {
                    io.pio_write(port, item);
                    self.host.recorder.push(self.id, Op::PioWrite { port, data: item.to_vec() });
                }
                (data, false)
            }
            Access::Load { addr, mut data } => {
                io.mmio_read(addr, &mut data);
                self.host.recorder.push(self.id, Op::MmioRead { addr, data: data.clone() });
                (data, true)
            }
            Access::Store { addr, data } => {
                io.mmio_write(addr, &data);
                self.host.recorder.push(self.id, Op::MmioWrite { addr, data: data.clone() });
                (data, false)
            }
            Access::ReadMsr { index } => {
                (io.rdmsr(index).map_or(vec![], |v| v.to_le_bytes().to_vec()), false)
            }
            Access::WriteMsr { index, value } => (vec![1; io.wrmsr(index, value).into()], false),
        };
        let mut state = self.meet.lock();
        state.answer = Some(answer);
        state.incomplete = is_input;
    }
}

/// As after a processor's reset (Intel SDM volume 3, table 11-1), in protected mode's shadow.
fn reset_sregs(id: u32) -> Sregs {
    let data = Segment { limit: 0xffff, kind: 3, present: true, s: true, ..Segment::default() };
    let system = |kind| Segment { s: false, kind, ..data };
    let table = DescriptorTable { base: 0, limit: 0xffff };
    Sregs {
        cs: Segment { base: 0xffff_0000, selector: 0xf000, kind: 0xb, ..data },
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        tr: system(0xb),
        ldt: system(2),
        gdt: table,
        idt: table,
        cr0: 0x6000_0010,
        apic_base: 0xfee0_0800 | if id == 0 { 0x100 } else { 0 },
        ..Sregs::default()
    }
}

struct FakeKicker(Arc<Rendezvous>);

impl Kicker for FakeKicker {
    fn kick(&self) {
        self.0.lock().kicked = true;
        self.0.changed.notify_all();
    }
}

impl Vcpu for FakeVcpu {
    fn id(&self) -> u32 {
        self.id
    }

    fn run(&mut self, io: &mut dyn IoHandler) -> Result<Exit, RunError> {
        {
            let mut state = self.meet.lock();
            state.complete();
            if std::mem::take(&mut state.kicked) {
                return Ok(Exit::Interrupted);
            }
            state.has_run = true;
        }
        if self.thread.is_none() {
            self.start_program().map_err(|cause| RunError::Call { id: self.id, cause })?;
        }
        let (mut state, _) = self.meet.hand_over(self.meet.lock(), Turn::Guest);
        let yielded = state.yielded.take();
        drop(state);
        self.vm.deferred.deliver(io);
        let unexpected = |what| Err(RunError::Unexpected { id: self.id, what });
        match yielded {
            Some(Yield::Exit(exit)) => Ok(exit),
            Some(Yield::Access(access)) => {
                self.serve(access, io);
                Ok(Exit::Io)
            }
            Some(Yield::Failed(why)) => unexpected(why),
            None => unexpected("the guest program gave up its turn for nothing".into()),
        }
    }

    fn kicker(&self) -> Arc<dyn Kicker> {
        Arc::new(FakeKicker(self.meet.clone()))
    }

    fn regs(&self) -> Result<Regs, Error> {
        Ok(self.meet.lock().regs)
    }
    fn set_regs(&mut self, regs: &Regs) -> Result<(), Error> {
        self.meet.lock().regs = *regs;
        Ok(())
    }
    fn sregs(&self) -> Result<Sregs, Error> {
        Ok(self.meet.lock().sregs)
    }
    fn set_sregs(&mut self, sregs: &Sregs) -> Result<(), Error> {
        self.meet.lock().sregs = *sregs;
        Ok(())
    }
    fn cpuid(&self) -> Result<Cpuid, Error> {
        Ok(self.meet.lock().cpuid.clone())
    }
    fn set_cpuid(&mut self, cpuid: &Cpuid) -> Result<(), Error> {
        let mut state = self.meet.lock();
        if state.has_run && state.cpuid != *cpuid {
            return Err(self.invalid("change the CPUID of", "it has run already".into()));
        }
        state.cpuid = cpuid.clone();
        Ok(())
    }
    fn msrs(&self, indices: &[u32]) -> Result<Vec<Msr>, Error> {
        let state = self.meet.lock();
        let read = |&index: &u32| {
            let value = state.msrs.get(&index).copied();
            let value =
                value.ok_or_else(|| self.invalid(&format!("read MSR {index:#x} of"), "it has none".into()));
            value.map(|value| Msr { index, value })
        };
        indices.iter().map(read).collect()
    }
    fn set_msrs(&mut self, msrs: &[Msr]) -> Result<(), Error> {
        let mut state = self.meet.lock();
        for msr in msrs {
            let Some(value) = state.msrs.get_mut(&msr.index) else {
                return Err(self.invalid(&format!("set MSR {:#x} of", msr.index), "it has none".into()));
            };
            *value = msr.value;
        }
        Ok(())
    }

    /// A fake vCPU never waits.
    fn start(&mut self) -> Result<(), Error> {
        Ok(())
    }

    fn notify_stopped(&mut self) -> Result<(), Error> {
        self.meet.lock().told_stopped = true;
        Ok(())
    }

    fn save(&self) -> Result<Blob, Error> {
        let mut state = self.meet.lock();
        state.unsaved.clone_from(&self.host.unsaved);
        let (msrs, unsaved) = (state.msr_list(), state.unsaved.clone());
        let saved = FakeVcpuState { regs: state.regs, sregs: state.sregs, msrs, unsaved };
        Blob::encode(&saved).map_err(|e| self.invalid("save", e.to_string()))
    }

    fn unsaved(&self) -> Vec<String> {
        self.meet.lock().unsaved.clone()
    }

    fn restore(&mut self, blob: &Blob) -> Result<(), Error> {
        let saved: FakeVcpuState = blob.decode().map_err(|e| self.invalid("restore", e.to_string()))?;
        let msrs: BTreeMap<u32, u64> = saved.msrs.iter().map(|m| (m.index, m.value)).collect();
        if let Some(index) = msrs.keys().find(|index| !MSRS.contains(index)) {
            return Err(self.invalid("restore", format!("there is no MSR {index:#x}")));
        }
        self.stop_program();
        let mut state = self.meet.lock();
        state.turn = Turn::Host;
        state.stop = false;
        state.yielded = None;
        state.answer = None;
        state.incomplete = false;
        state.steps = self.host.steps;
        state.regs = saved.regs;
        state.sregs = saved.sregs;
        state.msrs = msrs;
        state.unsaved = saved.unsaved;
        Ok(())
    }
}

impl Drop for FakeVcpu {
    fn drop(&mut self) {
        self.stop_program();
    }
}
