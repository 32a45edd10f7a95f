/// What is done when the guest does something final.
///
/// With the feature `serde` it can be part of a configuration: names in snake_case, unknown ones refused, absent
/// ones as in [`Policy::default`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct Policy {
    /// The guest asks for a reset.
    pub on_reset: OnReset,
    /// A triple fault: the guest can do nothing more, most often because its kernel jumped into nowhere, or because it
    /// wants to reset and knows no better way.
    pub on_triple_fault: OnTripleFault,
}

/// What is done when the guest asks for a reset.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
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
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum OnTripleFault {
    /// The machine ends: a guest that fails while it boots would fail for ever.
    #[default]
    Stop,
    /// It starts again from the beginning, as on real hardware.
    Reset,
}
