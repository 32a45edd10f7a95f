use super::Event;
use crate::console::Terminal;
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP};
use signal_hook::iterator::{Handle, Signals};
use signal_hook::low_level::emulate_default_handler;
use std::io;
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;

/// These end the machine.
const ENDING: [i32; 4] = [SIGTERM, SIGINT, SIGHUP, SIGQUIT];

/// The thread that serves signals, until this is dropped.
pub(super) struct SignalThread {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl SignalThread {
    /// Sends ending signals to `events`; gives the terminal back before the process stops and takes it again after.
    pub fn start(terminal: Option<Terminal>, events: Sender<Event>) -> io::Result<Self> {
        let ignored = std::fs::read_to_string("/proc/self/status").map_or(0, |status| ignored(&status));
        // nohup and shells' background jobs ignore some, and mean it.
        let ending = ENDING.into_iter().filter(|n| ignored & 1 << (n - 1) == 0);
        let mut signals = Signals::new(ending.chain([SIGTSTP, SIGCONT]))?;
        let handle = signals.handle();
        let serve = move || {
            for signal in signals.forever() {
                match signal {
                    SIGTSTP => {
                        terminal.iter().for_each(Terminal::rest);
                        // Stops the whole process here, guest included, until SIGCONT.
                        let _ = emulate_default_handler(SIGTSTP);
                    }
                    // Also after SIGSTOP, and when a shell brings a background job to the front. Should the terminal be
                    // gone, SIGHUP says so.
                    SIGCONT => terminal.iter().for_each(|t| drop(t.wake())),
                    // If nobody listens, the end is on its way.
                    ending => drop(events.send(Event::Signal(ending))),
                }
            }
        };
        let thread = std::thread::Builder::new().name("signals".into()).spawn(serve)?;
        Ok(Self { handle, thread: Some(thread) })
    }
}

impl Drop for SignalThread {
    fn drop(&mut self) {
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
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
    }
}
