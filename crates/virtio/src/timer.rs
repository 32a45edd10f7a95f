use crate::Source;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// Wakes a worker once, after a time: a descriptor that becomes readable (timerfd). Cheap to clone; clones are the same
/// timer.
#[derive(Debug, Clone)]
pub struct Timer(Arc<OwnedFd>);

impl Timer {
    /// A timer that is not set.
    ///
    /// # Errors
    /// What the host said when it gave none.
    pub fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        Ok(Self(Arc::new(timerfd_create(TimerfdClockId::Monotonic, flags)?)))
    }

    /// Sets it to fire once after `time`, at once if that is zero; what it was set to before is forgotten.
    pub fn set(&self, time: Duration) {
        // Zero would mean never.
        let time = time.max(Duration::from_nanos(1));
        self.write(Timespec {
            tv_sec: time.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: time.subsec_nanos().into(),
        });
    }

    /// It does not fire any more.
    pub fn clear(&self) {
        self.write(Timespec { tv_sec: 0, tv_nsec: 0 });
    }

    fn write(&self, it_value: Timespec) {
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
        // Fails for a descriptor that is no timer and a time that is none; this is one, and the time is.
        let _ = timerfd_settime(&*self.0, TimerfdTimerFlags::empty(), &once);
    }

    /// The descriptor to watch, for [`sources`](crate::Worker::sources). Setting the timer again takes back what it said;
    /// nobody needs to read it.
    pub fn source(&self, token: u32) -> Source {
        Source { fd: self.0.clone(), token, readable: true, writable: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, poll};

    fn fires_within(timer: &Timer, millis: i64) -> bool {
        let time = Timespec { tv_sec: 0, tv_nsec: millis * 1_000_000 };
        poll(&mut [PollFd::new(&*timer.0, PollFlags::IN)], Some(&time)).unwrap() == 1
    }

    #[test]
    fn it_fires_when_set_and_not_when_cleared() {
        let timer = Timer::new().unwrap();
        assert!(!fires_within(&timer, 0));
        for time in [Duration::ZERO, Duration::from_millis(1)] {
            timer.set(time);
            assert!(fires_within(&timer, 900));
        }
        timer.set(Duration::MAX);
        assert!(!fires_within(&timer, 0), "set again, it is forgotten");
        timer.set(Duration::ZERO);
        timer.clone().clear();
        assert!(!fires_within(&timer, 5));
    }
}
