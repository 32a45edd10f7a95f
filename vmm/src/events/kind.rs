use drystone_lifecycle::Cause;
use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$variant_doc])* #[serde(rename = $word)] $variant,)*
            /// A word that a later version knows.
            #[serde(other, rename = "unknown")]
            Unknown,
        }

        impl fmt::Display for $name {
            /// The word that is in JSON.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self {
                    $(Self::$variant => $word,)*
                    Self::Unknown => "unknown",
                })
            }
        }
    };
}

words! {
    /// What happened. In JSON a word, such as `guest_reset`.
    EventKind {
        /// The guest was started.
        Started = "started",
        /// It came back from a snapshot, and stands still.
        Restored = "restored",
        /// It was made to stand still.
        Paused = "paused",
        /// It went on.
        Resumed = "resumed",
        /// It was started again, in place.
        Reset = "reset",
        /// It has ended.
        Stopped = "stopped",
        /// The guest switched itself off.
        GuestPowerOff = "guest_power_off",
        /// The guest asked for a reset.
        GuestReset = "guest_reset",
        /// The guest's kernel panicked.
        GuestPanic = "guest_panic",
        /// The guest's kernel panicked, and takes a dump.
        GuestCrashLoaded = "guest_crash_loaded",
        /// The power button was pressed.
        PowerButton = "power_button",
        /// Ctrl-Alt-Del was typed.
        CtrlAltDel = "ctrl_alt_del",
        /// A non-maskable interrupt was sent.
        Nmi = "nmi",
        /// It was written down.
        Snapshot = "snapshot",
        /// The host on which it was written down could not give all of its state.
        SnapshotLacks = "snapshot_lacks",
        /// The guest was asked to shut down, and is forced if it does not in time.
        GracefulStop = "graceful_stop",
        /// It did not in time.
        GracefulStopTimeout = "graceful_stop_timeout",
        /// The guest has one disk more.
        DiskAdded = "disk_added",
        /// The guest was asked to let go of a disk.
        DiskRequested = "disk_requested",
        /// It has not in time, and has the disk still.
        DiskRequestTimeout = "disk_request_timeout",
        /// A disk was pulled: it fails until the guest lets go of it.
        DiskPulled = "disk_pulled",
        /// The guest has one disk less.
        DiskRemoved = "disk_removed",
        /// The guest was told that a disk has another size.
        DiskResized = "disk_resized",
        /// The guest has one network device more.
        NetAdded = "net_added",
        /// The guest was asked to let go of a network device.
        NetRequested = "net_requested",
        /// It has not in time, and has the device still.
        NetRequestTimeout = "net_request_timeout",
        /// A network device was pulled: it is on no network until the guest lets go of it.
        NetPulled = "net_pulled",
        /// The guest has one network device less.
        NetRemoved = "net_removed",
        /// A network device's cable was plugged in, or pulled.
        NetLink = "net_link",
        /// A device has other limits.
        Limited = "limited",
        /// A part failed.
        Error = "error",
    }
}

words! {
    /// Why. In JSON a word, such as `operator`.
    CauseKind {
        /// Somebody outside of the guest asked for it.
        Operator = "operator",
        /// The guest switched itself off.
        GuestPowerOff = "guest_power_off",
        /// The guest asked for a reset.
        GuestReset = "guest_reset",
        /// The guest suffered a triple fault.
        TripleFault = "triple_fault",
        /// The guest's kernel panicked.
        GuestPanic = "guest_panic",
        /// It was restored from a snapshot.
        Restored = "restored",
        /// The guest shut down, as it was asked to.
        Shutdown = "shutdown",
        /// The guest was asked to shut down, and did not in time.
        Overdue = "overdue",
        /// The machine cannot go on.
        Fault = "fault",
    }
}

impl From<&Cause> for CauseKind {
    fn from(cause: &Cause) -> Self {
        match cause {
            Cause::Operator => Self::Operator,
            Cause::GuestPowerOff => Self::GuestPowerOff,
            Cause::GuestReset => Self::GuestReset,
            Cause::TripleFault => Self::TripleFault,
            Cause::GuestPanic => Self::GuestPanic,
            Cause::Restored => Self::Restored,
            Cause::Shutdown => Self::Shutdown,
            Cause::Overdue => Self::Overdue,
            Cause::Fault(_) => Self::Fault,
            _ => Self::Unknown,
        }
    }
}
