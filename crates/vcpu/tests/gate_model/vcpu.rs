use super::barrier::Gated;
use super::gate::{Gate, Turn};
use loom::cell::UnsafeCell;
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread::{self, JoinHandle};

/// A vCPU with a latched kick, and what its guest touches.
pub struct Vcpu {
    pub gate: Gate,
    state: Mutex<State>,
    changed: Condvar,
    /// Accessed by the guest whenever it runs, and by whoever has paused it. Loom fails on a conflict.
    pub ram: UnsafeCell<u32>,
}

struct State {
    kicked: bool,
    /// Entries into the guest.
    turns: u32,
    /// So many of the next entries end in an event.
    events: u32,
    /// An event was handed over that nobody has decided about.
    event: bool,
}

impl Vcpu {
    /// Its first `events` entries into the guest end in an event. The others end when it is kicked.
    pub fn start(events: u32) -> (Arc<Self>, JoinHandle<()>) {
        let vcpu = Arc::new(Self {
            gate: Gate::new(),
            state: Mutex::new(State { kicked: false, turns: 0, events, event: false }),
            changed: Condvar::new(),
            ram: UnsafeCell::new(0),
        });
        let guest = vcpu.clone();
        let thread = thread::spawn(move || guest.gate.serve(|| guest.turn()));
        (vcpu, thread)
    }

    /// One entry into the guest.
    fn turn(&self) -> Turn {
        self.ram.with_mut(|_| ());
        let mut state = self.state.lock().unwrap();
        state.turns += 1;
        if state.events > 0 {
            state.events -= 1;
            state.event = true;
            self.changed.notify_all();
            return Turn::Hold;
        }
        self.changed.notify_all();
        // A guest that never exits by itself.
        while !state.kicked {
            state = self.changed.wait(state).unwrap();
        }
        state.kicked = false;
        drop(state);
        self.ram.with_mut(|_| ());
        Turn::Interrupted
    }

    /// What whoever has paused it may do.
    pub fn look(&self) {
        self.ram.with_mut(|_| ());
    }

    fn wait_while(&self, condition: impl Fn(&State) -> bool) {
        let mut state = self.state.lock().unwrap();
        while condition(&state) {
            state = self.changed.wait(state).unwrap();
        }
    }

    /// Waits until the guest has been entered `n` times.
    pub fn wait_turns(&self, n: u32) {
        self.wait_while(|state| state.turns < n);
    }

    /// Waits for an event, and says that it was decided about.
    pub fn take_event(&self) {
        self.wait_while(|state| !state.event);
        self.state.lock().unwrap().event = false;
    }
}

impl Gated for Vcpu {
    fn gate(&self) -> &Gate {
        &self.gate
    }
    fn kick(&self) {
        self.state.lock().unwrap().kicked = true;
        self.changed.notify_all();
    }
}
