use crate::PersistDyn;

/// Why a component could not follow a life-cycle call.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ComponentError(Box<dyn std::error::Error + Send + Sync>);

impl ComponentError {
    /// Wraps the cause: an error value, or a sentence that says what was tried on what and why it failed.
    pub fn new(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(cause.into())
    }
}

/// A part of a virtual machine that takes part in its life cycle.
///
/// One orchestrator calls these methods, from one thread at a time and only in the order that its state machine
/// allows. It pauses vCPUs first, then devices, then back ends, and resumes in reverse, so:
///
/// - when [`pause`](Self::pause) is called, nothing that is paused before it can still ask for work;
/// - between `pause` and [`resume`](Self::resume) the component touches neither guest memory nor its back end,
///   and its state does not change: that is when it may be saved;
/// - [`reset`](Self::reset) is only called while paused, and leaves the component as its constructor did.
///
/// A component that has nothing to do for a call says so with an empty body; there are no defaults, so that a
/// forgotten one does not compile.
pub trait Component: Send + Sync {
    /// Stops all activity and finishes what is in flight. Calling it on a paused component changes nothing.
    ///
    /// # Errors
    /// When something in flight cannot be finished. The component is then still running, and may be asked again.
    fn pause(&self) -> Result<(), ComponentError>;

    /// Starts or continues activity. Calling it on a running component changes nothing.
    ///
    /// # Errors
    /// When a back end is gone. The component is then still paused.
    fn resume(&self) -> Result<(), ComponentError>;

    /// Returns to the state in which the component was built, as the reset line of real hardware does.
    ///
    /// # Errors
    /// When that state cannot be reached again; the machine must then be stopped.
    fn reset(&self) -> Result<(), ComponentError>;

    /// How this component is saved and restored; `None` if it cannot be, in which case a machine that holds it
    /// cannot be either, and says so before it pauses anything.
    fn persist(&self) -> Option<&dyn PersistDyn>;
}
