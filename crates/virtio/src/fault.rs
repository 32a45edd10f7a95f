use std::io;

/// Why a lane stopped: the guest broke the protocol, or the device has a bug. The device then says
/// DEVICE_NEEDS_RESET, and its other lanes go on.
///
/// An I/O error of the host is not a fault: the guest gets an error in the request's own form, and the operator an
/// [`Event`](crate::Event) by way of [`Cx::report`](crate::Cx::report).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// A ring or a chain is malformed.
    #[error("queue {queue}: bad ring: {what}")]
    Ring {
        /// The queue.
        queue: u16,
        /// What is wrong.
        what: &'static str,
    },
    /// A ring or a buffer is not in guest memory.
    #[error("guest memory: {0}")]
    Memory(#[from] vm_memory::GuestMemoryError),
    /// A request is so malformed that its form has no place for an error.
    #[error("queue {queue}: bad request: {what}")]
    Request {
        /// The queue.
        queue: u16,
        /// What is wrong.
        what: &'static str,
    },
    /// What does the work is gone for good, for example another process.
    #[error("back end lost: {0}")]
    BackEndLost(String),
    /// The worker broke its contract.
    #[error("device bug: {0}")]
    Bug(&'static str),
    /// The worker panicked.
    #[error("device bug: panic: {0}")]
    Panic(String),
}

/// What the core was waiting for when it ran out of patience.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Attempt {
    /// Finishing what is in flight, for a pause.
    Pause,
    /// Dropping what is in flight, for a reset of the device.
    Reset,
    /// Finishing what is in flight on one queue, for its reset.
    QueueReset,
    /// Starting the lane.
    Start,
    /// Reading or writing the configuration space.
    Config,
}

impl std::fmt::Display for Attempt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Attempt::Pause => "pause",
            Attempt::Reset => "reset",
            Attempt::QueueReset => "queue reset",
            Attempt::Start => "start",
            Attempt::Config => "configuration access",
        })
    }
}

/// Something that an operator should know about a device. A guest can cause any number of them: whoever writes them
/// down limits their rate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A lane stopped until the driver resets the device.
    #[error("lane {lane} stopped: {fault}")]
    Fault {
        /// The lane.
        lane: usize,
        /// Why.
        fault: &'a Fault,
    },
    /// A back end did not let go of its requests, or a worker of its lane, in time. Said once until it does.
    #[error("lane {lane} is stuck: {attempt} not finished in time, {in_flight} requests in flight")]
    Stuck {
        /// The lane.
        lane: usize,
        /// What was tried.
        attempt: Attempt,
        /// Requests that the worker still holds; 0 if not even its lane could be entered.
        in_flight: u32,
    },
    /// The host failed a request; the guest was told in the request's own form.
    #[error("{what}: {error}")]
    Host {
        /// What was tried on what.
        what: &'static str,
        /// What the host said.
        error: &'a io::Error,
    },
}

/// Hears of a device's [`Event`]s. Called under locks of the core, from any thread: it must not block, and must not
/// call the core.
pub trait Observer: Send + Sync {
    /// Something happened.
    fn event(&self, event: &Event<'_>);
}

/// Hears nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn event(&self, _: &Event<'_>) {}
}
