//! Two vCPUs and two who start, stop, hold and end them at the same time, as `VcpuSet` does: whoever pauses, resumes or
//! releases holds one lock for the whole call; whoever ends them does not.
//!
//! That is four threads, so the bound on preemptions is lower than for one vCPU: one, or two under `DRYSTONE_FULL=1`, which
//! takes minutes.

use super::barrier::{self, Gated};
use super::check;
use super::vcpu::Vcpu;
use loom::sync::{Arc, Mutex, MutexGuard};
use loom::thread::{self, JoinHandle};

#[derive(Clone)]
struct Set {
    vcpus: [Arc<Vcpu>; 2],
    /// Whether they run; held for a whole call.
    control: Arc<Mutex<bool>>,
}

type Threads = [JoinHandle<()>; 2];

impl Set {
    /// The first `events` entries of vCPU 0 end in an event.
    fn start(events: u32) -> (Self, Threads) {
        let (first, first_thread) = Vcpu::start(events);
        let (second, second_thread) = Vcpu::start(0);
        let control = Arc::new(Mutex::new(false));
        (Self { vcpus: [first, second], control }, [first_thread, second_thread])
    }

    fn vcpus(&self) -> impl Iterator<Item = &Vcpu> + Clone {
        self.vcpus.iter().map(AsRef::as_ref)
    }

    fn control(&self) -> MutexGuard<'_, bool> {
        self.control.lock().unwrap()
    }

    fn resume(&self) {
        let mut running = self.control();
        if !*running {
            barrier::resume(self.vcpus());
            *running = true;
        }
    }

    fn pause(&self) {
        let mut running = self.control();
        barrier::pause(self.vcpus());
        *running = false;
        self.vcpus().for_each(Vcpu::look);
    }

    /// Decides about vCPU 0's event that it may go on.
    fn release(&self) {
        let _control = self.control();
        let [vcpu, _] = &self.vcpus;
        vcpu.gate.wait_parked();
        vcpu.gate.release();
    }

    fn quit(&self) {
        barrier::quit(self.vcpus());
    }

    fn end(&self, threads: Threads) {
        self.quit();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        self.vcpus().for_each(Vcpu::look);
    }
}

/// With a set whose vCPU 0 makes `events` events: what `one` does, and meanwhile `other` on a thread of its own; then the
/// end of all.
fn race(
    events: u32,
    one: impl Fn(&Set) + Send + Sync + 'static,
    other: impl Fn(&Set) + Send + Sync + Copy + 'static,
) {
    let preemptions = if std::env::var_os("DRYSTONE_FULL").is_some() { 2 } else { 1 };
    check(preemptions, move || {
        let (set, threads) = Set::start(events);
        let theirs = set.clone();
        let controller = thread::spawn(move || other(&theirs));
        one(&set);
        controller.join().unwrap();
        set.end(threads);
    });
}

#[test]
fn two_who_pause_and_resume_always_come_back() {
    race(
        0,
        |set| {
            set.resume();
            set.pause();
        },
        |set| {
            set.pause();
            set.resume();
        },
    );
}

#[test]
fn a_pause_comes_back_also_when_somebody_ends_them_meanwhile() {
    race(
        0,
        |set| {
            set.resume();
            set.pause();
            set.resume();
        },
        Set::quit,
    );
}

#[test]
fn an_event_is_released_once_whoever_pauses_meanwhile() {
    race(
        2,
        |set| {
            set.resume();
            let [vcpu, _] = &set.vcpus;
            vcpu.take_event();
            set.release();
            set.resume();
            // Neither the pause nor the hold keeps it out for ever.
            vcpu.wait_turns(2);
        },
        |set| {
            set.pause();
            set.resume();
        },
    );
}

#[test]
fn a_held_vcpu_stays_out_while_others_are_paused_and_resumed() {
    race(
        0,
        |set| {
            let [vcpu, _] = &set.vcpus;
            vcpu.gate.hold();
            set.resume();
            vcpu.look();
            set.pause();
        },
        |set| set.vcpus().for_each(Gated::kick),
    );
}
