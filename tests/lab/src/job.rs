//! A command to be run, and what came of it.

mod launch;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::cancel::Cancel;
use crate::collect::Wanted;
use crate::error::Error;
use crate::image::checked_name;
use crate::lab::{Lab, Mode};
use crate::progress::Progress;
use crate::sink::{Callback, Sink, Stream};

/// The memory of the emulated machine unless a job asks for another amount.
const MEMORY: u64 = 2 << 30;
/// The least that the machine itself gets along with.
const LEAST_MEMORY: u64 = 512 << 20;

/// What a job's standard input is.
enum Stdin {
    Empty,
    Bytes(Vec<u8>),
    Inherited,
}

/// A command with its files, built up and then [run](Self::run).
///
/// It starts in a directory of its own, which holds the files it was given and whose path is in `LAB_JOB`; that
/// directory is also first in the path. Use relative names: the place differs between the modes.
/// In the emulated machine the command is root, has busybox's commands and the host's C library, and finds `/dev/kvm` open.
pub struct Job {
    command: Vec<String>,
    files: Vec<(PathBuf, String)>,
    contents: Vec<(String, Vec<u8>)>,
    outputs: Vec<Wanted>,
    environment: BTreeMap<String, String>,
    limit: Option<Duration>,
    memory: u64,
    processors: u8,
    counted: bool,
    stdin: Stdin,
    stdout: Sink,
    stderr: Sink,
    terminal: bool,
    queued: bool,
    cancel: Option<Cancel>,
    progress: Option<Progress>,
}

/// How a job ended, and what it wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The command's exit code; 128 and the signal's number if it was ended by one; 124 if its time was up; 126 or 127 if
    /// it could not be started.
    pub code: i32,
    /// True when the job was ended by its time limit.
    pub timed_out: bool,
    /// The signal that ended the command.
    pub signal: Option<i32>,
    /// Why the command could not be started.
    pub not_started: Option<String>,
    /// Standard output, unless it was inherited; with a terminal, all that was shown on it.
    pub stdout: Vec<u8>,
    /// Error output, unless it was inherited.
    pub stderr: Vec<u8>,
}

impl Outcome {
    /// Standard output as text; what is not UTF-8 is replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Error output as text; what is not UTF-8 is replaced.
    pub fn error_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Job").field("command", &self.command).finish_non_exhaustive()
    }
}

impl Job {
    /// A program, looked up in the job's directory and the path.
    pub fn new(program: impl Into<String>) -> Self {
        Self {
            command: vec![program.into()],
            files: Vec::new(),
            contents: Vec::new(),
            outputs: Vec::new(),
            environment: BTreeMap::new(),
            limit: Some(Duration::from_secs(120)),
            memory: MEMORY,
            processors: 1,
            counted: false,
            stdin: Stdin::Empty,
            stdout: Sink::Capture(Vec::new()),
            stderr: Sink::Capture(Vec::new()),
            terminal: false,
            queued: true,
            cancel: None,
            progress: None,
        }
    }

    /// The same job once more: what it runs, with what, and what comes back; its streams are as those of a new one.
    pub fn again(&self) -> Self {
        let wanted = |w: &Wanted| Wanted { name: w.name.clone(), destination: w.destination.clone() };
        Self {
            command: self.command.clone(),
            files: self.files.clone(),
            contents: self.contents.clone(),
            outputs: self.outputs.iter().map(wanted).collect(),
            environment: self.environment.clone(),
            limit: self.limit,
            memory: self.memory,
            processors: self.processors,
            counted: self.counted,
            ..Self::new("")
        }
    }

    /// A script for `sh`.
    pub fn shell(script: impl Into<String>) -> Self {
        Self::new("sh").arg("-c").arg(script)
    }

    /// Adds an argument.
    pub fn arg(mut self, argument: impl Into<String>) -> Self {
        self.command.push(argument.into());
        self
    }

    /// Adds arguments.
    pub fn args<T: Into<String>>(mut self, arguments: impl IntoIterator<Item = T>) -> Self {
        self.command.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Puts a file or directory of the host into the job's directory under a name. In both modes the job gets a copy.
    pub fn file(mut self, source: impl Into<PathBuf>, name: impl Into<String>) -> Self {
        self.files.push((source.into(), name.into()));
        self
    }

    /// Puts a file with these contents into the job's directory under a name.
    pub fn contents(mut self, name: impl Into<String>, contents: impl Into<Vec<u8>>) -> Self {
        self.contents.push((name.into(), contents.into()));
        self
    }

    /// Brings a file or directory of the job's directory back to the host, however the command ends.
    pub fn output(mut self, name: impl Into<String>, destination: impl Into<PathBuf>) -> Self {
        self.outputs.push(Wanted { name: name.into(), destination: destination.into() });
        self
    }

    /// Sets an environment variable of the command. Of the host's variables it gets none but `TERM`.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.environment.insert(name.into(), value.into());
        self
    }

