use crate::{Cost, LimitConfig, LimitGroup, Limiter, Rate, Ticket};
use drystone_bus::{Clock, ManualClock};
use proptest::prelude::*;
use std::sync::Arc;
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);

fn group(bandwidth: u64, operations: u64) -> (LimitGroup, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::default());
    let config = LimitConfig { bandwidth: Rate::new(bandwidth), operations: Rate::new(operations) };
    (LimitGroup::new(config, clock.clone()), clock)
}

/// A queue that always has a request of this size, and is woken so late.
struct Queue {
    member: usize,
    bytes: u64,
    late: Duration,
    ticket: Option<Ticket>,
    wakes: Duration,
    passed: u64,
    longest: Duration,
    since: Duration,
}

impl Queue {
    fn new(member: usize, bytes: u64, late: Duration) -> Self {
        let (wakes, longest, since) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
        Self { member, bytes, late, ticket: None, wakes, passed: 0, longest, since }
    }

    fn serve(&mut self, limiter: &Limiter, now: Duration) {
        loop {
            let ticket = match self.ticket.take() {
                None => limiter.take(Cost { bytes: self.bytes }).err(),
                waits => waits,
            };
            if let Some(ticket) = ticket
                && let Err(wait) = limiter.ready(&ticket)
            {
                self.ticket = Some(ticket);
                // No timer is finer.
                self.wakes = now + wait.max(MS / 10) + self.late;
                return;
            }
            self.passed += 1;
            self.longest = self.longest.max(now - self.since);
            self.since = now;
        }
    }
}

/// Lets all of them want as much as they get, and returns how long that took.
fn run(members: &[Limiter], queues: &mut [Queue], clock: &ManualClock, time: Duration) -> f64 {
    let begun = clock.monotonic();
    for queue in &mut *queues {
        (queue.passed, queue.longest, queue.since, queue.wakes) = (0, Duration::ZERO, begun, begun);
    }
    while clock.monotonic() - begun < time {
        let now = clock.monotonic();
        for queue in queues.iter_mut().filter(|queue| queue.wakes <= now) {
            queue.serve(&members[queue.member], now);
        }
        let next = queues.iter().map(|queue| queue.wakes).min().unwrap();
        clock.advance(next - now);
    }
    (clock.monotonic() - begun).as_secs_f64()
}

fn bytes(queues: &[Queue], member: usize) -> u64 {
    queues.iter().filter(|q| q.member == member).map(|q| q.passed * q.bytes).sum()
}

#[test]
fn members_get_the_same_share_whatever_their_queues_and_requests() {
    let (group, clock) = group(100_000_000, 0);
    let members: Vec<_> = (0..3).map(|_| group.join()).collect();
    let mut queues: Vec<_> = (0..8).map(|_| Queue::new(0, 4096, MS)).collect();
    queues.push(Queue::new(1, 1 << 20, MS));
    queues.extend((0..2).map(|_| Queue::new(2, 65536, 3 * MS)));
    let seconds = run(&members, &mut queues, &clock, Duration::from_secs(20));
    let shares: Vec<_> = (0..3).map(|m| bytes(&queues, m) as f64 / seconds / 100e6).collect();
    let all: f64 = shares.iter().sum();
    assert!((0.95..1.05).contains(&all), "{shares:?}");
    assert!(shares.iter().all(|share| (0.28..0.39).contains(share)), "{shares:?}");
}

#[test]
fn what_one_member_leaves_the_others_have() {
    let (group, clock) = group(0, 1000);
    let members: Vec<_> = (0..2).map(|_| group.join()).collect();
    let mut queues = vec![Queue::new(0, 0, MS), Queue::new(0, 0, MS)];
    let seconds = run(&members, &mut queues, &clock, Duration::from_secs(5));
    let alone = queues.iter().map(|q| q.passed).sum::<u64>() as f64 / seconds;
    assert!((950.0..1051.0).contains(&alone), "{alone}");
    // One that comes later has no time to make up for, and loses none.
    queues.push(Queue::new(1, 0, MS));
    let seconds = run(&members, &mut queues, &clock, Duration::from_secs(5));
    let late = queues[2].passed as f64 / seconds;
    assert!((450.0..550.0).contains(&late), "{late}");
}

