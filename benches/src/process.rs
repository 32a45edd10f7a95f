//! Measuring a VMM as a process, from outside.

use crate::probe;
use std::io::{self, Read};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A VMM that takes longer than this to start its guest does not work.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why there is no figure.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// The program cannot be started.
    #[error("{program}: cannot start: {cause}")]
    Start {
        /// Its path.
        program: String,
        /// What the host said.
        cause: io::Error,
    },
    /// It ended, or said nothing, before the guest ran.
    #[error("{program}: its guest did not run: {said}")]
    NoGuest {
        /// Its path.
        program: String,
        /// What it said instead.
        said: String,
    },
    /// The host does not say what was asked.
    #[error("cannot {attempt}: {cause}")]
    Host {
        /// What was tried.
        attempt: &'static str,
        /// What the host said.
        cause: io::Error,
    },
}

/// One start.
#[derive(Debug, Clone, Copy)]
pub struct Start {
    /// From exec to the guest's first byte.
    pub wall: Duration,
    /// Processor time of the process until then, user and system.
    pub cpu: Duration,
}

/// A program whose probe runs. Killed when dropped.
pub(crate) struct Running {
    child: Child,
    program: String,
    output: std::sync::mpsc::Receiver<(u8, Instant)>,
    /// When the bytes came that were waited for.
    seen: Vec<Instant>,
    errors: Option<std::thread::JoinHandle<String>>,
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Result<(Self, Instant), MeasureError> {
        let program = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let begun = Instant::now();
        let spawned = command.spawn();
        let mut child = spawned.map_err(|cause| MeasureError::Start { program: program.clone(), cause })?;
        let (sender, output) = std::sync::mpsc::channel();
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        if let Some(mut stdout) = stdout {
            std::thread::spawn(move || {
                let mut byte = [0];
                while matches!(stdout.read(&mut byte), Ok(1))
                    && sender.send((byte[0], Instant::now())).is_ok()
                {}
            });
        }
        let errors = stderr.map(|mut stderr| {
            std::thread::spawn(move || {
                let mut text = String::new();
                let _ = stderr.read_to_string(&mut text);
                text
            })
        });
        Ok((Self { child, program, output, seen: Vec::new(), errors }, begun))
    }

    /// When `byte` came. Other output (a VMM may greet) is passed over.
    pub(crate) fn wait_for(&mut self, byte: u8) -> Result<Instant, MeasureError> {
        let mut said = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        while let Ok((got, at)) = self.output.recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            if got == byte {
                self.seen.push(at);
                return Ok(at);
            }
            said.push(got);
        }
        self.kill();
        let errors = self.errors.take().and_then(|e| e.join().ok()).unwrap_or_default();
        let said = format!("{}{errors}", String::from_utf8_lossy(&said)).trim().to_owned();
        Err(MeasureError::NoGuest { program: self.program.clone(), said })
    }

    /// The longest time since `begun` between two bytes that were waited for.
    pub(crate) fn longest_gap(&self, begun: Instant) -> Duration {
        let pairs = self.seen.iter().zip(self.seen.iter().skip(1)).filter(|(_, next)| **next > begun);
        pairs.map(|(one, next)| *next - *one).max().unwrap_or_default()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts `command`, whose guest is the [probe], until the guest's first byte.
///
/// # Errors
/// [`MeasureError`].
pub fn start(command: Command) -> Result<Start, MeasureError> {
    let (mut running, begun) = Running::start(command)?;
    let wall = running.wait_for(probe::STARTED)?.duration_since(begun);
    let cpu = cpu_time(running.child.id())?;
    Ok(Start { wall, cpu })
}

/// The processor time that a process has used so far, with all its threads, ended ones too (clock_getcpuclockid(3)).
pub(crate) fn cpu_time(pid: u32) -> Result<Duration, MeasureError> {
    let failed = |cause| MeasureError::Host { attempt: "read processor time", cause };
    let mut clock = 0;
    // SAFETY: the argument is a place for a clock's number, which the call fills.
    let error = unsafe { libc::clock_getcpuclockid(pid.cast_signed(), &raw mut clock) };
    if error != 0 {
        return Err(failed(io::Error::from_raw_os_error(error)));
    }
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the argument is a place for a time, which the call fills.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return Err(failed(io::Error::last_os_error()));
    }
    Ok(Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default()))
}

/// How long one exit takes: `command`'s guest makes `exits` of them between its two bytes.
///
/// # Errors
/// [`MeasureError`].
pub fn exit_round_trip(command: Command, exits: u32) -> Result<Duration, MeasureError> {
    let (mut running, _) = Running::start(command)?;
    let begun = running.wait_for(probe::STARTED)?;
    let done = running.wait_for(probe::DONE)?;
    Ok(done.duration_since(begun) / exits.max(1))
}

