//! Traits over a hypervisor, register structs, and a fake back end for tests.