#[test]
fn members_that_are_paused_or_gone_hold_nobody_up() {
    let (group, clock) = group(1000, 0);
    let (a, b) = (group.join(), group.join());
    assert!(a.take(Cost { bytes: 50 }).is_ok(), "the burst");
    let (first, second) =
        (a.take(Cost { bytes: 500 }).unwrap_err(), b.take(Cost { bytes: 100 }).unwrap_err());
    a.pause();
    assert_eq!(b.ready(&second), Err(100 * MS), "what has had less goes first");
    assert_eq!(a.ready(&first), Err(600 * MS));
    drop(first);
    clock.advance(100 * MS);
    assert_eq!(b.ready(&second), Ok(()));
    let third = b.take(Cost { bytes: 10 }).unwrap_err();
    b.pause();
    clock.advance(1000 * MS);
    assert_eq!(b.ready(&third), Err(10 * MS), "all are paused");
    drop(b);
    a.resume();
    drop(third);
    clock.advance(10 * MS);
    assert!(a.take(Cost { bytes: 10 }).is_ok());
    assert!(a.take(Cost { bytes: 1 }).is_err());
}

#[test]
fn a_member_that_left_is_not_among_those_that_are_paused() {
    let (group, clock) = group(1000, 0);
    let (a, b) = (group.join(), group.join());
    assert!(a.take(Cost { bytes: 50 }).is_ok());
    a.pause();
    drop(b);
    clock.advance(1000 * MS);
    assert!(a.take(Cost { bytes: 1 }).is_err(), "no time has passed");
}

proptest! {
    /// Whatever the queues want, the group gives its rate, and nobody waits for longer than everybody's requests take.
    #[test]
    fn a_group_keeps_its_rate_and_starves_nobody(
        sizes in proptest::collection::vec((0usize..4, 512u64..200_000, 0u32..20), 1..12)
    ) {
        let (group, clock) = group(10_000_000, 0);
        let members: Vec<_> = (0..4).map(|_| group.join()).collect();
        let mut queues: Vec<_> = sizes.iter().map(|(m, bytes, late)| Queue::new(*m, *bytes, *late * MS / 2)).collect();
        let seconds = run(&members, &mut queues, &clock, Duration::from_secs(20));
        let all: u64 = (0..4).map(|m| bytes(&queues, m)).sum();
        let (rate, largest) = (all as f64 / seconds / 10e6, queues.iter().map(|q| q.bytes).max().unwrap());
        prop_assert!((0.95..1.05).contains(&rate), "{}", rate);
        // A round: each member's queues once each, with the largest request, and each one woken late; and the others have made up
        // for what they may be behind.
        let round = Duration::from_secs_f64(largest as f64 * sizes.len() as f64 * 4.0 / 10e6)
            + 20 * MS * sizes.len() as u32 + 3 * 50 * MS;
        for queue in &queues {
            prop_assert!(queue.passed > 0 && queue.longest <= round, "{:?} of {:?}", queue.longest, round);
        }
    }

    /// From several threads at once no more passes than the rate allows, and nothing is lost.
    #[test]
    fn threads_share_a_group(seed in 0u64..8) {
        let (group, clock) = group(1_000_000, 0);
        let passed: u64 = std::thread::scope(|scope| {
            let work = |n: u64| {
                let (limiter, clock) = (group.join(), clock.clone());
                scope.spawn(move || {
                    let mut passed = 0;
                    for i in 0..200 {
                        let bytes = (n * 37 + i * 11 + seed) % 500;
                        match limiter.take(Cost { bytes }) {
                            Ok(()) => passed += bytes,
                            Err(ticket) if i % 3 == 0 => drop(ticket),
                            Err(ticket) => {
                                while let Err(wait) = limiter.ready(&ticket) {
                                    clock.advance(wait);
                                }
                                passed += bytes;
                            }
                        }
                    }
                    passed
                })
            };
            let threads: Vec<_> = (0..4).map(work).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        let due = 50_000 + clock.monotonic().as_micros() as u64;
        prop_assert!(passed <= due, "{} of {}", passed, due);
        // Nobody waits any more: what was given up is free again.
        clock.advance(Duration::from_secs(1));
        let limiter = group.join();
        let (burst, more) = (limiter.take(Cost { bytes: 50_000 }), limiter.take(Cost { bytes: 1 }));
        prop_assert!(burst.is_ok() && more.is_err());
    }
}
