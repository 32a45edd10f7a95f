//! `drystone-lab boot`, which is `cargo boot`.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use drystone_lab::initramfs::Builder;
use drystone_lab::{Job, Lab, Mode, Progress, Version, build_visibly};

use super::parse_size;
use super::run::{launch, prepare};

/// What the guest's first program does: a shell on the serial console, with job control, and the end of the machine after it.
const INIT: &str = r#"#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts && mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /tmp
hostname guest
export HOME=/root TERM='@TERM@' PS1='guest:\w# '
cd /root
stty rows @ROWS@ cols @COLUMNS@ < /dev/ttyS0
cpus=$(grep -c ^processor /proc/cpuinfo)
memory=$(awk '/^MemTotal/ { print int($2 / 1024) }' /proc/meminfo)
echo "Linux $(uname -r), $cpus CPU, $memory MiB, up $(cut -d' ' -f1 /proc/uptime) s."
echo "To leave: poweroff -f, or Ctrl-A x; should nothing else help, Ctrl-] three times."
setsid cttyhack sh
poweroff -f
"#;

#[derive(Debug, Args)]
pub struct Boot {
    /// The guest's kernel: one of Debian's, or a file.
    #[arg(long, value_name = "6.1|6.12|PATH", default_value = "6.12")]
    kernel: String,
    /// The guest's processors.
    #[arg(long, value_name = "N", default_value_t = 1)]
    cpus: u32,
    /// The guest's memory.
    #[arg(long, value_name = "SIZE", value_parser = parse_size, default_value = "512M")]
    memory: u64,
    /// Words to add to the kernel's command line.
    #[arg(long, value_name = "WORDS", default_value = "")]
    cmdline_extra: String,
}

impl Boot {
    pub fn execute(self) -> anyhow::Result<i32> {
        let progress = Progress::stderr();
        let lab = prepare(&progress)?;
        progress.clear();
        eprintln!("lab: {}", lab.explain());
        let kernel = self.kernel(&lab)?;
        let vmm = build_visibly("drystone", "drystone", "dev")?;
        let scratch = tempfile::tempdir().context("cannot make a temporary directory")?;
        let initramfs = scratch.path().join("initramfs");
        initial_files(&lab)?.write_to(&initramfs)?;
        let mut job = Job::new("./drystone")
            .args([
                "run",
                "--kernel",
                "./kernel",
                "--initrd",
                "./initramfs",
                "--cmdline",
                &self.command_line(),
            ])
            .args([
                "--cpus",
                &self.cpus.to_string(),
                "--memory",
                &format!("{}M", self.memory.div_ceil(1 << 20)),
            ])
            .file(vmm, "drystone")
            .file(kernel, "kernel")
            .file(&initramfs, "initramfs")
            .time_limit(None)
            .inherit_stdin();
        if lab.mode() == Mode::Emulated {
            job = job.memory(machine_memory(self.memory));
        }
        if std::io::stdin().is_terminal() && std::io::stdout().is_terminal() {
            job = job.terminal().at_once();
        }
        launch(job, &lab, progress)
    }

    fn kernel(&self, lab: &Lab) -> anyhow::Result<PathBuf> {
        if let Some(version) = Version::from_name(&self.kernel) {
            // The unpacked image: the guest has a second less to do.
            return Ok(lab.kernel(version).vmlinux.clone());
        }
        let path = Path::new(&self.kernel);
        path.canonicalize().with_context(|| format!("kernel {}: neither 6.1, 6.12 nor a file", self.kernel))
    }

    fn command_line(&self) -> String {
        format!("console=ttyS0 quiet panic=-1 {}", self.cmdline_extra).trim_end().to_string()
    }
}

/// Room for the guest next to the emulated machine's own needs, in whole GiB: each amount has a snapshot of its own.
fn machine_memory(guest: u64) -> u64 {
    guest.saturating_add(1 << 30).max(2 << 30).next_multiple_of(1 << 30)
}

fn initial_files(lab: &Lab) -> anyhow::Result<Builder> {
    let (rows, columns) = drystone_lab::terminal_size();
    let term = std::env::var("TERM").unwrap_or_default();
    let plain = |char: char| char.is_ascii_alphanumeric() || "-_.+".contains(char);
    let term = if !term.is_empty() && term.chars().all(plain) { term } else { "vt102".into() };
    let init = INIT
        .replace("@TERM@", &term)
        .replace("@ROWS@", &rows.to_string())
        .replace("@COLUMNS@", &columns.to_string());
    let root = "root:x:0:0:root:/root:/bin/sh\n";
    Ok(Builder::new().busybox(lab.busybox())?.init(&init).file("/etc/passwd", 0o644, root))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_has_room_for_the_guest() {
        assert_eq!(machine_memory(512 << 20), 2 << 30);
        assert_eq!(machine_memory(1 << 30), 2 << 30);
        assert_eq!(machine_memory((1 << 30) + 1), 3 << 30);
    }
}
