use crate::{Regs, Sregs};
use std::io;

/// What a hypervisor call could not do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The hypervisor cannot be used at all.
    #[error("{device}: cannot open: {cause}{hint}")]
    Unavailable {
        /// The device that was opened, for example `/dev/kvm`.
        device: String,
        /// What the host said.
        cause: io::Error,
        /// What the user can do, starting with a separator; may be empty.
        hint: String,
    },
    /// A call to the host failed.
    #[error("cannot {attempt}: {cause}")]
    Call {
        /// What was tried on what, for example "create vCPU 3".
        attempt: String,
        /// What the host said.
        cause: io::Error,
    },
    /// The host lacks something.
    #[error("this host's hypervisor has no {what}")]
    Missing {
        /// The capability's name in its documentation.
        what: String,
    },
    /// The caller's argument makes no sense.
    #[error("cannot {attempt}: {why}")]
    Invalid {
        /// What was tried on what.
        attempt: String,
        /// Why it is refused.
        why: String,
    },
}

/// Why a virtual CPU cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The hypervisor met an instruction that it had to emulate and cannot.
    #[error("vCPU {id}: the hypervisor cannot emulate the guest's instruction {context}")]
    Emulation {
        /// The vCPU's number.
        id: u32,
        /// What the guest was doing.
        context: Box<GuestContext>,
    },
    /// The processor refused the guest state.
    #[error("vCPU {id}: the processor refused to enter the guest (reason {reason:#x}) at {context}")]
    FailedEntry {
        /// The vCPU's number.
        id: u32,
        /// The hardware's reason code.
        reason: u64,
        /// What the guest was doing.
        context: Box<GuestContext>,
    },
    /// Any other internal error of the hypervisor.
    #[error("vCPU {id}: internal error {suberror} of the hypervisor (data {data:x?}) at {context}")]
    Internal {
        /// The vCPU's number.
        id: u32,
        /// Its kind (`KVM_INTERNAL_ERROR_*`).
        suberror: u32,
        /// What comes with it.
        data: Vec<u64>,
        /// What the guest was doing.
        context: Box<GuestContext>,
    },
    /// An exit that this machine has no answer to.
    #[error("vCPU {id}: unexpected exit: {what}")]
    Unexpected {
        /// The vCPU's number.
        id: u32,
        /// The exit, in the back end's words.
        what: String,
    },
    /// The run call failed.
    #[error("vCPU {id}: cannot run: {cause}")]
    Call {
        /// The vCPU's number.
        id: u32,
        /// What the host said.
        cause: io::Error,
    },
}

impl RunError {
    /// What the guest was doing, where that is known.
    pub fn context(&self) -> Option<&GuestContext> {
        match self {
            Self::Emulation { context, .. }
            | Self::FailedEntry { context, .. }
            | Self::Internal { context, .. } => Some(context),
            Self::Unexpected { .. } | Self::Call { .. } => None,
        }
    }
}

/// What a guest was doing when its vCPU stopped: for a report, never for a decision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GuestContext {
    /// General registers.
    pub regs: Regs,
    /// Segment and control registers.
    pub sregs: Sregs,
    /// The bytes at the instruction pointer, as far as they could be read; at most 15.
    pub bytes: Vec<u8>,
    /// The instruction in assembler notation, if the bytes decode.
    pub instruction: Option<String>,
}

impl std::fmt::Display for GuestContext {
    /// One line: `cmpxchg16b [rsi] (f0 48 0f c7 0e) at rip 0xffffffff81000000, CPL 0`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(instruction) = &self.instruction {
            write!(f, "{instruction} ")?;
        }
        if !self.bytes.is_empty() {
            f.write_str("(")?;
            for (i, byte) in self.bytes.iter().enumerate() {
                write!(f, "{}{byte:02x}", if i == 0 { "" } else { " " })?;
            }
            f.write_str(") ")?;
        }
        write!(f, "at rip {:#x}, CPL {}", self.regs.rip, self.sregs.cs.selector & 3)
    }
}
