//! What time it is, and how much of it went by between a save and its restore.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The host's wall clock and its time stamp counter, read at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Moment {
    /// Nanoseconds since 1970-01-01 00:00:00 UTC.
    pub(crate) realtime: u64,
    /// The host's time stamp counter.
    pub(crate) host_tsc: u64,
}

impl Moment {
    /// Now. Of a few readings the one that took the least time is the most exact.
    pub(crate) fn now() -> Self {
        let read = || {
            let before = host_tsc();
            let realtime = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let took = host_tsc().wrapping_sub(before);
            (took, Self { realtime: nanoseconds(realtime), host_tsc: before.wrapping_add(took / 2) })
        };
        let best = (0..4).map(|_| read()).min_by_key(|(took, _)| *took);
        best.map_or_else(|| read().1, |(_, moment)| moment)
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn host_tsc() -> u64 {
    // SAFETY: every processor that has KVM has RDTSC, and reading it touches no memory.
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// Identifies this boot of this host, within which its time stamp counter only goes on; empty if Linux does not say.
pub(crate) fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_or_else(|_| String::new(), |id| id.trim().into())
}

/// From a save to its restore. The guest's time goes on meanwhile, as while a laptop sleeps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Passage {
    pub(crate) from: Moment,
    pub(crate) to: Moment,
    /// The host's time stamp counter went on without a break.
    pub(crate) same_boot: bool,
}

impl Passage {
    /// One that the guest is not to see: its clocks show at `to` what they showed at `from`.
    pub(crate) fn unseen(from: Moment, to: Moment) -> Self {
        Self { from: Moment { realtime: to.realtime, ..from }, to, same_boot: false }
    }

    /// In nanoseconds; 0 if the wall clock went backwards.
    pub(crate) fn elapsed(&self) -> u64 {
        self.to.realtime.saturating_sub(self.from.realtime)
    }

    /// In ticks of a counter of `khz`.
    pub(crate) fn ticks(&self, khz: u32) -> u64 {
        (u128::from(self.elapsed()) * u128::from(khz) / 1_000_000) as u64
    }

    /// What must be added to the host's counter to have the guest's, if `offset` had to be added when it was saved and
    /// the guest's runs at `khz`. Sums wrap, as the processor's do.
    pub(crate) fn tsc_offset(&self, offset: u64, khz: u32) -> u64 {
        if self.same_boot {
            return offset;
        }
        offset.wrapping_add(self.from.host_tsc).wrapping_add(self.ticks(khz)).wrapping_sub(self.to.host_tsc)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passage(same_boot: bool, from: (u64, u64), to: (u64, u64)) -> Passage {
        let moment = |(realtime, host_tsc)| Moment { realtime, host_tsc };
        Passage { from: moment(from), to: moment(to), same_boot }
    }

    /// A guest whose counter showed 1,000 shows 1,000 and two seconds' ticks on a host that has just booted.
    #[test]
    fn a_counter_goes_on_on_another_host() {
        let second = 1_000_000_000;
        let moved = passage(false, (10 * second, 50_000), (12 * second, 70));
        let offset = 1_000_u64.wrapping_sub(50_000);
        let new = moved.tsc_offset(offset, 2_000_000);
        assert_eq!(70_u64.wrapping_add(new), 1_000 + 2 * 2_000_000_000);
        assert_eq!((moved.elapsed(), moved.ticks(1000)), (2 * second, 2_000_000));
    }

    #[test]
    fn within_one_boot_the_offset_stays() {
        assert_eq!(passage(true, (5, 6), (7_000, 8_000)).tsc_offset(77, 1_000_000), 77);
    }

    #[test]
    fn what_is_not_to_be_seen_adds_nothing_also_within_one_boot() {
        let (from, to) = (Moment { realtime: 5, host_tsc: 60 }, Moment { realtime: 7_000, host_tsc: 8_000 });
        let unseen = Passage::unseen(from, to);
        assert_eq!((unseen.elapsed(), unseen.ticks(1_000_000)), (0, 0));
        // The counter showed 61 and shows 61.
        assert_eq!(8_000_u64.wrapping_add(unseen.tsc_offset(1, 1_000_000)), 61);
    }

    #[test]
    fn a_wall_clock_that_was_set_back_or_is_nonsense_overflows_nothing() {
        let back = passage(false, (u64::MAX, 9), (1, 2));
        assert_eq!((back.elapsed(), back.tsc_offset(0, u32::MAX)), (0, 7));
        passage(false, (0, u64::MAX), (u64::MAX, 0)).tsc_offset(u64::MAX, u32::MAX);
    }

    #[test]
    fn moments_follow_each_other() {
        let (first, second) = (Moment::now(), Moment::now());
        assert!(first.realtime > 1_600_000_000_000_000_000 && second.host_tsc > first.host_tsc);
        assert_eq!(boot_id(), boot_id());
    }
}
