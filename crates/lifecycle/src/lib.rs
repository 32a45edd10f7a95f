//! The state machine and the orchestrator of a virtual machine.
