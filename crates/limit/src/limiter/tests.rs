use super::*;
use crate::{LimiterState, Rate};
use drystone_bus::ManualClock;
use drystone_state::Persist;
use proptest::prelude::*;
use std::collections::VecDeque;

fn rate(per_second: u64, burst: u64) -> Option<Rate> {
    Some(Rate { burst: std::num::NonZeroU64::new(burst), ..Rate::new(per_second)? })
}

fn bytes(bytes: u64) -> Cost {
    Cost { bytes }
}

fn limiter(bandwidth: Option<Rate>, operations: Option<Rate>) -> (Limiter, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::default());
    (Limiter::new(LimitConfig { bandwidth, operations }, clock.clone()), clock)
}

const MS: Duration = Duration::from_millis(1);

#[test]
fn a_burst_passes_and_the_next_request_waits_its_exact_time() {
    let (limiter, clock) = limiter(rate(1000, 100), None);
    assert!(limiter.take(bytes(60)).is_ok() && limiter.take(bytes(40)).is_ok());
    let ticket = limiter.take(bytes(10)).unwrap_err();
    assert_eq!(limiter.ready(&ticket), Err(10 * MS));
    clock.advance(10 * MS - Duration::from_nanos(1));
    assert_eq!(limiter.ready(&ticket), Err(Duration::from_nanos(1)));
    clock.advance(Duration::from_nanos(1));
    assert_eq!(limiter.ready(&ticket), Ok(()));
}

#[test]
fn a_request_larger_than_the_burst_passes_after_its_time() {
    let (limiter, clock) = limiter(rate(1000, 100), None);
    let ticket = limiter.take(bytes(5100)).unwrap_err();
    assert_eq!(limiter.ready(&ticket), Err(5000 * MS));
    clock.advance(5000 * MS);
    assert_eq!(limiter.ready(&ticket), Ok(()));
    assert!(limiter.take(bytes(1)).is_err(), "nothing was saved up meanwhile");
}

#[test]
fn a_large_request_is_not_starved_by_small_ones() {
    let (limiter, clock) = limiter(rate(1000, 100), None);
    let large = limiter.take(bytes(1000)).unwrap_err();
    clock.advance(500 * MS);
    let small = limiter.take(bytes(1)).unwrap_err();
    clock.advance(400 * MS);
    assert_eq!((limiter.ready(&large), limiter.ready(&small)), (Ok(()), Err(MS)));
}

#[test]
fn both_limits_hold() {
    let (limiter, clock) = limiter(rate(1000, 100), rate(10, 1));
    assert!(limiter.take(bytes(1)).is_ok());
    let operations = limiter.take(bytes(1)).unwrap_err();
    assert_eq!(limiter.ready(&operations), Err(100 * MS));
    clock.advance(100 * MS);
    assert_eq!(limiter.ready(&operations), Ok(()));
    let bandwidth = limiter.take(bytes(600)).unwrap_err();
    assert_eq!(limiter.ready(&bandwidth), Err(500 * MS));
}

#[test]
fn a_worker_that_is_woken_late_makes_up_for_it() {
    let (limiter, clock) = limiter(rate(1000, 50), None);
    let mut passed = 0;
    // Always 30 ms late, with requests of twice the burst.
    while clock.monotonic() < Duration::from_secs(100) {
        if let Err(ticket) = limiter.take(bytes(100)) {
            let wait = limiter.ready(&ticket).err().unwrap_or_default();
            clock.advance(wait + 30 * MS);
            assert_eq!(limiter.ready(&ticket), Ok(()));
        }
        passed += 100;
    }
    assert!((99_900..=100_200).contains(&passed), "{passed}");
}

#[test]
fn what_was_cancelled_or_came_to_nothing_costs_nothing() {
    let (limiter, clock) = limiter(rate(1000, 100), rate(10, 1));
    assert!(limiter.take(bytes(100)).is_ok());
    limiter.refund(bytes(100));
    assert!(limiter.take(bytes(100)).is_ok());
    let first = limiter.take(bytes(1000)).unwrap_err();
    let second = limiter.take(bytes(50)).unwrap_err();
    limiter.cancel(first);
    clock.advance(100 * MS);
    assert_eq!(limiter.ready(&second), Ok(()));
    // A refund saves up no more than the burst.
    (0..9).for_each(|_| limiter.refund(bytes(u64::MAX)));
    assert!(limiter.take(bytes(100)).is_ok());
    assert!(limiter.take(bytes(0)).is_err());
}

