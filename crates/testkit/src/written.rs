use drystone_state::{Blob, Schema};

/// `state` as it is read back from a snapshot: a field that its encoding loses is lost.
///
/// # Panics
/// If it cannot be written or read.
pub fn as_written<S: Schema>(state: &S) -> S {
    Blob::encode(state).expect("a state has an encoded form").decode().expect("what was encoded is read")
}