    /// Kills everything in the job after this time; 120 s unless this is called. `None` is no limit.
    pub fn time_limit(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.limit = limit.into();
        self
    }

    /// Sets the memory of the emulated machine in bytes, rounded up to whole MiB; 2 GiB unless this is called. Each amount
    /// has its own snapshot. Says nothing to a job that runs directly.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = bytes;
        self
    }

    /// Sets the number of processors of the emulated machine, 1 to 255; 1 unless this is called. Says nothing to a job that runs directly.
    ///
    /// More than one is for what cannot be seen on one, such as where threads may run. Such a machine is not to be trusted when guests keep
    /// its processors busy: about one in ten boots of two guests at once then ends by a fault out of nothing, of a guest or of the machine. With one
    /// processor, or one guest, that was never seen, and guests of many vCPUs are no slower on one.
    pub fn processors(mut self, count: u8) -> Self {
        self.processors = count;
        self
    }

    /// Counts the emulated machine's time in its instructions, one a nanosecond, and runs its processors by turns: what is measured there
    /// repeats, however busy the host is, and says how much work it was and not how long it takes on real processors. Waiting takes no
    /// time. About one such machine in ten stands still for ever: give it a time limit and try again. Says nothing to a job that runs
    /// directly.
    pub fn counted(mut self) -> Self {
        self.counted = true;
        self
    }

    /// The emulated machine's processors, as [`processors`](Self::processors) set them.
    pub fn emulated_processors(&self) -> u8 {
        self.processors
    }

    /// Gives the command these bytes as standard input; it is empty otherwise.
    pub fn stdin_bytes(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Stdin::Bytes(bytes.into());
        self
    }

    /// Gives the command this process's standard input.
    pub fn inherit_stdin(mut self) -> Self {
        self.stdin = Stdin::Inherited;
        self
    }

    /// Writes both outputs to this process's own as they come, and keeps nothing.
    pub fn inherit_output(mut self) -> Self {
        self.stdout = Sink::inherit(Stream::Stdout);
        self.stderr = Sink::inherit(Stream::Stderr);
        self
    }

    /// Calls a function with standard output as it comes; it is kept as well.
    pub fn on_stdout(mut self, function: impl FnMut(&[u8]) + Send + 'static) -> Self {
        self.stdout = Sink::Call(Box::new(function) as Callback, Vec::new());
        self
    }

    /// Runs the command on a terminal of its own. With an inherited input that is a terminal, that one is in raw mode
    /// meanwhile, its size is passed on, and Ctrl-] three times in a row ends the job.
    pub fn terminal(mut self) -> Self {
        self.terminal = true;
        self
    }

    /// Starts the job at once, however many run already: for one that a person sits in front of.
    pub fn at_once(mut self) -> Self {
        self.queued = false;
        self
    }

    /// Lets a switch end the job with [`Error::Cancelled`].
    pub fn cancel(mut self, cancel: &Cancel) -> Self {
        self.cancel = Some(cancel.clone());
        self
    }

    /// Says there what takes long before the command starts; nothing is said otherwise.
    pub fn progress(mut self, progress: Progress) -> Self {
        self.progress = Some(progress);
        self
    }

    /// Runs the job to its end, in the calling thread.
    ///
    /// Whatever happens, nothing is left: no process, no file. If this process is killed the machine dies with it, and
    /// its files go with the next job.
    ///
    /// # Errors
    /// When the job could not be run or not be seen to its end, or an output did not come back. An exit code other than 0
    /// is no error.
    pub fn run(mut self, lab: &Lab) -> Result<Outcome, Error> {
        self.check()?;
        let progress = self.progress.take().unwrap_or_else(Progress::silent);
        match lab.mode() {
            Mode::Direct => self.run_directly(lab),
            Mode::Emulated => self.run_emulated(lab, &progress),
        }
    }

    fn check(&self) -> Result<(), Error> {
        let files = self.files.iter().map(|(_, name)| name).chain(self.contents.iter().map(|(name, _)| name));
        for name in files.chain(self.outputs.iter().map(|wanted| &wanted.name)) {
            checked_name(name)?;
        }
        for text in self.command.iter().chain(self.environment.keys()).chain(self.environment.values()) {
            if text.contains('\0') {
                return Err(Error::Job(format!("{text:?} has a zero byte, which no program can be given")));
            }
        }
        if self.processors == 0 {
            return Err(Error::Job("the lab's machine needs a processor".into()));
        }
        if self.memory < LEAST_MEMORY {
            return Err(Error::Job(format!(
                "the lab's machine needs {} MiB of memory or more",
                LEAST_MEMORY >> 20
            )));
        }
        Ok(())
    }
}