/// Resident memory in bytes, outside of guest RAM of `guest_mib`, while the guest halts. Guest RAM is every mapping that
/// is at least as large.
///
/// # Errors
/// [`MeasureError`].
pub fn memory_overhead(command: Command, guest_mib: u64) -> Result<u64, MeasureError> {
    let (mut running, _) = Running::start(command)?;
    running.wait_for(probe::DONE)?;
    // Threads that are still starting get a moment.
    std::thread::sleep(Duration::from_millis(200));
    let smaps = std::fs::read_to_string(format!("/proc/{}/smaps", running.child.id()));
    let smaps = smaps.map_err(|cause| MeasureError::Host { attempt: "read smaps", cause })?;
    Ok(resident_outside(&smaps, guest_mib << 20))
}

/// The sum of `Rss` over all mappings that are smaller than `ram` bytes.
fn resident_outside(smaps: &str, ram: u64) -> u64 {
    let field = |line: &str, name: &str| -> Option<u64> {
        let kib: u64 = line.strip_prefix(name)?.trim().strip_suffix(" kB")?.parse().ok()?;
        Some(kib << 10)
    };
    let (mut size, mut sum) = (0, 0);
    for line in smaps.lines() {
        size = field(line, "Size:").unwrap_or(size);
        if size < ram {
            sum += field(line, "Rss:").unwrap_or(0);
        }
    }
    sum
}

/// User-space instructions until the guest's first byte, counted by callgrind. `command` is run under it.
///
/// # Errors
/// [`MeasureError`], also when valgrind is not installed.
pub fn instructions(command: &Command, scratch: &std::path::Path) -> Result<u64, MeasureError> {
    let out = scratch.join("callgrind.out");
    let mut counted = Command::new("valgrind");
    counted.args(["--tool=callgrind", "-q"]).arg(format!("--callgrind-out-file={}", out.display()));
    counted.arg(command.get_program()).args(command.get_args());
    counted.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let (mut running, _) = Running::start(counted)?;
    running.wait_for(probe::STARTED)?;
    // It writes its counts when the program is ended by a signal that can be caught.
    let pid = rustix::process::Pid::from_child(&running.child);
    let failed = |attempt| move |cause: io::Error| MeasureError::Host { attempt, cause };
    rustix::process::kill_process(pid, rustix::process::Signal::TERM)
        .map_err(|e| failed("end callgrind")(e.into()))?;
    running.child.wait().map_err(failed("wait for callgrind"))?;
    let counts = std::fs::read_to_string(&out).map_err(failed("read callgrind's counts"))?;
    let total =
        counts.lines().find_map(|l| l.strip_prefix("totals: ").or_else(|| l.strip_prefix("summary: ")));
    let total = total.and_then(|t| t.trim().parse().ok());
    total.ok_or_else(|| failed("read callgrind's counts")(io::Error::other("there is no total")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_ram_is_not_counted() {
        let smaps = "7f0000000000-7f0010000000 rw-p 0 00:00 0\nSize:             262144 kB\nRss:  1024 kB\nPss: 1 kB\n\
                     7f0010000000-7f0010001000 r-xp 0 00:00 0 /bin/x\nSize: 4 kB\nKernelPageSize: 4 kB\nRss: 4 kB\n\
                     7f0020000000-7f0020004000 rw-p 0 00:00 0 [heap]\nSize: 16 kB\nRss: 12 kB\n";
        assert_eq!(resident_outside(smaps, 256 << 20), 16 << 10);
    }

    #[test]
    fn a_program_without_a_guest_says_what_it_said() {
        let mut no_guest = Command::new("sh");
        no_guest.args(["-c", "echo no kernel >&2"]);
        assert!(start(no_guest).unwrap_err().to_string().ends_with("its guest did not run: no kernel"));
        assert!(start(Command::new("/nonexistent")).unwrap_err().to_string().contains("cannot start"));
    }

    #[test]
    fn processor_time_is_that_of_the_program() {
        let mut busy = Command::new("sh");
        busy.args(["-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; printf '\\002'; sleep 9"]);
        let (busy, mut idle) = (start(busy).unwrap(), Command::new("sh"));
        idle.args(["-c", "sleep 0.1; printf '\\002'; sleep 9"]);
        let idle = start(idle).unwrap();
        assert!(busy.cpu > idle.cpu && busy.cpu <= busy.wall * 4, "{busy:?} {idle:?}");
        assert!(idle.wall >= Duration::from_millis(100) && idle.cpu < idle.wall, "{idle:?}");
    }
}
