use super::MachineError;
use crate::config::Config;
use drystone_loader::{CommandLine, Initrd, KernelImage, Protocol};
use std::fmt;

/// What every guest is told first. The user's parameters come after it, and win.
/// - Its console is the serial port, and its keyboard comes without a mouse.
/// - It need not try out each of its ciphers: distributions' kernels do, for a third of the time until their first program. A kernel
///   in FIPS mode does so all the same.
const DEFAULT_CMDLINE: &str = "console=ttyS0 i8042.noaux cryptomgr.notests";
/// What errors call the guest that is booted when the user names no kernel.
const BUILT_IN: &str = "(built in)";

/// What the user wants to boot, looked at before anything is made.
pub(super) struct Payload {
    pub(super) kernel: KernelImage,
    pub(super) initrd: Option<Initrd>,
    pub(super) cmdline: CommandLine,
    /// How the kernel is to be entered; `None` leaves it to the kernel.
    pub(super) protocol: Option<Protocol>,
}

impl Payload {
    /// Opens the files that `config` names.
    pub(super) fn open(config: &Config) -> Result<Self, MachineError> {
        let kernel = match &config.kernel {
            Some(path) => KernelImage::open(path)?,
            None => KernelImage::from_bytes(drystone_guest::IMAGE, BUILT_IN)?,
        };
        let initrd = config.initrd.as_ref().map(Initrd::open).transpose()?;
        let mut cmdline = CommandLine::new();
        cmdline.push_default(DEFAULT_CMDLINE)?.push_user(&config.cmdline)?;
        cmdline.render(kernel.cmdline_max())?;
        Ok(Self { kernel, initrd, cmdline, protocol: config.boot_protocol.wanted() })
    }

    /// What is known of the kernel before it runs.
    fn booted(&self) -> Result<Booted, MachineError> {
        let protocol = self.kernel.protocol(self.protocol)?;
        Ok(Booted {
            kernel: self.kernel.name().into(),
            protocol,
            possible: self.kernel.protocols().collect(),
        })
    }
}

/// Which kernel a machine runs, and how it is entered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Booted {
    /// Its path, or `(built in)`.
    pub kernel: String,
    /// How it is entered.
    pub protocol: Protocol,
    /// All ways in which it could be.
    pub possible: Vec<Protocol>,
}

impl Booted {
    /// Of a machine with `payload`, or of one that is restored and whose kernel is gone.
    pub(super) fn of(payload: &Result<Payload, String>, config: &Config) -> Result<Self, MachineError> {
        if let Ok(payload) = payload {
            return payload.booted();
        }
        let kernel = config.kernel.as_ref().map_or(BUILT_IN.into(), |path| path.display().to_string());
        let protocol = config.boot_protocol.wanted().unwrap_or(Protocol::Linux);
        Ok(Self { kernel, protocol, possible: vec![protocol] })
    }
}

impl fmt::Display for Booted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kernel {}, entered by the {} protocol", self.kernel, self.protocol)?;
        let mut others = self.possible.iter().filter(|other| **other != self.protocol);
        others.try_for_each(|other| write!(f, "; {other} is possible"))
    }
}
