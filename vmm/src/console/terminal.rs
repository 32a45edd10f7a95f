use rustix::termios::{OptionalActions, Termios};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

/// The user's terminal, whose mode is given back however this process ends: clones share it, for a panic hook and for
/// the thread that serves signals.
#[derive(Clone)]
pub struct Terminal(Arc<Inner>);

struct Inner {
    tty: OwnedFd,
    mode: Mutex<Mode>,
}

struct Mode {
    /// As it was when we came. Never taken anew: after SIGSTOP the terminal may be found in our own raw mode.
    original: Termios,
    /// It is ours to put into raw mode; false before the console begins and after it ends.
    wanted: bool,
    raw: bool,
}

impl Terminal {
    /// The terminal behind `fd`, or `None` if that is none.
    ///
    /// # Errors
    /// What the host said when it is one and cannot be read.
    pub fn of(fd: BorrowedFd<'_>) -> io::Result<Option<Self>> {
        if !rustix::termios::isatty(fd) {
            return Ok(None);
        }
        let original = rustix::termios::tcgetattr(fd)?;
        let mode = Mutex::new(Mode { original, wanted: false, raw: false });
        Ok(Some(Self(Arc::new(Inner { tty: fd.try_clone_to_owned()?, mode }))))
    }

    /// Enters raw mode, in which every key goes to the guest, until the guard is dropped. In the background nothing
    /// happens until [`Terminal::wake`].
    ///
    /// # Errors
    /// What the host said.
    pub fn raw(&self) -> io::Result<RawMode> {
        self.lock().wanted = true;
        let guard = RawMode(self.clone());
        self.wake()?;
        Ok(guard)
    }

    /// After the process was continued (SIGCONT): raw mode again, if it is wanted and we are in the foreground.
    ///
    /// # Errors
    /// What the host said.
    pub fn wake(&self) -> io::Result<()> {
        let mut mode = self.lock();
        // Changing the mode from the background would stop this process (SIGTTOU), and the guest with it.
        if mode.wanted && self.is_foreground() {
            let mut raw = mode.original.clone();
            raw.make_raw();
            self.set(&raw)?;
            mode.raw = true;
        }
        Ok(())
    }

    /// Gives the original mode back for now: before the process stops (SIGTSTP). Raw mode stays wanted.
    pub fn rest(&self) {
        let mut mode = self.lock();
        if std::mem::take(&mut mode.raw) {
            // The terminal may be gone; there is nobody left to tell.
            let _ = self.set(&mode.original);
        }
    }

    /// Gives the original mode back for good.
    pub fn restore(&self) {
        self.lock().wanted = false;
        self.rest();
    }

    /// Whether this process may read from the terminal and change its mode. True also when it is not the controlling
    /// terminal: then there is no job control to ask.
    pub fn is_foreground(&self) -> bool {
        rustix::termios::tcgetpgrp(&self.0.tty).map_or(true, |group| group == rustix::process::getpgrp())
    }

    fn set(&self, mode: &Termios) -> io::Result<()> {
        // At once: waiting for output to drain would hang on a terminal that nobody reads from.
        Ok(rustix::io::retry_on_intr(|| rustix::termios::tcsetattr(&self.0.tty, OptionalActions::Now, mode))?)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Mode> {
        self.0.mode.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// Raw mode, until it is dropped.
#[must_use]
pub struct RawMode(Terminal);

impl Drop for RawMode {
    fn drop(&mut self) {
        self.0.restore();
    }
}
