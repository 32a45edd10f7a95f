use std::io;

/// Why a runner cannot run something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunnerError {
    /// No thread could be started, or it has no event loop.
    #[error("runner thread {name}: cannot {attempt}: {cause}")]
    Thread {
        /// The thread's name.
        name: String,
        /// What was tried.
        attempt: &'static str,
        /// What the host said.
        cause: io::Error,
    },
    /// A descriptor cannot be listened to.
    #[error("lane {lane}: cannot listen to {what}: {cause}")]
    Listen {
        /// The lane of the device.
        lane: usize,
        /// Which descriptor.
        what: String,
        /// What the host said.
        cause: io::Error,
    },
    /// The doorbells are those of a device with fewer queues.
    #[error("lane {lane}: queue {queue} has no doorbell")]
    NoDoorbell {
        /// The lane of the device.
        lane: usize,
        /// The queue.
        queue: u16,
    },
    /// A thread has ended, because its event loop failed.
    #[error("runner thread {0} is gone")]
    Gone(String),
    /// A thread does not come out of a worker.
    #[error("runner thread {0} is stuck in a worker")]
    Stuck(String),
}
