use super::rendezvous::{Access, Rendezvous, State, Turn, Unwind, Yield};
use super::vm::Shared;
use super::{Op, Program, Recorder};
use crate::{CpuidEntry, Exit, IoAddress, Regs, Sregs};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, MutexGuard};

mod interrupts;
mod msr;

/// The most bytes that one string instruction moves at a time.
const STRING_BYTES: usize = 4096;

/// There is no RAM where the guest looked for some.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{len} bytes at {addr:#x} are not all in the guest's RAM")]
pub struct Unmapped {
    /// The first guest-physical address.
    pub addr: u64,
    /// How many bytes were to be accessed.
    pub len: usize,
}

/// What a guest program has for a CPU: each method is one operation of the guest, and one of its budget of steps.
///
/// A kick stops the program between two operations, but never between what it does to its registers and the
/// operation that follows. When the vCPU is dropped or restored, whatever operation the program is in unwinds it: the
/// destructors of its variables run, and nothing is printed.
pub struct GuestCpu {
    id: u32,
    meet: Arc<Rendezvous>,
    vm: Arc<Shared>,
    recorder: Recorder,
}

impl GuestCpu {
    pub(super) fn new(id: u32, meet: Arc<Rendezvous>, vm: Arc<Shared>, recorder: Recorder) -> Self {
        Self { id, meet, vm, recorder }
    }

    /// The vCPU's number.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The general registers.
    pub fn regs(&self) -> Regs {
        self.meet.lock().regs
    }

    /// Changes the general registers. No kick comes between this and the next operation.
    pub fn set_regs(&mut self, change: impl FnOnce(&mut Regs)) {
        change(&mut self.meet.lock().regs);
    }

    /// Segment and control registers.
    pub fn sregs(&self) -> Sregs {
        self.meet.lock().sregs
    }

    /// CPUID: zeros for a leaf that does not exist.
    pub fn cpuid(&self, leaf: u32, subleaf: u32) -> CpuidEntry {
        self.meet.lock().cpuid.get(leaf, subleaf).copied().unwrap_or_default()
    }

    /// Does nothing, once: the body of a loop that waits.
    pub fn step(&mut self) {
        self.count_step();
        self.look_for_kick();
    }

    /// IN of `data.len()` bytes: 1, 2 or 4.
    pub fn pio_in(&mut self, port: u16, data: &mut [u8]) {
        self.check_width(data.len(), &[1, 2, 4]);
        self.rep_in(port, data.len(), data);
    }
    /// OUT of `data.len()` bytes: 1, 2 or 4. Rings a doorbell, if there is one.
    pub fn pio_out(&mut self, port: u16, data: &[u8]) {
        self.check_width(data.len(), &[1, 2, 4]);
        self.rep_out(port, data.len(), data);
    }
    /// IN of a byte.
    pub fn in8(&mut self, port: u16) -> u8 {
        let [byte] = self.input(port);
        byte
    }
    /// IN of two bytes.
    pub fn in16(&mut self, port: u16) -> u16 {
        u16::from_le_bytes(self.input(port))
    }
    /// IN of four bytes.
    pub fn in32(&mut self, port: u16) -> u32 {
        u32::from_le_bytes(self.input(port))
    }
    /// OUT of a byte.
    pub fn out8(&mut self, port: u16, value: u8) {
        self.pio_out(port, &[value]);
    }
    /// OUT of two bytes.
    pub fn out16(&mut self, port: u16, value: u16) {
        self.pio_out(port, &value.to_le_bytes());
    }
    /// OUT of four bytes.
    pub fn out32(&mut self, port: u16, value: u32) {
        self.pio_out(port, &value.to_le_bytes());
    }
    fn input<const N: usize>(&mut self, port: u16) -> [u8; N] {
        let mut data = [0; N];
        self.pio_in(port, &mut data);
        data
    }

