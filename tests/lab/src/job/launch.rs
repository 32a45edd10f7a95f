//! Running a job, in either mode.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::SystemTime;

use super::{Job, Outcome, Stdin};
use crate::cancel::Resizes;
use crate::collect::Collector;
use crate::error::{Context, Error};
use crate::executor::{Containment, Link, execute};
use crate::guest::JOB;
use crate::image::{checked_name, disk, place};
use crate::lab::Lab;
use crate::machine::{Shape, Snapshot};
use crate::progress::Progress;
use crate::pump::{Input, Pump};
use crate::rundir::{JOB_VARIABLE, RunDir, marker, take_slot};
use crate::terminal::{self, Raw};
use crate::wire::{End, Kind, Request};

impl Job {
    pub(super) fn run_emulated(self, lab: &Lab, progress: &Progress) -> Result<Outcome, Error> {
        let memory = self.memory.next_multiple_of(1 << 20);
        let shape = Shape { memory, processors: self.processors, counted: self.counted };
        let _slot = if self.queued { Some(take_slot(lab.store(), progress)?) } else { None };
        let snapshot = Snapshot::get(lab.store(), lab.assets(), lab.agent()?, shape, progress)?;
        let run = RunDir::create(lab.store())?;
        let files = run.path().join("files");
        self.place_files(&files, true)?;
        disk(&lab.assets().tools, &files, &run.path().join("disk"))?;
        crate::store::remove_tree(&files)?;
        self.stop_if_cancelled()?;
        let mut machine = snapshot.resume(lab.assets(), run.path())?;
        progress.clear();
        let mut request = self.request(JOB, &format!("{JOB}:/bin"))?;
        request.environment.entry("HOME".into()).or_insert_with(|| "/root".into());
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        request.clock =
            i64::try_from(now.as_secs()).ok().map(|seconds| (seconds, i64::from(now.subsec_nanos())));
        let port = machine.take_port()?;
        let mut pump = self.pump(port, &request, run.path())?;
        pump.machine = Some(&mut machine);
        finish(pump)
    }

    pub(super) fn run_directly(self, lab: &Lab) -> Result<Outcome, Error> {
        let run = RunDir::create(lab.store())?;
        let directory = run.job();
        // A copy, so that the job cannot change the caller's files through a link.
        self.place_files(&directory, false)?;
        self.stop_if_cancelled()?;
        let host = |name: &str| std::env::var(name).unwrap_or_default();
        let mut request =
            self.request(&directory.to_string_lossy(), &format!("{}:{}", directory.display(), host("PATH")))?;
        for name in ["HOME", "USER", "LANG"] {
            request.environment.entry(name.into()).or_insert_with(|| host(name));
        }
        let (ours, theirs) = UnixStream::pair().at("make a socket for", &directory)?;
        let containment = Containment::Marker(marker(&directory));
        let pump = self.pump(ours, &request, run.path())?;
        let mut far = Link::new(theirs.into()).at("talk to", &directory)?;
        std::thread::scope(|scope| {
            // The command's life is bound to this thread, which waits for it.
            scope.spawn(|| {
                let _ = execute(&request, &mut far, &directory, &containment);
                drop(far);
            });
            finish(pump)
        })
    }

    fn stop_if_cancelled(&self) -> Result<(), Error> {
        match &self.cancel {
            Some(cancel) if cancel.is_cancelled() => Err(cancel.error()),
            _ => Ok(()),
        }
    }

    fn place_files(&self, directory: &Path, may_link: bool) -> Result<(), Error> {
        fs::create_dir(directory).at("create the directory", directory)?;
        for (source, name) in &self.files {
            place(source, directory, name, may_link)?;
        }
        for (name, contents) in &self.contents {
            let path = directory.join(checked_name(name)?);
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent).at("create the directory", parent)?;
            }
            // A linked file of that name must not be written through.
            let _ = fs::remove_file(&path);
            fs::write(&path, contents).at("write", &path)?;
        }
        Ok(())
    }

    fn request(&self, directory: &str, path: &str) -> Result<Request, Error> {
        let mut environment = self.environment.clone();
        environment.entry("PATH".into()).or_insert_with(|| path.into());
        environment
            .entry("TERM".into())
            .or_insert_with(|| std::env::var("TERM").unwrap_or_else(|_| "dumb".into()));
        environment.insert(JOB_VARIABLE.into(), directory.into());
        let mut seed = vec![0; 64];
        let random = fs::File::open("/dev/urandom")
            .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut seed));
        random.at("read", "/dev/urandom")?;
        Ok(Request {
            command: self.command.clone(),
            environment,
            terminal: self.terminal.then(terminal::size),
            stdin: !matches!(self.stdin, Stdin::Empty),
            limit: self.limit.map(|limit| limit.as_secs_f64()),
            outputs: self.outputs.iter().map(|wanted| wanted.name.clone()).collect(),
            clock: None,
            seed,
        })
    }

    fn pump<'a>(self, port: UnixStream, request: &Request, run: &Path) -> Result<Pump<'a>, Error> {
        let mut link = Link::new(port.into()).at("talk to the machine of", run)?;
        link.send_json(Kind::Run, request);
        let input = match self.stdin {
            Stdin::Empty => Input::None,
            Stdin::Inherited => Input::Inherited { ended: false },
            Stdin::Bytes(bytes) => {
                link.send(Kind::Stdin, &bytes);
                link.send(Kind::StdinEnd, &[]);
                Input::None
            }
        };
        let interactive = self.terminal && matches!(input, Input::Inherited { .. });
        let resizes =
            interactive.then(Resizes::watch).transpose().at("watch the terminal's size for", run)?;
        Ok(Pump {
            link,
            machine: None,
            input,
            stdout: self.stdout,
            stderr: self.stderr,
            collector: Collector::new(self.outputs),
            cancel: self.cancel,
            resizes,
            limit: self.limit,
            raw: interactive,
            escapes: 0,
            over: false,
        })
    }
}

/// Moves bytes until the job has ended, with the terminal in raw mode if that is wanted.
fn finish(mut pump: Pump<'_>) -> Result<Outcome, Error> {
    let end = {
        let _raw = if pump.raw { Raw::enter().at("use", "the terminal")? } else { None };
        pump.raw = _raw.is_some();
        pump.run()?
    };
    pump.collector.finish()?;
    let (stdout, stderr) = (pump.stdout.into_kept(), pump.stderr.into_kept());
    let mut outcome = Outcome { code: 0, timed_out: false, signal: None, not_started: None, stdout, stderr };
    match end {
        End::Exited(code) => outcome.code = code,
        End::Signalled(signal) => {
            outcome.code = 128 + signal;
            outcome.signal = Some(signal);
        }
        End::TimedOut => {
            outcome.code = 124;
            outcome.timed_out = true;
        }
        End::NotStarted(code, cause) => {
            outcome.code = code;
            outcome.not_started = Some(cause);
        }
        End::Failed(what) => {
            return Err(Error::Machine {
                what: format!("cannot run the job: {what}"),
                console: String::new(),
            });
        }
    }
    Ok(outcome)
}
