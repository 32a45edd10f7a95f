//! The signals that a machine's process serves. They are taken before anything is made that should not outlive them, and
//! followed by the thread that runs the machine, through its [`Inbox`](super::inbox::Inbox).

use crate::console::Terminal;
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGXFSZ};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;
use signal_hook::low_level::emulate_default_handler;
use std::io::{self, Read};
use std::os::unix::net::UnixStream;

/// These end the machine.
const ENDING: [i32; 4] = [SIGTERM, SIGINT, SIGHUP, SIGQUIT];
/// /proc/self/status is shorter; what is looked for comes early.
const STATUS: usize = 4096;

pub(super) type Signals = SignalDelivery<UnixStream, SignalOnly>;

/// From now on ending signals do not end the process: they write to `bell` and can be read by its other end `read`.
pub(super) fn take(read: UnixStream, bell: UnixStream) -> io::Result<Signals> {
    let ignored = ignored(&status().unwrap_or_default());
    // nohup and shells' background jobs ignore some, and mean it.
    let ending = ENDING.into_iter().filter(|n| ignored & 1 << (n - 1) == 0);
    // A file that may not grow (`ulimit -f`) is an I/O error where it is written to, and not the end of the machine.
    Signals::with_pipe(read, bell, SignalOnly, ending.chain([SIGXFSZ]))
}

/// Takes those that stop and continue the process too.
pub(super) fn take_jobs(signals: &Signals) -> io::Result<()> {
    [SIGTSTP, SIGCONT].into_iter().try_for_each(|signal| signals.handle().add_signal(signal))
}

/// Does what `signal` asks; the answer is the signal if it asks for the end of the machine.
pub(super) fn follow(signal: i32, terminal: Option<&Terminal>) -> Option<i32> {
    match signal {
        SIGTSTP => {
            terminal.iter().for_each(|t| t.rest());
            // Stops the whole process here, guest included, until SIGCONT.
            let _ = emulate_default_handler(SIGTSTP);
        }
        // Also after SIGSTOP, and when a shell brings a background job to the front. Should the terminal be gone, SIGHUP
        // says so.
        SIGCONT => terminal.iter().for_each(|t| drop(t.wake())),
        SIGXFSZ => {}
        ending => return Some(ending),
    }
    None
}

fn status() -> io::Result<String> {
    let mut text = [0; STATUS];
    let len = std::fs::File::open("/proc/self/status")?.read(&mut text)?;
    Ok(String::from_utf8_lossy(text.get(..len).unwrap_or_default()).into_owned())
}

/// The set of ignored signals from /proc/self/status (proc_pid_status(5)): bit n-1 is signal n.
fn ignored(status: &str) -> u64 {
    let mask = status.lines().find_map(|l| l.strip_prefix("SigIgn:"));
    mask.and_then(|m| u64::from_str_radix(m.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read() {
        assert_eq!(ignored("Name:\tx\nSigBlk:\tffff\nSigIgn:\t0000000000001001\n"), 1 << 12 | 1);
        assert_eq!(ignored("nonsense"), 0);
        assert!(status().unwrap().contains("\nSigIgn:\t"));
    }
}
