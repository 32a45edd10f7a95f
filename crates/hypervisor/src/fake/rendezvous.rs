//! How a guest's thread and the thread that runs its vCPU take turns.

use super::lock;
use crate::{Cpuid, Exit, Msr, Regs, Sregs};
use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard};

/// An access that leaves the guest.
pub(super) enum Access {
    /// `data.len() / width` inputs from one port.
    In {
        port: u16,
        width: usize,
        data: Vec<u8>,
    },
    /// `data.len() / width` outputs to one port.
    Out {
        port: u16,
        width: usize,
        data: Vec<u8>,
    },
    Load {
        addr: u64,
        data: Vec<u8>,
    },
    Store {
        addr: u64,
        data: Vec<u8>,
    },
    /// Answered with the eight bytes of the value, or with none for a fault.
    ReadMsr {
        index: u32,
    },
    /// Answered with any byte, or with none for a fault.
    WriteMsr {
        index: u32,
        value: u64,
    },
}

/// Why the guest gave its turn back.
pub(super) enum Yield {
    Access(Access),
    Exit(Exit),
    Failed(String),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Turn {
    Host,
    Guest,
}

/// Thrown through a guest program to end it. No panic: nothing is printed.
pub(super) struct Unwind;

pub(super) struct State {
    pub(super) turn: Turn,
    /// A kick that nobody has consumed.
    pub(super) kicked: bool,
    /// The program must end.
    pub(super) stop: bool,
    pub(super) yielded: Option<Yield>,
    /// What the host answered to the access; the guest takes it when it goes on.
    pub(super) answer: Option<Vec<u8>>,
    /// The answered access is not complete: the vCPU has not run since.
    pub(super) incomplete: bool,
    pub(super) has_run: bool,
    /// The guest has been told that it was stopped, and has not asked.
    pub(super) told_stopped: bool,
    pub(super) steps: u64,
    pub(super) regs: Regs,
    pub(super) sregs: Sregs,
    pub(super) cpuid: Cpuid,
    pub(super) msrs: BTreeMap<u32, u64>,
    /// What the state lacks that was last saved or restored.
    pub(super) unsaved: Vec<String>,
}

impl State {
    /// Loads RAX as the input instruction that was answered does.
    pub(super) fn complete(&mut self) {
        if !std::mem::take(&mut self.incomplete) {
            return;
        }
        let Some(data) = &self.answer else { return };
        let mut bytes = match data.len() {
            1 | 2 => self.regs.rax.to_le_bytes(), // the rest of the register stays
            4 | 8 => [0; 8],
            _ => return, // a string instruction, or no one instruction at all
        };
        bytes.iter_mut().zip(data).for_each(|(to, from)| *to = *from);
        self.regs.rax = u64::from_le_bytes(bytes);
    }

    pub(super) fn msr_list(&self) -> Vec<Msr> {
        self.msrs.iter().map(|(&index, &value)| Msr { index, value }).collect()
    }
}

/// One vCPU's meeting point. Lock order: this before the VM's interrupt controller.
pub(super) struct Rendezvous {
    pub(super) state: Mutex<State>,
    /// Anything in the state changed, or an interrupt came.
    pub(super) changed: Condvar,
}

impl Rendezvous {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub(super) fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(|e| e.into_inner())
    }

    /// Gives the turn to the other side and waits to get it back. False if the program must end instead.
    pub(super) fn hand_over<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
        to: Turn,
    ) -> (MutexGuard<'a, State>, bool) {
        state.turn = to;
        self.changed.notify_all();
        while state.turn == to && !state.stop {
            state = self.wait(state);
        }
        let go_on = !state.stop;
        (state, go_on)
    }

    /// Wakes a halted guest. Taking the lock makes sure that it either sees what happened or is already asleep.
    pub(super) fn wake(&self) {
        drop(self.lock());
        self.changed.notify_all();
    }
}
