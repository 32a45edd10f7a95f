//! The VMMs that are compared: how each is told to boot a kernel with its serial port on standard output.

use std::ffi::OsString;
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
    /// The command that boots `guest`. Files that it needs go to `scratch`.
    ///
    /// # Errors
    /// When such a file cannot be written.
    pub fn command(&self, guest: Guest<'_>, scratch: &Path) -> io::Result<Command> {
        let memory = guest.memory_mib;
        let mut command = Command::new(&self.path);
        match self.kind {
            Kind::Drystone => {
                command.args(["run", "--memory"]).arg(format!("{memory}M")).arg("--kernel").arg(guest.kernel);
                command.env("DRYSTONE_RUNTIME_DIR", scratch.join("run"));
            }
            Kind::Firecracker => {
                let config = scratch.join("firecracker.json");
                fs::write(&config, firecracker_config(guest))?;
                command.args(["--no-api", "--config-file"]).arg(config);
            }
            Kind::CloudHypervisor => {
                command.arg("--kernel").arg(guest.kernel).arg("--memory").arg(format!("size={memory}M"));
                command.args(["--cpus", "boot=1", "--serial", "tty", "--console", "off"]);
            }
            Kind::Qemu => {
                command.args([
                    "-M",
                    "microvm,accel=kvm,acpi=on,rtc=on",
                    "-cpu",
                    "host",
                    "-nodefaults",
                    "-no-user-config",
                ]);
                command.args(["-display", "none", "-serial", "stdio", "-m"]).arg(format!("{memory}M"));
                command.arg("-kernel").arg(guest.kernel);
            }
        }
        Ok(command)
    }

    /// What its version option says, in one line; empty where it says nothing.
    pub fn version(&self) -> String {
        let output = Command::new(&self.path).arg("--version").output();
        let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
        text.lines().next().unwrap_or_default().to_owned()
    }
}

fn firecracker_config(guest: Guest<'_>) -> String {
    let kernel = OsString::from(guest.kernel).to_string_lossy().into_owned();
    format!(
        r#"{{"boot-source":{{"kernel_image_path":"{kernel}","boot_args":"console=ttyS0"}},"drives":[],
"machine-config":{{"vcpu_count":1,"mem_size_mib":{}}}}}"#,
        guest.memory_mib
    )
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
