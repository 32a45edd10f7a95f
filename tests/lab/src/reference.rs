//! A guest on QEMU's own machine instead of ours: what a stock kernel says elsewhere.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::error::{Context, Error};
use crate::lab::Lab;
use crate::progress::Progress;
use crate::rundir::{RunDir, take_slot};
use crate::spawn::{Before, spawn};

/// A guest for QEMU's q35 machine with an emulated processor, for comparison. It must power itself off.
#[derive(Debug, Clone)]
pub struct Reference {
    /// A bzImage, or an ELF kernel with a PVH note.
    pub kernel: PathBuf,
    /// Its initial RAM file system.
    pub initramfs: PathBuf,
    /// Its command line.
    pub cmdline: String,
    /// How many processors it has.
    pub cpus: u32,
    /// Its memory in bytes.
    pub memory: u64,
    /// How long it may take.
    pub time_limit: Duration,
}

impl Reference {
    /// Boots the guest, waits until it has powered itself off, and returns what it said on its first serial port.
    ///
    /// # Errors
    /// [`Error::Machine`] when QEMU fails or the guest does not end in time, with the last lines of its console.
    pub fn boot(&self, lab: &Lab) -> Result<String, Error> {
        let progress = Progress::stderr();
        let _slot = take_slot(lab.store(), &progress)?;
        let run = RunDir::create(lab.store())?;
        progress.step("booting the same kernel on QEMU's own machine");
        let console = run.path().join("console");
        let ended = self.run(lab, &console, &run.path().join("messages"));
        progress.clear();
        let said = String::from_utf8_lossy(&fs::read(&console).unwrap_or_default()).into_owned();
        match ended? {
            Ok(()) => Ok(said),
            Err(what) => {
                let last: Vec<_> = said.lines().rev().take(10).collect();
                let console = last.iter().rev().map(|line| format!("  {line}\n")).collect();
                Err(Error::Machine { what, console })
            }
        }
    }

    /// The inner error is what the machine did.
    fn run(&self, lab: &Lab, console: &Path, messages: &Path) -> Result<Result<(), String>, Error> {
        let tools = &lab.assets().tools;
        let mut command = tools.qemu.command();
        for dir in &tools.firmware {
            command.arg("-L").arg(dir);
        }
        let (memory, cpus) = (format!("{}M", self.memory >> 20), self.cpus.to_string());
        command.args(["-M", "q35", "-accel", "tcg", "-cpu", "max", "-m", &memory, "-smp", &cpus]);
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial"]);
        command.arg(format!("file:{}", console.display()));
        command.arg("-kernel").arg(&self.kernel).arg("-initrd").arg(&self.initramfs);
        command.arg("-append").arg(&self.cmdline);
        let log = fs::File::create(messages).at("create", messages)?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let mut child = spawn(&mut command, Before::default()).at("start", tools.qemu.file())?;
        let begun = Instant::now();
        let ended = loop {
            match child.try_wait().at("wait for", tools.qemu.file())? {
                Some(status) if status.success() => break Ok(()),
                Some(status) => {
                    let why = fs::read_to_string(messages).unwrap_or_default();
                    break Err(format!("of QEMU's own ended with {status}: {}", why.trim()));
                }
                None if begun.elapsed() > self.time_limit => {
                    break Err(format!("of QEMU's own did not end within {:?}", self.time_limit));
                }
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        let _ = child.kill();
        let _ = child.wait();
        Ok(ended)
    }
}
