use super::{Answer, RequestError};
use drystone_lifecycle::State;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

/// A shutdown that is waited for, if one is.
#[derive(Default)]
pub(super) struct Shutdown {
    deadline: Option<Instant>,
    waiting: Vec<Sender<Answer>>,
}

impl Shutdown {
    /// From now on for `time`, in place of the time before. `answer` waits with those before it.
    pub(super) fn expect(&mut self, time: Duration, answer: Sender<Answer>) {
        let now = Instant::now();
        // A time that no clock can hold never comes.
        self.deadline = now.checked_add(time);
        self.waiting.push(answer);
    }

    /// Until the machine is to be forced.
    pub(super) fn time_left(&self) -> Option<Duration> {
        self.deadline.map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// Nobody expects it any more.
    pub(super) fn give_up(&mut self) {
        self.answer(|| Err(RequestError::Superseded));
    }

    /// The machine has ended, one way or the other.
    pub(super) fn ended(&mut self) {
        self.answer(|| Ok(State::Stopped));
    }

    fn answer(&mut self, answer: impl Fn() -> Answer) {
        self.deadline = None;
        for waiting in self.waiting.drain(..) {
            // Whoever asked may have gone away meanwhile.
            let _ = waiting.send(answer());
        }
    }
}
