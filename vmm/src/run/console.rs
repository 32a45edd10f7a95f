use super::inbox::{Event, Post};
use crate::config::ConsoleConfig;
use crate::console::{Escape, EscapeParser, Input, Output, RawMode, Terminal};
use crate::console::{InputSink, OutputSource};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// So long what the guest said last may take to be written, if nobody reads it.
const DRAIN: Duration = Duration::from_secs(2);

/// Why there is no console.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConsoleError {
    /// The file for its output cannot be made.
    #[error("console file {}: cannot write: {cause}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the host said.
        cause: io::Error,
    },
    /// The terminal or the threads.
    #[error("console: {0}")]
    Host(#[from] io::Error),
}

/// Where the guest's console is to be.
pub(super) enum Place {
    Nowhere,
    File(File),
    Stdio,
}

/// The console of a running machine. Fields are dropped in order: the terminal is given back last.
pub(super) struct Session {
    input: Option<Input>,
    output: Option<Output>,
    raw: Option<RawMode>,
}

impl Place {
    /// Finds it, or makes the file.
    pub fn open(config: &ConsoleConfig) -> Result<Self, ConsoleError> {
        Ok(match config {
            ConsoleConfig::None => Self::Nowhere,
            ConsoleConfig::File(path) => Self::File(create(path)?),
            ConsoleConfig::Stdio => Self::Stdio,
        })
    }

    /// Connects the guest's console to it.
    pub fn connect(
        self,
        terminal: Option<&Terminal>,
        sink: Box<dyn InputSink>,
        source: Box<dyn OutputSource>,
        post: Post,
    ) -> Result<Session, ConsoleError> {
        match self {
            // Dropping the guest's ends tells it that nobody listens.
            Self::Nowhere => Ok(Session { input: None, output: None, raw: None }),
            Self::File(file) => {
                let output = Output::start(file.as_fd(), source)?;
                Ok(Session { input: None, output: Some(output), raw: None })
            }
            Self::Stdio => Session::stdio(terminal, sink, source, post),
        }
    }
}

impl Session {
    fn stdio(
        terminal: Option<&Terminal>,
        sink: Box<dyn InputSink>,
        source: Box<dyn OutputSource>,
        post: Post,
    ) -> Result<Self, ConsoleError> {
        let raw = terminal.map(Terminal::raw).transpose()?;
        let output = Output::start(rustix::stdio::stdout(), source)?;
        let notice = output.notice();
        let on_escape = Box::new(move |wish| match wish {
            Escape::Help => notice(EscapeParser::HELP),
            wish => post.send(Event::Escape(wish)),
        });
        let input = Input::start(rustix::stdio::stdin(), terminal.cloned(), sink, on_escape)?;
        Ok(Self { input: Some(input), output: Some(output), raw })
    }

    /// Writes what is left of a machine that is gone, and gives the terminal back. False if something was lost.
    pub fn finish(self) -> bool {
        let Self { input, output, raw } = self;
        // Until the end, so that the escape key is not shown as text.
        let written = output.is_none_or(|o| o.finish(DRAIN));
        drop(input);
        drop(raw);
        written
    }
}

fn create(path: &Path) -> Result<File, ConsoleError> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    file.map_err(|cause| ConsoleError::File { path: path.into(), cause })
}
