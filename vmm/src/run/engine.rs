use crate::config::Config;
use crate::console::{InputSink, OutputSource};
use crate::control::Verbs;
use crate::log::Log;
use crate::monitor::End;
use crate::registry::VmId;
use std::sync::Arc;

/// Makes machines: the seam between how a machine is run and what it is made of.
pub trait Engine {
    /// Makes what `config` describes, with everything loaded and nothing running. A failure is one clear line.
    ///
    /// # Errors
    /// That line; nothing is left behind.
    fn build(&self, config: &Config, id: &VmId, log: &Log) -> Result<Built, String>;
}

/// A machine that was made, in the parts that running it needs.
pub struct Built {
    /// What the control socket asks.
    pub verbs: Arc<dyn Verbs>,
    /// The guest's console, inwards.
    pub input: Box<dyn InputSink>,
    /// The guest's console, outwards. It says that it is closed once the machine is gone.
    pub output: Box<dyn OutputSource>,
    /// Asks the machine to end, from any thread, without waiting for it.
    pub end: Box<dyn Fn() + Send + Sync>,
    /// Lets the guest begin, or says in one line why it cannot. Dropping what it answers ends the machine.
    #[allow(clippy::type_complexity)] // this once
    pub begin: Box<dyn FnOnce() -> Result<Serve, String>>,
}

/// Serves a machine whose guest runs: blocks until it has ended and is gone.
pub type Serve = Box<dyn FnOnce() -> Result<End, String> + Send>;
