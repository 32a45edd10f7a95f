use std::io;

/// Why a set of vCPUs could not be made, changed or looked at.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VcpuError {
    /// A set without vCPUs.
    #[error("a machine needs at least one vCPU")]
    Empty,
    /// Two vCPUs of the same number.
    #[error("two vCPUs have number {0}")]
    Duplicate(u32),
    /// No such vCPU.
    #[error("there is no vCPU {0}")]
    Unknown(u32),
    /// The host gives no thread.
    #[error("vCPU {id}: cannot start its thread: {cause}")]
    Thread {
        /// The vCPU's number.
        id: u32,
        /// What the host said.
        cause: io::Error,
    },
    /// Its thread could not be made ready.
    #[error("vCPU {id}: cannot prepare its thread: {cause}")]
    Setup {
        /// The vCPU's number.
        id: u32,
        /// What the preparation said.
        cause: io::Error,
    },
    /// The hypervisor refused something.
    #[error("vCPU {id}: cannot {attempt}: {cause}")]
    Vcpu {
        /// The vCPU's number.
        id: u32,
        /// What was tried.
        attempt: &'static str,
        /// What the hypervisor said.
        cause: drystone_hypervisor::Error,
    },
    /// Only possible while the vCPUs are paused.
    #[error("cannot {0} while the vCPUs run")]
    NotPaused(&'static str),
    /// The threads have ended.
    #[error("cannot {0}: the vCPUs have been stopped")]
    Stopped(&'static str),
    /// Called from a vCPU's own thread, which would wait for itself.
    #[error("cannot {0} from the event sink: it runs on a vCPU's own thread")]
    OwnThread(&'static str),
}
