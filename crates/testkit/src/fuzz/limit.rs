//! Any requests, waits and changes of the rate on a clock that only the fuzzer moves.

use super::input::Input;
use drystone_bus::{Clock, ManualClock};
use drystone_limit::{Cost, LimitConfig, Limiter, Rate, Ticket};
use drystone_state::Persist;
use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

const STEPS: usize = 1024;
const MAX_WAITING: usize = 16;

struct Machine {
    limiter: Limiter,
    clock: Arc<ManualClock>,
    config: LimitConfig,
    waiting: VecDeque<Ticket>,
    /// Passed since `since` under a constant rate.
    bytes: u128,
    since: Duration,
    paused: bool,
}

/// Runs `data` as a list of steps.
///
/// # Panics
/// If a request that waits is told to wait for nothing, does not pass after the time it was told, or passes before one that
/// came earlier; if more passes than the rate and the burst allow.
pub fn limit(data: &[u8]) {
    let mut input = Input::new(data);
    let config = config(&mut input);
    let clock = Arc::new(ManualClock::default());
    let limiter = Limiter::new(config, clock.clone());
    let (waiting, bytes, since, paused) = (VecDeque::new(), 0, Duration::ZERO, false);
    let mut machine = Machine { limiter, clock, config, waiting, bytes, since, paused };
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        machine.step(&mut input);
        machine.check();
    }
}

fn config(input: &mut Input<'_>) -> LimitConfig {
    let mut rate = || {
        let burst = NonZeroU64::new(number(input));
        Rate::new(number(input)).map(|rate| Rate { burst, ..rate })
    };
    LimitConfig { bandwidth: rate(), operations: rate() }
}

/// Often small, sometimes anything.
fn number(input: &mut Input<'_>) -> u64 {
    match input.u8() {
        255 => input.u64(),
        n => u64::from(n) << (input.u8() % 24),
    }
}

impl Machine {
    fn step(&mut self, input: &mut Input<'_>) {
        match input.u8() % 8 {
            0..=2 if self.waiting.len() < MAX_WAITING => self.take(number(input)),
            3 => self.wait(),
            4 => self.clock.advance(Duration::from_nanos(number(input))),
            5 => {
                self.config = config(input);
                self.limiter.configure(self.config);
                self.count_anew();
            }
            6 => {
                if let Some(ticket) = self.waiting.pop_back() {
                    self.limiter.cancel(ticket);
                    self.count_anew();
                }
            }
            7 => self.pause_or_move(),
            _ => {}
        }
    }

    /// What passes from here on is held against the rate.
    fn count_anew(&mut self) {
        (self.bytes, self.since) = (0, self.clock.monotonic());
    }

    fn take(&mut self, bytes: u64) {
        match self.limiter.take(Cost { bytes }) {
            Ok(()) => {
                self.bytes += u128::from(bytes);
                // Where nothing costs anything a free request may pass those that wait for the other limit.
                if self.config.operations.is_some() {
                    let all = self.waiting.iter().all(|earlier| self.limiter.ready(earlier).is_ok());
                    assert!(all, "passed before one that waits");
                }
            }
            Err(ticket) => self.waiting.push_back(ticket),
        }
    }

    fn wait(&mut self) {
        let Some(first) = self.waiting.front() else { return };
        if let Err(wait) = self.limiter.ready(first) {
            if self.paused || wait > Duration::from_secs(1 << 40) {
                return;
            }
            self.clock.advance(wait);
            assert_eq!(self.limiter.ready(first), Ok(()), "the time it said was not enough");
        }
        self.waiting.pop_front();
    }

    fn pause_or_move(&mut self) {
        if self.paused {
            self.limiter.resume();
        } else {
            self.limiter.pause();
            if self.waiting.is_empty() {
                let state = self.limiter.save().unwrap();
                let new = Limiter::new(self.config, self.clock.clone());
                new.pause();
                new.restore(state).unwrap();
                assert_eq!(new.save().unwrap(), state, "a restored limiter has saved up the same");
                self.limiter = new;
            }
        }
        self.paused = !self.paused;
    }

    fn check(&self) {
        for ticket in &self.waiting {
            assert_ne!(self.limiter.ready(ticket), Err(Duration::ZERO), "wait for nothing");
        }
        let ready: Vec<_> = self.waiting.iter().map(|t| self.limiter.ready(t).is_ok()).collect();
        assert!(ready.is_sorted_by(|earlier, later| earlier >= later), "out of order: {ready:?}");
        if let Some(rate) = self.config.bandwidth {
            let nanos = (self.clock.monotonic() - self.since).as_nanos();
            let due = nanos.saturating_mul(rate.per_second.get().into()) / 1_000_000_000;
            assert!(self.bytes <= due + 1 + u128::from(rate.burst()), "too much passed");
        }
    }
}
