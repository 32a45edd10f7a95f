//! A model of how vCPU threads are started, parked and ended: loom tries every interleaving of the very source file that
//! the library compiles, here over loom's mutex and condition variable.
//!
//! A lost request shows as a deadlock, and a guest that runs while it is paused as a concurrent access to `ram`.
#![allow(missing_docs, dead_code, clippy::unwrap_used)]

#[path = "../src/gate.rs"]
mod gate;

/// What `gate.rs` is built on.
mod sync {
    pub use loom::sync::{Condvar, Mutex, MutexGuard};
}

use gate::{Gate, Turn};
use loom::cell::UnsafeCell;
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread::{self, JoinHandle};

/// A vCPU with a latched kick, and what its guest touches.
struct Vcpu {
    gate: Gate,
    kicked: Mutex<bool>,
    /// Entries into the guest.
    turns: Mutex<u32>,
    entered: Condvar,
    came: Condvar,
    /// Accessed by the guest whenever it runs, and by whoever has paused it. Loom fails on a conflict.
    ram: UnsafeCell<u32>,
}

impl Vcpu {
    fn start(hold: bool) -> (Arc<Self>, JoinHandle<()>) {
        let vcpu = Arc::new(Self {
            gate: Gate::new(),
            kicked: Mutex::new(false),
            turns: Mutex::new(0),
            entered: Condvar::new(),
            came: Condvar::new(),
            ram: UnsafeCell::new(0),
        });
        let guest = vcpu.clone();
        let thread = thread::spawn(move || guest.gate.serve(|| guest.turn(hold)));
        (vcpu, thread)
    }

    /// One entry into the guest.
    fn turn(&self, hold: bool) -> Turn {
        self.ram.with_mut(|_| ());
        *self.turns.lock().unwrap() += 1;
        self.entered.notify_one();
        if hold {
            return Turn::Hold;
        }
        // A guest that never exits by itself.
        let mut kicked = self.kicked.lock().unwrap();
        while !*kicked {
            kicked = self.came.wait(kicked).unwrap();
        }
        *kicked = false;
        drop(kicked);
        self.ram.with_mut(|_| ());
        Turn::Interrupted
    }

    fn kick(&self) {
        *self.kicked.lock().unwrap() = true;
        self.came.notify_one();
    }

    fn pause(&self) {
        self.gate.ask_to_park();
        self.kick();
        self.gate.wait_parked();
        self.ram.with_mut(|_| ());
    }

    /// Waits until the guest has been entered `n` times.
    fn wait_turns(&self, n: u32) {
        let mut turns = self.turns.lock().unwrap();
        while *turns < n {
            turns = self.entered.wait(turns).unwrap();
        }
    }

    fn quit(&self, thread: JoinHandle<()>) {
        self.gate.ask_to_quit();
        self.kick();
        thread.join().unwrap();
    }
}

fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

#[test]
fn pauses_and_resumes_are_never_lost() {
    check(|| {
        let (vcpu, thread) = Vcpu::start(false);
        vcpu.gate.run();
        vcpu.pause();
        vcpu.gate.run();
        vcpu.pause();
        vcpu.quit(thread);
    });
}

#[test]
fn a_running_vcpu_can_be_ended() {
    check(|| {
        let (vcpu, thread) = Vcpu::start(false);
        vcpu.gate.run();
        vcpu.quit(thread);
    });
}

#[test]
fn a_kick_of_somebody_else_neither_parks_nor_unparks() {
    check(|| {
        let (vcpu, thread) = Vcpu::start(false);
        let other = vcpu.clone();
        let stranger = thread::spawn(move || other.kick());
        vcpu.gate.run();
        vcpu.pause();
        stranger.join().unwrap();
        vcpu.quit(thread);
    });
}

#[test]
fn a_vcpu_that_holds_itself_is_paused_stays_held_and_is_released() {
    check(|| {
        let (vcpu, thread) = Vcpu::start(true);
        vcpu.gate.run();
        vcpu.pause();
        vcpu.gate.run();
        vcpu.wait_turns(1);
        vcpu.pause();
        // Held by now. Told to run it stays where it is, until it is released.
        vcpu.gate.run();
        vcpu.ram.with_mut(|_| ());
        vcpu.gate.release();
        vcpu.wait_turns(2);
        vcpu.quit(thread);
    });
}

#[test]
fn a_restored_hold_keeps_a_vcpu_out_of_the_guest() {
    check(|| {
        let (vcpu, thread) = Vcpu::start(false);
        vcpu.gate.hold();
        vcpu.gate.run();
        vcpu.ram.with_mut(|_| ());
        vcpu.quit(thread);
    });
}

#[test]
fn a_quit_is_not_undone_by_a_later_order() {
    check(|| {
        let (vcpu, thread) = Vcpu::start(false);
        vcpu.gate.ask_to_quit();
        vcpu.kick();
        vcpu.gate.run();
        thread.join().unwrap();
        vcpu.pause();
    });
}
