//! The VMMs that are compared: how each is told to boot a kernel with its serial port on standard output.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

/// A kind of VMM whose command line is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Ours.
    Drystone,
    /// Firecracker, from a configuration file, without its API.
    Firecracker,
    /// Cloud Hypervisor.
    CloudHypervisor,
    /// QEMU's microvm machine.
    Qemu,
}

impl Kind {
    /// All of them, by the name that `--peer` takes.
    pub const ALL: [(&'static str, Self); 4] = [
        ("drystone", Self::Drystone),
        ("firecracker", Self::Firecracker),
        ("cloud-hypervisor", Self::CloudHypervisor),
        ("qemu", Self::Qemu),
    ];
}

/// A program to measure.
#[derive(Debug, Clone)]
pub struct Vmm {
    /// What tables call it.
    pub name: String,
    /// How it is told what to do.
    pub kind: Kind,
    /// Where it is.
    pub path: PathBuf,
}

/// What is booted.
#[derive(Debug, Clone, Copy)]
pub struct Guest<'a> {
    /// An ELF kernel.
    pub kernel: &'a Path,
    /// Its initial RAM file system.
    pub initrd: Option<&'a Path>,
    /// What its command line has beside the serial console.
    pub cmdline: &'a str,
    /// Guest RAM in MiB.
    pub memory_mib: u64,
}

impl FromStr for Vmm {
    type Err = String;

    /// `NAME=PATH`, where a name may have a suffix behind a dot to tell two builds of a kind apart: `qemu.old=PATH`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, path) = text.split_once('=').ok_or("a peer is given as NAME=PATH")?;
        let base = name.split('.').next().unwrap_or(name);
        let known = Kind::ALL.iter().find(|(known, _)| *known == base);
        let Some((_, kind)) = known else {
            let names: Vec<_> = Kind::ALL.iter().map(|(name, _)| *name).collect();
            return Err(format!("{base}: unknown; known are {}", names.join(", ")));
        };
        Ok(Self { name: name.into(), kind: *kind, path: path.into() })
    }
}

impl Vmm {
    /// The command that boots `guest` with its first serial port on standard output, once [`prepare`](Self::prepare) has put what it
    /// reads into `scratch`.
    pub fn command(&self, guest: Guest<'_>, scratch: &Path) -> Command {
        let memory = guest.memory_mib;
        let (cmdline, mut command) = (cmdline(guest), Command::new(&self.path));
        let initrd_option = match self.kind {
            Kind::Drystone => {
                command.args(["run", "--memory"]).arg(format!("{memory}M")).arg("--kernel").arg(guest.kernel);
                command.args(["--cmdline", &cmdline]).env("DRYSTONE_RUNTIME_DIR", scratch.join("run"));
                "--initrd"
            }
            Kind::Firecracker => {
                command.args(["--no-api", "--config-file"]).arg(scratch.join(FIRECRACKER_CONFIG));
                return command;
            }
            Kind::CloudHypervisor => {
                command.arg("--kernel").arg(guest.kernel).arg("--memory").arg(format!("size={memory}M"));
                command.args(["--cpus", "boot=1", "--serial", "tty", "--console", "off"]);
                command.args(["--cmdline", &cmdline]);
                "--initramfs"
            }
            Kind::Qemu => {
                command.args(["-M", "microvm,accel=kvm,acpi=on,rtc=on", "-cpu", "host"]);
                command.args(["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio"]);
                command.arg("-m").arg(format!("{memory}M")).arg("-kernel").arg(guest.kernel);
                command.args(["-append", &cmdline]);
                "-initrd"
            }
        };
        if let Some(initrd) = guest.initrd {
            command.arg(initrd_option).arg(initrd);
        }
        command
    }

    /// Writes the file, if there is one, that [`command`](Self::command) names, and gives its name in `scratch`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn prepare(&self, guest: Guest<'_>, scratch: &Path) -> io::Result<Option<&'static str>> {
        if self.kind != Kind::Firecracker {
            return Ok(None);
        }
        fs::write(scratch.join(FIRECRACKER_CONFIG), firecracker_config(guest))?;
        Ok(Some(FIRECRACKER_CONFIG))
    }

    /// What its version option says, in one line; empty where it says nothing.
    pub fn version(&self) -> String {
        let output = Command::new(&self.path).arg("--version").output();
        let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
        text.lines().next().unwrap_or_default().to_owned()
    }
}

const FIRECRACKER_CONFIG: &str = "firecracker.json";

fn firecracker_config(guest: Guest<'_>) -> String {
    let kernel = guest.kernel.display();
    let initrd =
        guest.initrd.map(|path| format!(r#""initrd_path":"{}","#, path.display())).unwrap_or_default();
    format!(
        r#"{{"boot-source":{{"kernel_image_path":"{kernel}",{initrd}"boot_args":"{}"}},"drives":[],
"machine-config":{{"vcpu_count":1,"mem_size_mib":{}}}}}"#,
        cmdline(guest),
        guest.memory_mib
    )
}

fn cmdline(guest: Guest<'_>) -> String {
    format!("console=ttyS0 {}", guest.cmdline).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_a_known_name_and_a_path() {
        let peer: Vmm = "qemu.old=/opt/qemu=7".parse().unwrap();
        assert_eq!((peer.kind, peer.path), (Kind::Qemu, PathBuf::from("/opt/qemu=7")));
        assert!("xen=/x".parse::<Vmm>().unwrap_err().contains("firecracker"));
        assert!("/usr/bin/qemu".parse::<Vmm>().is_err());
    }
}
