//! The agreement between one vCPU thread and whoever pauses it: what the thread was asked to do, and whether it is
//! out of the guest.
//!
//! It takes its primitives from `super::sync`, so that `tests/gate_model.rs` can compile this very file over loom's and
//! try every interleaving.

use super::sync::{Condvar, Mutex, MutexGuard};

/// What became of one entry into the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Go on.
    Again,
    /// A kick (or a signal) ended it with all I/O complete: the thread may park if it was asked to.
    Interrupted,
    /// Something happened that somebody has to decide about: park until [`Gate::release`].
    Hold,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Park,
    Run,
    Quit,
}

struct State {
    order: Order,
    /// The thread is out of the guest, and enters it only when it was told to run.
    parked: bool,
    /// The thread does not run on, whatever the order.
    held: bool,
}

/// See the module. A request is stored here first and followed by a kick: since a kick is latched, the thread comes back
/// with [`Turn::Interrupted`] after the store, and finds it.
pub struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

impl Gate {
    /// A gate whose thread is, or will be, parked.
    pub fn new() -> Self {
        let state = State { order: Order::Park, parked: true, held: false };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn wait<'a>(&'a self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(|e| e.into_inner())
    }

    fn order(&self, order: Order) {
        let mut state = self.lock();
        if state.order != Order::Quit {
            state.order = order;
        }
        self.changed.notify_all();
    }

    /// Asks the thread to enter the guest, unless it is held.
    pub fn run(&self) {
        self.order(Order::Run);
    }

    /// Asks the thread to park. To be followed by a kick, and then by [`wait_parked`](Self::wait_parked).
    pub fn ask_to_park(&self) {
        self.order(Order::Park);
    }

    /// Asks the thread to end; no later order changes that. To be followed by a kick.
    pub fn ask_to_quit(&self) {
        self.order(Order::Quit);
    }

    /// Waits until the thread is out of the guest.
    pub fn wait_parked(&self) {
        let mut state = self.lock();
        while !state.parked {
            state = self.wait(state);
        }
    }

    /// Keeps the thread parked when it is next told to run; a thread that runs goes on until it is asked to park.
    pub fn hold(&self) {
        self.lock().held = true;
    }

    /// Ends a hold.
    pub fn release(&self) {
        self.lock().held = false;
        self.changed.notify_all();
    }

    /// The thread's life: calls `turn` whenever it may be in the guest. Returns when asked to quit.
    pub fn serve(&self, mut turn: impl FnMut() -> Turn) {
        while self.wait_for_run() {
            let hold = loop {
                match turn() {
                    Turn::Again => {}
                    Turn::Interrupted if self.must_leave() => break false,
                    Turn::Interrupted => {}
                    Turn::Hold => break true,
                }
            };
            self.park(hold);
        }
    }

    /// Waits for an order that ends the parking. Answers whether it is to run.
    fn wait_for_run(&self) -> bool {
        let mut state = self.lock();
        loop {
            match state.order {
                Order::Quit => return false,
                Order::Run if !state.held => {
                    state.parked = false;
                    return true;
                }
                Order::Run | Order::Park => state = self.wait(state),
            }
        }
    }

    fn must_leave(&self) -> bool {
        self.lock().order != Order::Run
    }

    fn park(&self, hold: bool) {
        let mut state = self.lock();
        state.parked = true;
        state.held |= hold;
        self.changed.notify_all();
    }
}
