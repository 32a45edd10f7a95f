//! Which machine jobs run on, and everything prepared for it.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::assets::{self, Assets};
use crate::build::build_binary;
use crate::error::Error;
use crate::kernel::{KernelImages, Version};
use crate::progress::Progress;
use crate::store::Store;

/// Where jobs run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// On this machine, which has hardware virtualisation.
    Direct,
    /// On an emulated machine.
    Emulated,
}

/// The lab, ready for jobs.
///
/// ```no_run
/// use drystone_lab::{Job, Lab, Progress};
/// let lab = Lab::prepare(&Progress::stderr())?;
/// let outcome = Job::new("uname").arg("-r").run(&lab)?;
/// assert_eq!(outcome.code, 0);
/// # Ok::<(), drystone_lab::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Lab {
    mode: Mode,
    why: String,
    store: Store,
    assets: Assets,
    agent: Option<PathBuf>,
}

impl Lab {
    /// Chooses a mode and fetches what is missing for it; a minute at the first time, nothing later.
    ///
    /// `DRYSTONE_LAB=direct` or `emulated` overrides the choice, and `DRYSTONE_LAB_DIR` the place where things are kept.
    /// May be called by any number of tests and processes at once.
    ///
    /// # Errors
    /// When something cannot be fetched, unpacked or built: see [`Error`].
    pub fn prepare(progress: &Progress) -> Result<Self, Error> {
        let mut lab = Self::without_agent(progress)?;
        if lab.mode == Mode::Emulated {
            progress.step("building the lab's agent");
            lab.agent = Some(build_binary("drystone-lab", "drystone-lab")?);
            progress.clear();
        }
        Ok(lab)
    }

    /// As [`Self::prepare`], for a program that is `drystone-lab` itself, or calls [`crate::agent`] when [`crate::is_agent`]
    /// says so: that program is then what serves jobs inside of the machine.
    ///
    /// # Errors
    /// As [`Self::prepare`].
    pub fn prepare_with_agent(agent: &Path, progress: &Progress) -> Result<Self, Error> {
        Ok(Self { agent: Some(agent.into()), ..Self::without_agent(progress)? })
    }

    fn without_agent(progress: &Progress) -> Result<Self, Error> {
        let (mode, why) = choose()?;
        if std::env::consts::ARCH != "x86_64" {
            return Err(Error::Architecture(std::env::consts::ARCH));
        }
        let store = Store::locate();
        let assets = assets::prepare(&store, progress)?;
        Ok(Self { mode, why, store, assets, agent: None })
    }

    /// Where jobs run.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// One sentence: where jobs run and why.
    pub fn explain(&self) -> String {
        explain(self.mode, &self.why)
    }

    /// One of the stock kernels.
    pub fn kernel(&self, version: Version) -> &KernelImages {
        self.assets.kernel(version)
    }

    /// A static busybox, for guests.
    pub fn busybox(&self) -> &Path {
        &self.assets.tools.busybox
    }

    /// mke2fs(8), which makes file systems on this machine.
    pub fn mke2fs(&self) -> Command {
        self.assets.tools.mke2fs.command()
    }

    /// e2fsck(8), which checks them.
    pub fn e2fsck(&self) -> Command {
        self.assets.tools.e2fsck.command()
    }

    /// A Debian package for guests, unpacked with everything it depends on: the directory that stands for its root. Fetched
    /// the first time.
    ///
    /// # Errors
    /// When it cannot be fetched or unpacked.
    pub fn package(&self, name: &str, progress: &Progress) -> Result<PathBuf, Error> {
        assets::package(&self.store, name, progress)
    }

    /// The directory where things are kept.
    pub fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn assets(&self) -> &Assets {
        &self.assets
    }

    pub(crate) fn agent(&self) -> Result<&Path, Error> {
        self.agent.as_deref().ok_or_else(|| Error::Job("this lab was prepared without an agent".into()))
    }
}

/// Where jobs would run and why, without preparing anything: one sentence.
///
/// # Errors
/// [`Error::Environment`] when `DRYSTONE_LAB` has an unknown value.
pub fn explain_choice() -> Result<String, Error> {
    choose().map(|(mode, why)| explain(mode, &why))
}

fn explain(mode: Mode, why: &str) -> String {
    match mode {
        Mode::Direct => format!("running directly on this machine: {why}"),
        Mode::Emulated => format!("running in the lab, an emulated machine: {why}"),
    }
}

fn choose() -> Result<(Mode, String), Error> {
    const NAME: &str = "DRYSTONE_LAB";
    match std::env::var(NAME).ok().as_deref() {
        None | Some("") => Ok(detect(Path::new("/proc/cpuinfo"), Path::new("/dev/kvm"))),
        Some("direct") => Ok((Mode::Direct, format!("{NAME}=direct asks for it"))),
        Some("emulated") => Ok((Mode::Emulated, format!("{NAME}=emulated asks for it"))),
        Some(value) => {
            Err(Error::Environment { name: NAME, value: value.into(), expected: "`direct` or `emulated`" })
        }
    }
}

/// Looks for hardware virtualisation. A `/dev/kvm` alone is not enough: without the processor's help it is a software
/// emulation that cannot run a stock kernel.
fn detect(cpuinfo: &Path, kvm: &Path) -> (Mode, String) {
    let text = fs::read_to_string(cpuinfo).unwrap_or_default();
    let flags = text.lines().filter(|line| line.starts_with("flags")).flat_map(str::split_whitespace);
    let extension = flags.into_iter().find(|flag| *flag == "vmx" || *flag == "svm");
    let Some(extension) = extension else {
        return (
            Mode::Emulated,
            "the processor offers no hardware virtualisation here (neither vmx nor svm)".into(),
        );
    };
    match OpenOptions::new().read(true).write(true).open(kvm) {
        Ok(_) => (Mode::Direct, format!("the processor has {extension} and {} opens", kvm.display())),
        Err(error) => (
            Mode::Emulated,
            format!("the processor has {extension}, but {} does not open ({error})", kvm.display()),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_virtualisation_needs_the_flag_and_the_device() {
        let dir = tempfile::tempdir().unwrap();
        let cpuinfo = dir.path().join("cpuinfo");
        let choose = |flags: &str, kvm: &str| {
            fs::write(&cpuinfo, format!("processor : 0\nflags\t\t: fpu {flags} sse\n")).unwrap();
            detect(&cpuinfo, Path::new(kvm))
        };
        assert_eq!(choose("vmx", "/dev/null").0, Mode::Direct);
        assert_eq!(choose("svm", "/dev/null").0, Mode::Direct);
        assert_eq!(choose("svmx", "/dev/null").0, Mode::Emulated);
        let (mode, why) = choose("vmx", "/nowhere/kvm");
        assert_eq!(mode, Mode::Emulated);
        assert!(why.contains("/nowhere/kvm does not open"), "{why}");
    }
}