#[test]
fn a_new_rate_moves_those_that_wait() {
    let (limiter, clock) = limiter(rate(1, 1), None);
    let ticket = limiter.take(bytes(1001)).unwrap_err();
    assert_eq!(limiter.ready(&ticket), Err(1_000_000 * MS));
    limiter.configure(LimitConfig { bandwidth: rate(1_000_000, 10), operations: None });
    assert_eq!(limiter.ready(&ticket), Err(MS));
    limiter.configure(LimitConfig { bandwidth: rate(1000, 10), operations: None });
    clock.advance(1000 * MS);
    assert_eq!(limiter.ready(&ticket), Ok(()));

    let ticket = limiter.take(bytes(u64::MAX)).unwrap_err();
    limiter.configure(LimitConfig::default());
    assert_eq!(limiter.ready(&ticket), Ok(()));
    assert!(limiter.take(bytes(u64::MAX)).is_ok());
    limiter.configure(LimitConfig { bandwidth: rate(1000, 10), operations: None });
    assert!(limiter.take(bytes(10)).is_ok(), "full");
    assert!(limiter.take(bytes(1)).is_err(), "and no more");
}

#[test]
fn a_pause_is_neither_rest_nor_lost_time() {
    let (limiter, clock) = limiter(rate(1000, 100), None);
    assert!(limiter.take(bytes(100)).is_ok());
    clock.advance(30 * MS);
    limiter.pause();
    clock.advance(Duration::from_secs(3600));
    let state = limiter.save().unwrap();
    limiter.resume();

    let (copy, later) = self::limiter(rate(1000, 100), None);
    copy.pause();
    copy.restore(state).unwrap();
    later.advance(Duration::from_secs(3600));
    copy.resume();
    for limiter in [&limiter, &copy] {
        assert!(limiter.take(bytes(30)).is_ok());
        let ticket = limiter.take(bytes(1)).unwrap_err();
        assert_eq!(limiter.ready(&ticket), Err(MS));
    }
}

#[test]
fn a_reset_limiter_is_full() {
    let (limiter, _clock) = limiter(rate(1000, 100), None);
    limiter.take(bytes(100)).unwrap();
    limiter.pause();
    limiter.reset();
    assert!(limiter.take(bytes(100)).is_ok() && limiter.take(bytes(1)).is_err());
}

#[test]
fn impossible_states_are_refused_and_large_ones_are_cut() {
    let (limiter, _clock) = limiter(rate(1000, 100), None);
    let state = |json: &str| serde_json::from_str::<LimiterState>(json).unwrap();
    let bad = r#"{"bandwidth":{"whole":1,"billionths":1000000000},"operations":{"whole":0,"billionths":0}}"#;
    assert!(limiter.restore(state(bad)).is_err());
    let large = r#"{"bandwidth":{"whole":18446744073709551615,"billionths":0},"operations":{"whole":9,"billionths":9}}"#;
    limiter.restore(state(large)).unwrap();
    assert!(limiter.take(bytes(100)).is_ok() && limiter.take(bytes(1)).is_err());
}

