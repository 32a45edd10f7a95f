use super::Event;
use crate::config::ConsoleConfig;
use crate::console::{Escape, EscapeParser, Input, Output, RawMode, Terminal};
use crate::console::{InputSink, OutputSource};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
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

/// The console of a running machine. Fields are dropped in order: the terminal is given back last.
pub(super) struct Session {
    input: Option<Input>,
    output: Option<Output>,
    raw: Option<RawMode>,
}

impl Session {
    /// Connects the guest's console to where `config` says.
    pub fn start(
        config: &ConsoleConfig,
        terminal: Option<&Terminal>,
        sink: Box<dyn InputSink>,
        source: Box<dyn OutputSource>,
        events: Sender<Event>,
    ) -> Result<Self, ConsoleError> {
        match config {
            // Dropping the guest's ends tells it that nobody listens.
            ConsoleConfig::None => Ok(Self { input: None, output: None, raw: None }),
            ConsoleConfig::File(path) => {
                let output = Output::start(create(path)?.as_fd(), source)?;
                Ok(Self { input: None, output: Some(output), raw: None })
            }
            ConsoleConfig::Stdio => Self::stdio(terminal, sink, source, events),
        }
    }

    fn stdio(
        terminal: Option<&Terminal>,
        sink: Box<dyn InputSink>,
        source: Box<dyn OutputSource>,
        events: Sender<Event>,
    ) -> Result<Self, ConsoleError> {
        let raw = terminal.map(Terminal::raw).transpose()?;
        let output = Output::start(rustix::stdio::stdout(), source)?;
        let notice = output.notice();
        let on_escape = Box::new(move |wish| match wish {
            Escape::Help => notice(EscapeParser::HELP),
            // If nobody listens any more, the machine has ended.
            wish => drop(events.send(Event::Escape(wish))),
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

fn create(path: &Path) -> Result<std::fs::File, ConsoleError> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    file.map_err(|cause| ConsoleError::File { path: path.into(), cause })
}
