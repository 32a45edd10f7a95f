//! Whole-workspace and whole-machine tests; they live in `tests/`.
