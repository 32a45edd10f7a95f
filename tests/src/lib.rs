//! Whole-workspace and whole-machine tests live in `tests/`; this library holds what they share.
