//! The machine's half of a job: runs the command and tells the host all that comes of it.
//!
//! The same code serves inside of the emulated machine, over a virtio port, and on the host itself when that has
//! hardware virtualisation, over a socket pair.

mod command;
mod containment;
mod link;
mod outputs;

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;

use crate::watch::Watch;
use crate::wire::{End, Kind, Request};
use command::Running;
pub(crate) use containment::{Containment, kill_marked};
pub(crate) use link::Link;

/// How much the host may be behind in either direction before a side waits.
const BACKLOG: usize = 512 << 10;
/// How long output may still come after everything in the job was killed.
const DRAIN: Duration = Duration::from_secs(10);

/// Runs a job to its end in `directory` and sends every frame that follows from it, the last one included.
pub(crate) fn execute(
    request: &Request,
    link: &mut Link,
    directory: &Path,
    containment: &Containment,
) -> io::Result<()> {
    let end = match Running::start(request, directory, containment) {
        Ok(running) => supervise(running, request, link, containment)?,
        Err((code, cause)) => End::NotStarted(code, cause),
    };
    outputs::send(&request.outputs, directory, link)?;
    link.send_json(Kind::End, &end);
    link.flush()
}

fn supervise(
    mut job: Running,
    request: &Request,
    link: &mut Link,
    containment: &Containment,
) -> io::Result<End> {
    let limit = request.limit.and_then(|limit| Duration::try_from_secs_f64(limit).ok());
    let limit = limit.and_then(|limit| Instant::now().checked_add(limit));
    let mut end: Option<End> = None;
    let mut drained_by: Option<Instant> = None;
    loop {
        // Frames may have come along with the request.
        job.take_input(link)?;
        let ready = wait(&job, link, end.is_none(), drained_by.or(limit))?;
        let is = |source| ready.contains(&source);
        if is(Source::Link) && !link.exchange()? {
            // Nobody is there any more to tell anything.
            containment.kill_all(&mut job.child);
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        if is(Source::Stdin) {
            job.feed();
        }
        job.read_output(is(Source::Stdout), is(Source::Stderr), link);
        if end.is_none() {
            end = if is(Source::Child) {
                job.child.wait().ok().map(ended)
            } else {
                limit.is_some_and(|limit| Instant::now() >= limit).then_some(End::TimedOut)
            };
            if end.is_some() {
                containment.kill_all(&mut job.child);
                drained_by = Instant::now().checked_add(DRAIN);
            }
        }
        let over = job.is_silent() || drained_by.is_some_and(|by| Instant::now() >= by);
        if let (Some(end), true) = (&end, over) {
            return Ok(end.clone());
        }
    }
}

fn ended(status: ExitStatus) -> End {
    match (status.code(), status.signal()) {
        (Some(code), _) => End::Exited(code),
        (None, signal) => End::Signalled(signal.unwrap_or(0)),
    }
}

/// What the loop waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Link,
    Stdin,
    Stdout,
    Stderr,
    Child,
}

/// Waits until something can be done, or until `deadline`; gives what is ready.
fn wait(job: &Running, link: &Link, child: bool, deadline: Option<Instant>) -> io::Result<Vec<Source>> {
    let mut watch = Watch::new();
    let mut flags = PollFlags::empty();
    flags.set(PollFlags::IN, job.input_backlog() < BACKLOG);
    flags.set(PollFlags::OUT, link.backlog() > 0);
    watch.add(Source::Link, Some(link.fd()), flags);
    watch.add(Source::Stdin, job.waiting_stdin(), PollFlags::OUT);
    if link.backlog() < BACKLOG {
        watch.add(Source::Stdout, job.stdout(), PollFlags::IN);
        watch.add(Source::Stderr, job.stderr(), PollFlags::IN);
    }
    watch.add(Source::Child, child.then(|| job.handle()), PollFlags::IN);
    watch.wait(deadline)
}
