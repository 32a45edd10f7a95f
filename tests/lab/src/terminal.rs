//! The user's terminal.

use std::io;
use std::os::fd::OwnedFd;

use rustix::stdio::{stdin, stdout};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

use crate::wire::Size;

/// What a program gets that asks a terminal which does not say its size.
const USUAL: Size = Size { rows: 24, columns: 80 };

/// The size of the terminal that we write to, or read from; 24 by 80 when there is none.
pub(crate) fn size() -> Size {
    let size = tcgetwinsize(stdout()).or_else(|_| tcgetwinsize(stdin()));
    match size {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => Size { rows: size.ws_row, columns: size.ws_col },
        _ => USUAL,
    }
}

/// The rows and columns of the terminal that this process writes to or reads from; 24 and 80 when there is none.
pub fn terminal_size() -> (u16, u16) {
    let size = size();
    (size.rows, size.columns)
}

/// Passes every key on as it is typed; the terminal is as before when this is dropped, also by a panic.
#[derive(Debug)]
pub(crate) struct Raw {
    terminal: OwnedFd,
    before: Termios,
}

impl Raw {
    /// Changes the terminal that is standard input; gives `None` when that is none.
    pub(crate) fn enter() -> io::Result<Option<Self>> {
        if !isatty(stdin()) {
            return Ok(None);
        }
        let terminal = stdin().try_clone_to_owned()?;
        let before = tcgetattr(&terminal)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&terminal, OptionalActions::Now, &raw)?;
        Ok(Some(Self { terminal, before }))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
    }
}
