//! The agreement on notifications (2.7.6 to 2.7.10): neither a kick nor an interrupt that somebody waits for is lost.
//!
//! Written over the trait [`Shared`], and with its fence passed in, so that `tests/arm_model.rs` can compile this very
//! file over loom's atomics and try every interleaving.

use std::sync::atomic::Ordering;

/// VIRTQ_AVAIL_F_NO_INTERRUPT.
pub const NO_INTERRUPT: u16 = 1;
/// VIRTQ_USED_F_NO_NOTIFY.
pub const NO_NOTIFY: u16 = 1;

/// The words of a ring that both sides look at.
pub trait Shared {
    type Error;
    /// VIRTIO_F_EVENT_IDX was negotiated.
    fn event_idx(&self) -> bool;
    /// The driver's available index.
    fn available(&self, order: Ordering) -> Result<u16, Self::Error>;
    /// The driver's flags.
    fn driver_flags(&self) -> Result<u16, Self::Error>;
    /// The used index after which the driver wants an interrupt.
    fn used_event(&self) -> Result<u16, Self::Error>;
    /// Publishes the used index, after everything written before.
    fn set_used(&self, index: u16) -> Result<(), Self::Error>;
    /// The device's flags.
    fn set_device_flags(&self, flags: u16) -> Result<(), Self::Error>;
    /// The available index after which the device wants a kick.
    fn set_avail_event(&self, index: u16) -> Result<(), Self::Error>;
}

/// How far a batch has come.
pub struct Batch {
    /// How many were popped, modulo 2^16.
    pub next_avail: u16,
    /// How many were used, modulo 2^16.
    pub next_used: u16,
    /// How many of those the driver has not been told about.
    pub added: u16,
    /// The ring was found empty: a kick is wanted for the next.
    pub emptied: bool,
}

/// What is to be done after [`settle`].
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The driver added something before it could see that a kick is wanted: it may not kick.
    pub more: bool,
    /// The driver wants an interrupt.
    pub interrupt: bool,
}

/// Is `event` among the `added` indices that end at `now`? (2.7.7.2, 2.7.10)
pub fn passed(event: u16, now: u16, added: u16) -> bool {
    now.wrapping_sub(event).wrapping_sub(1) < added
}

/// While the device looks at the ring anyway, it needs no kicks. With an event index this is so by itself, as the index
/// stays behind.
pub fn hush<S: Shared>(ring: &S) -> Result<(), S::Error> {
    if ring.event_idx() { Ok(()) } else { ring.set_device_flags(NO_NOTIFY) }
}

/// Publishes what was used, asks for kicks if the ring was emptied, and only then, behind one fence, looks at what the
/// driver did meanwhile: did it add before it could see that we ask, and did it ask for this interrupt?
pub fn settle<S: Shared>(ring: &S, batch: &Batch, fence: impl FnOnce()) -> Result<Outcome, S::Error> {
    let Batch { next_avail, next_used, added, emptied } = *batch;
    let mut outcome = Outcome { more: false, interrupt: false };
    if added == 0 && !emptied {
        return Ok(outcome);
    }
    if added != 0 {
        ring.set_used(next_used)?;
    }
    if emptied {
        if ring.event_idx() { ring.set_avail_event(next_avail)? } else { ring.set_device_flags(0)? }
    }
    fence();
    if emptied {
        outcome.more = ring.available(Ordering::Relaxed)? != next_avail;
    }
    if added != 0 {
        outcome.interrupt = if ring.event_idx() {
            passed(ring.used_event()?, next_used, added)
        } else {
            ring.driver_flags()? & NO_INTERRUPT == 0
        };
    }
    Ok(outcome)
}
