//! The log of one machine: life-cycle events and warnings in a file of bounded size.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

/// A log file may grow to this many bytes; then it becomes `FILE.old`, of which there is one, and starts anew.
pub const MAX_FILE: u64 = 512 << 10;
/// A longer line is cut.
const MAX_LINE: usize = 4096;

/// How grave a message is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Level {
    /// The machine ends because of it.
    Error,
    /// Something is wrong, and the machine goes on.
    Warn,
    /// What happens to the machine: started, paused, stopped.
    #[default]
    Info,
    /// What happens inside.
    Debug,
}

/// A handle to a machine's log; clones write to the same file. Failing to write is no reason to stop a guest, so
/// nothing here fails after [`Log::open`].
#[derive(Clone)]
pub struct Log(Option<Arc<Inner>>);

struct Inner {
    level: Level,
    path: PathBuf,
    /// A terminal or a pipe is not put aside when it is full.
    regular: bool,
    file: Mutex<(File, u64)>,
}

impl Log {
    /// A log that drops everything.
    pub fn none() -> Self {
        Self(None)
    }

    /// Opens the file at `path`, mode 0600 if it is made, and appends messages of `level` and graver to it.
    ///
    /// # Errors
    /// What the host said when it cannot be opened.
    pub fn open(path: &Path, level: Level) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        let metadata = file.metadata()?;
        let (written, regular) = (metadata.len(), metadata.is_file());
        let file = Mutex::new((file, written));
        Ok(Self(Some(Arc::new(Inner { level, path: path.into(), regular, file }))))
    }

    /// Writes one line: time (seconds since 1970, UTC), level, message. Control characters in it are escaped.
    pub fn write(&self, level: Level, message: impl fmt::Display) {
        if let Some(inner) = &self.0
            && level <= inner.level
        {
            inner.write(level, &message.to_string());
        }
    }
    /// Writes at [`Level::Error`].
    pub fn error(&self, message: impl fmt::Display) {
        self.write(Level::Error, message);
    }
    /// Writes at [`Level::Warn`].
    pub fn warn(&self, message: impl fmt::Display) {
        self.write(Level::Warn, message);
    }
    /// Writes at [`Level::Info`].
    pub fn info(&self, message: impl fmt::Display) {
        self.write(Level::Info, message);
    }
    /// Writes at [`Level::Debug`].
    pub fn debug(&self, message: impl fmt::Display) {
        self.write(Level::Debug, message);
    }
}

/// Where devices' lines go.
impl drystone_observe::Sink for Log {
    fn write(&self, level: drystone_observe::Level, line: &dyn fmt::Display) {
        let level = match level {
            drystone_observe::Level::Error => Level::Error,
            drystone_observe::Level::Warn => Level::Warn,
            drystone_observe::Level::Info => Level::Info,
            drystone_observe::Level::Debug => Level::Debug,
        };
        Self::write(self, level, line);
    }
}

impl Inner {
    fn write(&self, level: Level, message: &str) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut line = format!("{}.{:03} {level:?} ", now.as_secs(), now.subsec_millis());
        for c in message.chars().take_while({
            let mut left = MAX_LINE;
            move |c| {
                left = left.saturating_sub(c.len_utf8());
                left > 0
            }
        }) {
            if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
        }
        line.push('\n');
        let mut file = self.file.lock().unwrap_or_else(|e| e.into_inner());
        if self.regular && file.1 + line.len() as u64 > MAX_FILE && !self.rotate(&mut file) {
            return;
        }
        if file.0.write_all(line.as_bytes()).is_ok() {
            file.1 += line.len() as u64;
        }
    }

    /// Puts the full file aside. False if there is no new one, so that a full disk cannot make one file grow.
    fn rotate(&self, file: &mut (File, u64)) -> bool {
        let _ = std::fs::rename(&self.path, old(&self.path));
        match OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&self.path) {
            Ok(new) => {
                *file = (new, 0);
                true
            }
            Err(_) => false,
        }
    }
}

/// Where a full log at `path` is put.
pub fn old(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".old");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grave_enough_messages_are_one_line_each() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = Log::open(&path, Level::Warn).unwrap();
        log.error("it \x1b[31m broke\nhere");
        log.warn("careful");
        log.info("not this");
        Log::none().error("nor this");
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = text.lines().map(|l| l.split_once(' ').unwrap().1).collect();
        assert_eq!(lines, ["Error it \\u{1b}[31m broke\\nhere", "Warn careful"]);
    }

    #[test]
    fn a_log_is_bounded_and_keeps_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = Log::open(&path, Level::Info).unwrap();
        for i in 0..400 {
            log.info(format!("{i} {}", "x".repeat(2 * MAX_LINE)));
        }
        let sizes = [&path, &old(&path)].map(|p| std::fs::metadata(p).unwrap().len());
        assert!(sizes.iter().all(|s| *s <= MAX_FILE), "{sizes:?}");
        assert!(std::fs::read_to_string(&path).unwrap().contains("Info 399 x"));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