    /// REP INS: fills `data` with inputs of `width` bytes (1, 2 or 4), up to 4096 bytes an exit.
    pub fn rep_in(&mut self, port: u16, width: usize, data: &mut [u8]) {
        self.check_string(width, data.len());
        for part in data.chunks_mut(STRING_BYTES) {
            self.count_step();
            let answer = self.access(Access::In { port, width, data: vec![0; part.len()] });
            part.iter_mut().zip(answer).for_each(|(to, from)| *to = from);
        }
    }

    /// REP OUTS: outputs `data` in items of `width` bytes (1, 2 or 4), up to 4096 bytes an exit.
    pub fn rep_out(&mut self, port: u16, width: usize, data: &[u8]) {
        self.check_string(width, data.len());
        for part in data.chunks(STRING_BYTES) {
            self.count_step();
            if part.len() == width && self.rang(IoAddress::Pio(port), part) {
                continue;
            }
            if self.vm.deferred.take(port, width, part) {
                for item in part.chunks(width) {
                    self.recorder.push(self.id, Op::PioWrite { port, data: item.to_vec() });
                }
                self.look_for_kick();
                continue;
            }
            self.access(Access::Out { port, width, data: part.to_vec() });
        }
    }

    /// A load of 1 to 8 bytes: from RAM without an exit, from elsewhere as one access that exits.
    pub fn mmio_read(&mut self, addr: u64, data: &mut [u8]) {
        self.check_width(data.len(), &[1, 2, 3, 4, 5, 6, 7, 8]);
        if self.ram_read(addr, data).is_err() {
            let answer = self.access(Access::Load { addr, data: vec![0; data.len()] });
            data.iter_mut().zip(answer).for_each(|(to, from)| *to = from);
        }
    }

    /// A store of 1 to 8 bytes: to RAM without an exit, elsewhere (also to read-only memory) as one access that rings
    /// a doorbell or exits.
    pub fn mmio_write(&mut self, addr: u64, data: &[u8]) {
        self.check_width(data.len(), &[1, 2, 3, 4, 5, 6, 7, 8]);
        if self.ram_write(addr, data).is_err() && !self.rang(IoAddress::Mmio(addr), data) {
            self.access(Access::Store { addr, data: data.to_vec() });
        }
    }

    /// Copies bytes out of RAM.
    ///
    /// # Errors
    /// [`Unmapped`], with `data` unspecified, unless all of them are in RAM.
    pub fn ram_read(&mut self, addr: u64, data: &mut [u8]) -> Result<(), Unmapped> {
        self.count_step();
        let (len, mut at) = (data.len(), 0);
        while let Some(rest) = data.get_mut(at..).filter(|r| !r.is_empty()) {
            match self.vm.slots.read(addr.wrapping_add(at as u64), rest) {
                0 => return Err(Unmapped { addr, len }),
                done => at += done,
            }
        }
        self.recorder.push(self.id, Op::RamRead { addr, len });
        self.look_for_kick();
        Ok(())
    }

    /// Copies bytes into RAM.
    ///
    /// # Errors
    /// [`Unmapped`], after a part may have been written, unless all of it is RAM that the guest may write.
    pub fn ram_write(&mut self, addr: u64, data: &[u8]) -> Result<(), Unmapped> {
        self.count_step();
        let (len, mut at) = (data.len(), 0);
        while let Some(rest) = data.get(at..).filter(|r| !r.is_empty()) {
            match self.vm.slots.write(addr.wrapping_add(at as u64), rest) {
                0 => return Err(Unmapped { addr, len }),
                done => at += done,
            }
        }
        self.recorder.push(self.id, Op::RamWrite { addr, len });
        self.look_for_kick();
        Ok(())
    }

    /// HLT. Returns when an interrupt is pending, in a VM that has interrupt controllers; exits in one that has none,
    /// and returns when the vCPU runs again.
    pub fn halt(&mut self) {
        self.count_step();
        self.recorder.push(self.id, Op::Halt);
        self.sleep(true);
    }

    /// Triple fault: every run from now on gives [`Exit::Shutdown`].
    pub fn shutdown(&mut self) -> ! {
        self.recorder.push(self.id, Op::Shutdown);
        loop {
            self.give_up_turn(Yield::Exit(Exit::Shutdown));
        }
    }