#[test]
fn the_configuration_is_plain() {
    let read = |json: &str| serde_json::from_str::<LimitConfig>(json);
    let config =
        read(r#"{"bandwidth":{"per_second":1000},"operations":{"per_second":5,"burst":7}}"#).unwrap();
    assert_eq!(config.bandwidth.map(|r| r.burst()), Some(50));
    assert_eq!(config.operations.map(|r| r.burst()), Some(7));
    assert_eq!(Rate::new(5).unwrap().burst(), 1);
    for bad in [r#"{"bandwidth":{"per_second":0}}"#, r#"{"bandwith":{"per_second":1}}"#] {
        assert!(read(bad).is_err(), "{bad}");
    }
}

/// A request that passed, and when.
type Passed = Vec<(Duration, u64)>;

/// Queues that always have a request waiting, for `span`, each woken up to `late` after its time.
fn load(limiter: &Limiter, clock: &ManualClock, sizes: &[u64], queues: usize, late: &[Duration]) -> Passed {
    let mut passed = Vec::new();
    let mut next = sizes.iter().cycle();
    let mut waiting: VecDeque<(Option<Ticket>, u64)> = VecDeque::new();
    let mut lateness = late.iter().cycle();
    for _ in 0..400 {
        while waiting.len() < queues {
            let size = *next.next().unwrap();
            let ticket = limiter.take(bytes(size)).err();
            waiting.push_back((ticket, size));
        }
        let (ticket, size) = waiting.pop_front().unwrap();
        if let Some(ticket) = ticket
            && let Err(wait) = limiter.ready(&ticket)
        {
            clock.advance(wait + *lateness.next().unwrap());
            assert_eq!(limiter.ready(&ticket), Ok(()), "the time it said was enough");
        }
        passed.push((clock.monotonic(), size));
    }
    passed
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() })]

    /// Over every interval: at most rate, burst and the requests at its two ends; at least the rate less a request.
    #[test]
    fn any_interval_is_within_its_bounds(
        per_second in 1u64..2_000_000_000,
        burst_ms in 1u64..2_000,
        sizes in prop::collection::vec(1u64..4_000_000, 1..8),
        queues in 1usize..5,
        late in prop::collection::vec(0u32..100, 1..6),
    ) {
        let burst = (u128::from(per_second) * u128::from(burst_ms) / 1000).max(1) as u64;
        let lasts = Duration::from_nanos((u128::from(burst) * 1_000_000_000 / u128::from(per_second)) as u64);
        let late: Vec<_> = late.iter().map(|percent| lasts * *percent / 100).collect();
        let (limiter, clock) = limiter(rate(per_second, burst), None);
        let passed = load(&limiter, &clock, &sizes, queues, &late);
        let largest = u128::from(*sizes.iter().max().unwrap());
        for from in 0..passed.len() {
            let mut sum = 0u128;
            for (at, size) in &passed[from..] {
                sum += u128::from(*size);
                let nanos = (*at - passed[from].0).as_nanos();
                let due = nanos * u128::from(per_second) / 1_000_000_000;
                prop_assert!(sum <= due + u128::from(burst) + largest + 1, "{sum} in {nanos} ns");
                prop_assert!(sum + u128::from(burst) >= due, "only {sum} in {nanos} ns, {due} were due");
            }
        }
        // And the whole, from the full burst on, without the slack of a request.
        let total: u128 = passed.iter().map(|p| u128::from(p.1)).sum();
        let due = passed.last().unwrap().0.as_nanos() * u128::from(per_second) / 1_000_000_000;
        prop_assert!(total <= due + u128::from(burst));
    }

    /// Nothing that anybody can configure, ask or do overflows, and whoever waits is told a time that is not zero.
    #[test]
    fn extremes_neither_panic_nor_pass_for_nothing(
        steps in prop::collection::vec((0u8..8, any::<u64>(), any::<u64>()), 1..60),
    ) {
        let (limiter, clock) = limiter(rate(u64::MAX, u64::MAX), rate(1, 1));
        let mut tickets = Vec::new();
        for (what, a, b) in steps {
            match what {
                0 | 1 => tickets.extend(limiter.take(bytes(a)).err()),
                2 => clock.advance(Duration::from_secs(a)),
                3 => limiter.configure(LimitConfig { bandwidth: rate(a, b), operations: rate(b, a) }),
                4 => limiter.refund(bytes(a)),
                5 => tickets.drain(..).for_each(|t| limiter.cancel(t)),
                6 => if a & 1 == 0 { limiter.pause() } else { limiter.resume() },
                _ => limiter.restore(limiter.save().unwrap()).unwrap(),
            }
            for ticket in &tickets {
                prop_assert_ne!(limiter.ready(ticket), Err(Duration::ZERO));
            }
        }
    }
}
