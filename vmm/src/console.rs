//! The user's terminal as the guest's serial console.
//!
//! [`Terminal`] is put into raw mode and given back however the process ends; [`Input`] brings what is typed to the
//! guest, with an [`EscapeParser`] in between; [`Output`] brings what the guest says to the user. Neither ever holds up
//! the end of the process, and neither changes the flags of descriptors that the user's shell shares.

mod escape;
mod host;
mod input;
mod output;
mod queue;
mod terminal;
#[cfg(test)]
mod tests;

pub use drystone_chipset::Taken;
pub use escape::{Escape, EscapeParser, Key};
pub use input::{Input, OnEscape};
pub use output::Output;
pub use terminal::{RawMode, Terminal};

use drystone_chipset::{SerialInput, SerialOutput};
use std::sync::Arc;
use std::time::Duration;

/// Where bytes for the guest go.
pub trait InputSink: Send {
    /// Gives bytes, and returns how many, from the front, were taken. Never blocks.
    fn push(&self, bytes: &[u8]) -> usize;
    /// Waits until there may be room after a push that came short, at most for `timeout`; false when that is over.
    fn wait_for_room(&self, timeout: Duration) -> bool;
    /// Whether nothing will be taken any more.
    fn is_closed(&self) -> bool;
}

/// Where bytes of the guest come from.
pub trait OutputSource: Send {
    /// Appends what waits, at most some 64 KiB, to `into`; waits for it at most for `timeout`.
    fn take(&self, into: &mut Vec<u8>, timeout: Duration) -> Taken;
    /// What gets a thread out of [`take`](Self::take), from any thread; `None` if that cannot be: then whoever takes
    /// looks up now and then.
    fn waker(&self) -> Option<Waker> {
        None
    }
}

/// Gets a thread out of [`OutputSource::take`].
pub type Waker = Arc<dyn Fn() + Send + Sync>;

impl InputSink for SerialInput {
    fn push(&self, bytes: &[u8]) -> usize {
        self.push(bytes)
    }
    fn wait_for_room(&self, timeout: Duration) -> bool {
        self.wait(timeout)
    }
    fn is_closed(&self) -> bool {
        self.is_closed()
    }
}

impl OutputSource for SerialOutput {
    fn take(&self, into: &mut Vec<u8>, timeout: Duration) -> Taken {
        self.take(into, timeout)
    }
    fn waker(&self) -> Option<Waker> {
        let waker = SerialOutput::waker(self);
        Some(Arc::new(move || waker.wake()))
    }
}