    /// Fails the vCPU: every run from now on gives an error that says `why`.
    pub fn fail(&mut self, why: &str) -> ! {
        self.recorder.push(self.id, Op::Failed { why: why.into() });
        loop {
            self.give_up_turn(Yield::Failed(why.into()));
        }
    }

    fn check_width(&mut self, width: usize, allowed: &[usize]) {
        if !allowed.contains(&width) {
            self.fail(&format!("no instruction accesses {width} bytes so"));
        }
    }

    fn check_string(&mut self, width: usize, len: usize) {
        self.check_width(width, &[1, 2, 4]);
        if !len.is_multiple_of(width) {
            self.fail(&format!("{len} bytes are no whole number of items of {width} bytes"));
        }
    }

    fn count_step(&mut self) {
        let left = {
            let mut state = self.meet.lock();
            let left = state.steps;
            state.steps = left.saturating_sub(1);
            left
        };
        if left == 0 {
            self.fail("the guest program used up its budget of steps");
        }
    }

    fn look_for_kick(&mut self) {
        let mut state = self.meet.lock();
        if std::mem::take(&mut state.kicked) {
            self.yield_now(state, Yield::Exit(Exit::Interrupted));
        }
    }

    /// Rings the doorbell for this write, if there is one.
    fn rang(&mut self, addr: IoAddress, data: &[u8]) -> bool {
        let rang = self.vm.ring(addr, data);
        if rang {
            self.recorder.push(self.id, Op::Doorbell { addr, data: data.to_vec() });
            self.look_for_kick();
        }
        rang
    }

    fn access(&mut self, access: Access) -> Vec<u8> {
        self.give_up_turn(Yield::Access(access)).unwrap_or_default()
    }

    fn give_up_turn(&self, why: Yield) -> Option<Vec<u8>> {
        self.yield_now(self.meet.lock(), why)
    }

    /// Lets the host have the turn; comes back with its answer when the vCPU runs again.
    fn yield_now(&self, mut state: MutexGuard<'_, State>, why: Yield) -> Option<Vec<u8>> {
        state.yielded = Some(why);
        let (mut state, go_on) = self.meet.hand_over(state, Turn::Host);
        if go_on {
            return state.answer.take();
        }
        drop(state);
        resume_unwind(Box::new(Unwind))
    }

    /// Waits for a kick or, if `interruptible`, an interrupt. Without interrupt controllers: exits.
    fn sleep(&mut self, interruptible: bool) {
        let Some(irqs) = &self.vm.irqs else {
            self.give_up_turn(Yield::Exit(Exit::Halted));
            return;
        };
        loop {
            let mut state = self.meet.lock();
            let due = || interruptible && irqs.is_pending(self.id);
            while !state.kicked && !due() {
                state = self.meet.wait(state);
            }
            if !std::mem::take(&mut state.kicked) {
                return;
            }
            // Still halted when the vCPU runs again.
            self.yield_now(state, Yield::Exit(Exit::Interrupted));
        }
    }
}

/// Runs a program until its vCPU is dropped. The vCPU has the turn given to the guest before this starts, or will.
pub(super) fn guest_thread(mut cpu: GuestCpu, program: Program) {
    let life = AssertUnwindSafe(|| {
        cpu.wait_for_first_turn();
        let ran = catch_unwind(AssertUnwindSafe(|| {
            program(&mut cpu);
            loop {
                cpu.sleep(false);
            }
        }));
        let Err(payload): Result<std::convert::Infallible, _> = ran;
        if payload.is::<Unwind>() {
            return;
        }
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text.or(payload.downcast_ref::<&str>().copied()).unwrap_or("no message");
        cpu.fail(&format!("the guest program panicked: {text}"));
    });
    // What arrives here is the `Unwind` of a program that had failed.
    let _ = catch_unwind(life);
}

impl GuestCpu {
    fn wait_for_first_turn(&self) {
        let mut state = self.meet.lock();
        while state.turn == Turn::Host && !state.stop {
            state = self.meet.wait(state);
        }
        if state.stop {
            drop(state);
            resume_unwind(Box::new(Unwind));
        }
    }
}
