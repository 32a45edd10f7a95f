/// Which accesses of a guest to model-specific registers the hypervisor does not answer by itself.
///
/// The registers of a local APIC in x2APIC mode (0x800 to 0x8ff) are always the hypervisor's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MsrFilter {
    /// What is taken from the hypervisor. Where two ranges overlap, the first one counts.
    pub ranges: Vec<MsrRange>,
    /// Registers that the hypervisor does not know are handed over too, where it would refuse the access.
    pub hand_over_unknown: bool,
}

/// Registers with numbers from `first` to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct MsrRange {
    pub first: u32,
    pub last: u32,
    pub access: MsrAccess,
    pub action: MsrAction,
}

/// One direction, or both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MsrAccess {
    /// RDMSR.
    Read,
    /// WRMSR.
    Write,
    /// RDMSR and WRMSR.
    Both,
}

/// What becomes of an access that is taken from the hypervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MsrAction {
    /// The guest gets a general protection fault, as for a register that does not exist.
    Refuse,
    /// [`IoHandler::rdmsr`](crate::IoHandler::rdmsr) and [`IoHandler::wrmsr`](crate::IoHandler::wrmsr) answer.
    HandOver,
}

impl MsrAccess {
    /// Whether a read (or a write) is meant.
    pub fn covers(self, write: bool) -> bool {
        match self {
            Self::Read => !write,
            Self::Write => write,
            Self::Both => true,
        }
    }
}

impl MsrFilter {
    /// What becomes of an access; `None` if the hypervisor answers it, as far as it knows the register.
    pub fn action(&self, index: u32, write: bool) -> Option<MsrAction> {
        let covers = |r: &&MsrRange| (r.first..=r.last).contains(&index) && r.access.covers(write);
        self.ranges.iter().find(covers).map(|r| r.action)
    }
}
