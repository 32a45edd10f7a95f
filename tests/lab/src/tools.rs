//! The programs that the lab runs on the host: fetched ones, or the host's own.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::Error;

/// The dynamic loader of an unpacked package tree, and the directory of its libraries.
pub(crate) const LOADER: &str = "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2";
pub(crate) const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// A program, and how it is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Program {
    /// One of an unpacked package tree: started through that tree's own dynamic loader, so that the host's libraries do not matter.
    Unpacked { root: PathBuf, path: &'static str },
    /// One that the host has.
    Host(PathBuf),
}

impl Program {
    /// A command that starts the program.
    pub(crate) fn command(&self) -> Command {
        match self {
            Self::Host(path) => Command::new(path),
            Self::Unpacked { root, path } => {
                let mut command = Command::new(root.join(LOADER));
                command.arg("--library-path").arg(root.join(LIBRARIES)).arg(root.join(path));
                command
            }
        }
    }

    /// The file of the program itself.
    pub(crate) fn file(&self) -> PathBuf {
        match self {
            Self::Host(path) => path.clone(),
            Self::Unpacked { root, path } => root.join(path),
        }
    }

    /// Runs the program to its end; an exit code other than 0 is an error with the line of stderr that tells why.
    pub(crate) fn run(&self, name: &str, arguments: impl FnOnce(&mut Command)) -> Result<(), Error> {
        let mut command = self.command();
        arguments(&mut command);
        run(name, &mut command)
    }
}

/// Runs a command to its end; an exit code other than 0 is an error with the line of stderr that tells why.
pub(crate) fn run(name: &str, command: &mut Command) -> Result<(), Error> {
    let failed = |status: String, detail: String| Error::Program { program: name.into(), status, detail };
    let output = command.stdin(std::process::Stdio::null()).output();
    let output = output.map_err(|error| failed("cannot start".into(), error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    // The last line is the most general one; a full disk is told before it.
    let cause = text.lines().find(|line| line.contains("No space left"));
    let detail = cause.or(text.trim().lines().next_back()).unwrap_or("no message");
    Err(failed(output.status.to_string(), detail.into()))
}

/// Everything the emulated machine needs on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tools {
    pub qemu: Program,
    /// Directories of firmware and option ROMs; empty for a QEMU of the host, which knows its own.
    pub firmware: Vec<PathBuf>,
    pub mke2fs: Program,
    pub e2fsck: Program,
    pub busybox: PathBuf,
}

impl Tools {
    /// The tools in an unpacked package tree.
    pub(crate) fn unpacked(root: &Path) -> Self {
        let program = |path| Program::Unpacked { root: root.into(), path };
        let firmware = ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"];
        Self {
            qemu: program("usr/bin/qemu-system-x86_64"),
            firmware: firmware.map(|dir| root.join(dir)).into(),
            mke2fs: program("usr/sbin/mke2fs"),
            e2fsck: program("usr/sbin/e2fsck"),
            busybox: root.join("usr/bin/busybox"),
        }
    }

    /// Replaces what the environment names.
    pub(crate) fn overridden(mut self) -> Self {
        if let Some(path) = variable("DRYSTONE_LAB_QEMU") {
            self.qemu = Program::Host(path);
            self.firmware.clear();
        }
        if let Some(path) = variable("DRYSTONE_LAB_MKE2FS") {
            // Both are e2fsprogs.
            self.e2fsck = Program::Host(path.with_file_name("e2fsck"));
            self.mke2fs = Program::Host(path);
        }
        if let Some(path) = variable("DRYSTONE_LAB_BUSYBOX") {
            self.busybox = path;
        }
        self
    }

    /// True when the environment names every tool, so that nothing has to be fetched.
    pub(crate) fn all_overridden() -> bool {
        ["DRYSTONE_LAB_QEMU", "DRYSTONE_LAB_MKE2FS", "DRYSTONE_LAB_BUSYBOX"]
            .iter()
            .all(|name| variable(name).is_some())
    }
}

/// A path from the environment, when it is set and not empty.
pub(crate) fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}
