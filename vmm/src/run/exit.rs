use crate::monitor::End;
use drystone_lifecycle::Cause;

/// How a run ended, for the user and for the shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExitStatus {
    /// The process's exit code; see the constants.
    pub code: u8,
    /// One line for the user, if there is something to say.
    pub message: Option<String>,
}

impl ExitStatus {
    /// The guest powered off, or was asked to stop.
    pub const OK: u8 = 0;
    /// Something failed before or beside the guest.
    pub const ERROR: u8 = 1;
    /// The command line or configuration makes no sense.
    pub const USAGE: u8 = 2;
    /// The guest crashed (triple fault).
    pub const CRASHED: u8 = 3;
    /// The hypervisor or this program cannot go on with the guest.
    pub const FAULT: u8 = 4;
    /// The guest asked for a reset, and `on_reset` is `stop`.
    pub const RESET: u8 = 5;
    /// The guest's kernel panicked, and `on_panic` is `stop`.
    pub const PANICKED: u8 = 6;
    /// Ended by signal n: this plus n, as shells say it.
    pub const SIGNAL: u8 = 128;

    /// Nothing to say.
    pub fn ok() -> Self {
        Self { code: Self::OK, message: None }
    }

    /// A failure that is not the guest's.
    pub fn error(message: impl ToString) -> Self {
        Self { code: Self::ERROR, message: Some(message.to_string()) }
    }

    /// After signal `n`.
    pub fn signal(n: i32) -> Self {
        let code = u8::try_from(n).map_or(Self::ERROR, |n| Self::SIGNAL.saturating_add(n));
        Self { code, message: None }
    }

    /// As the guest ended.
    pub fn of(end: &End) -> Self {
        let (code, what) = match &end.cause {
            Cause::Operator | Cause::GuestPowerOff | Cause::Shutdown | Cause::Overdue => return Self::ok(),
            Cause::TripleFault => (Self::CRASHED, "the guest crashed: triple fault".into()),
            Cause::GuestReset => (Self::RESET, "the guest asked for a reset, and on_reset is stop".into()),
            Cause::GuestPanic => (Self::PANICKED, "the guest's kernel panicked, and on_panic is stop".into()),
            Cause::Fault(why) => (Self::FAULT, why.clone()),
            other => (Self::FAULT, other.to_string()),
        };
        let hint = if end.hint.is_empty() { String::new() } else { format!(" ({})", end.hint) };
        Self { code, message: Some(what + &hint) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_says_how_the_guest_ended() {
        let of = |cause, hint| ExitStatus::of(&End { cause, hint });
        assert_eq!(of(Cause::GuestPowerOff, ""), ExitStatus::ok());
        for asked in [Cause::Operator, Cause::Shutdown, Cause::Overdue] {
            assert_eq!(of(asked, ""), ExitStatus::ok());
        }
        assert_eq!(of(Cause::GuestPanic, "").code, 6);
        assert_eq!(of(Cause::TripleFault, "").code, 3);
        assert_eq!(of(Cause::GuestReset, "").code, 5);
        let fault = of(Cause::Fault("vCPU 0: no".into()), "try that");
        assert_eq!((fault.code, fault.message.as_deref()), (4, Some("vCPU 0: no (try that)")));
        assert_eq!(ExitStatus::signal(15).code, 143);
        assert_eq!(ExitStatus::error("x").code, 1);
    }
}
