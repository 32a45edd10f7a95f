//! One line on stderr about what takes long.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;

/// Where the lab says what it is doing when something takes longer than about a second.
///
/// On a terminal one line is kept up to date; elsewhere every step is a line of its own, and percentages are left out.
#[derive(Debug)]
pub struct Progress {
    kind: Kind,
    shown: Mutex<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Silent,
    Lines,
    Terminal,
}

impl Progress {
    /// Reports to stderr.
    pub fn stderr() -> Self {
        let kind = if std::io::stderr().is_terminal() { Kind::Terminal } else { Kind::Lines };
        Self { kind, shown: Mutex::new(String::new()) }
    }

    /// Reports nothing.
    pub fn silent() -> Self {
        Self { kind: Kind::Silent, shown: Mutex::new(String::new()) }
    }

    /// Says that a step has begun.
    pub fn step(&self, what: &str) {
        self.show(what, None);
    }

    /// Says how far a step is, from 0 to 100.
    pub fn percent(&self, what: &str, percent: f64) {
        self.show(what, Some(percent));
    }

    /// Takes the line away; whatever is written next starts at the left border.
    pub fn clear(&self) {
        let Ok(mut shown) = self.shown.lock() else { return };
        if self.kind == Kind::Terminal && !shown.is_empty() {
            let _ = std::io::stderr().write_all(b"\r\x1b[K");
        }
        shown.clear();
    }

    fn show(&self, what: &str, percent: Option<f64>) {
        let Ok(mut shown) = self.shown.lock() else { return };
        let text = match (self.kind, percent) {
            (Kind::Silent, _) => return,
            (Kind::Terminal, Some(percent)) => format!("\r\x1b[Klab: {what} {percent:.0} %"),
            (Kind::Terminal, None) => format!("\r\x1b[Klab: {what}"),
            (Kind::Lines, _) => format!("lab: {what}\n"),
        };
        if *shown != text {
            let _ = std::io::stderr().write_all(text.as_bytes());
            *shown = text;
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}
