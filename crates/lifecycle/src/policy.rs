/// What is done when the guest does something final.
///
/// Made by changing [`Policy::default`]; how it is written in a configuration is the affair of whoever has one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Policy {
    /// The guest asks for a reset.
    pub on_reset: OnReset,
    /// A triple fault: the guest can do nothing more, most often because its kernel jumped into nowhere, or because it
    /// wants to reset and knows no better way.
    pub on_triple_fault: OnTripleFault,
    /// The guest's kernel says that it panicked.
    pub on_panic: OnPanic,
}

/// What is done when the guest asks for a reset.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnReset {
    /// It starts again from the beginning, as on real hardware.
    #[default]
    Reset,
    /// The machine ends.
    Stop,
}

/// What is done after a triple fault.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnTripleFault {
    /// The machine ends: a guest that fails while it boots would fail for ever.
    #[default]
    Stop,
    /// It starts again from the beginning, as on real hardware.
    Reset,
}

/// What is done when the guest's kernel says that it panicked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnPanic {
    /// The machine ends.
    #[default]
    Stop,
    /// It starts again from the beginning.
    Reset,
    /// It is paused, to be looked at. Resumed, the guest goes on with what it does after a panic.
    Pause,
}
