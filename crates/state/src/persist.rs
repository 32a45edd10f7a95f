use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// How deeply a decoded state may nest. Saved state is untrusted input; ours is nearly flat.
const MAX_DEPTH: usize = 32;

/// A component's saved state: plain data, with a name and a version that identify its meaning.
///
/// Encoded as CBOR with named fields (RFC 8949), so a newer reader can fill what an older writer did not know.
pub trait Schema: Serialize + DeserializeOwned {
    /// What the state describes, for example `"serial"`; never changed once released.
    const KIND: &'static str;
    /// Raised when an older reader would misunderstand the state. A reader accepts its own version and older.
    const VERSION: u32;
}

/// What the author of a component writes to make it savable.
pub trait Persist {
    /// The plain data that stands for this component.
    type State: Schema;

    /// Takes a copy of the state. Only called while paused.
    ///
    /// # Errors
    /// [`SaveError::Component`] when the state cannot be read, for example from the host's kernel.
    fn save(&self) -> Result<Self::State, SaveError>;

    /// Takes over `state`, which is untrusted and must be checked. Only called on a freshly built component.
    ///
    /// # Errors
    /// [`RestoreError::Invalid`] when no such state can come from a save; the component must then be dropped.
    fn restore(&self, state: Self::State) -> Result<(), RestoreError>;
}

/// [`Persist`] with its type erased, for whoever holds components of many kinds. Never implemented by hand.
pub trait PersistDyn {
    /// Saves and encodes.
    ///
    /// # Errors
    /// As [`Persist::save`], and [`SaveError::Encode`].
    fn save_blob(&self) -> Result<Blob, SaveError>;

    /// Checks kind and version, decodes and restores.
    ///
    /// # Errors
    /// As [`Persist::restore`]; [`RestoreError::Schema`] and [`RestoreError::Decode`] for a foreign or broken blob.
    fn restore_blob(&self, blob: &Blob) -> Result<(), RestoreError>;
}

impl<T: Persist> PersistDyn for T {
    fn save_blob(&self) -> Result<Blob, SaveError> {
        Blob::encode(&self.save()?)
    }
    fn restore_blob(&self, blob: &Blob) -> Result<(), RestoreError> {
        self.restore(blob.decode()?)
    }
}

/// An encoded state with its kind and version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    kind: String,
    version: u32,
    #[serde(with = "serde_bytes")]
    body: Vec<u8>,
}

impl Blob {
    /// Encodes a typed state.
    ///
    /// # Errors
    /// [`SaveError::Encode`] when the value has no CBOR form.
    pub fn encode<S: Schema>(state: &S) -> Result<Self, SaveError> {
        let mut body = Vec::new();
        ciborium::into_writer(state, &mut body)
            .map_err(|e| SaveError::Encode { kind: S::KIND, cause: e.to_string() })?;
        Ok(Self { kind: S::KIND.into(), version: S::VERSION, body })
    }

    /// Decodes into a typed state after checking that it is one.
    ///
    /// # Errors
    /// [`RestoreError::Schema`] for another kind or a newer version, [`RestoreError::Decode`] for broken bytes or
    /// bytes left over.
    pub fn decode<S: Schema>(&self) -> Result<S, RestoreError> {
        if self.kind != S::KIND || self.version > S::VERSION {
            return Err(RestoreError::Schema {
                found: self.kind.clone(),
                version: self.version,
                wanted: S::KIND,
                newest: S::VERSION,
            });
        }
        let mut rest = self.body.as_slice();
        let broken = |cause| RestoreError::Decode { kind: S::KIND, cause };
        let state = ciborium::de::from_reader_with_recursion_limit(&mut rest, MAX_DEPTH)
            .map_err(|e| broken(e.to_string()))?;
        if !rest.is_empty() {
            return Err(broken(format!("{} bytes left over", rest.len())));
        }
        Ok(state)
    }

    /// The [`Schema::KIND`] it was encoded with.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The length of the encoded state in bytes.
    #[allow(clippy::len_without_is_empty)] // the shortest CBOR has a byte
    pub fn len(&self) -> usize {
        self.body.len()
    }

    /// The [`Schema::VERSION`] it was encoded with.
    pub fn version(&self) -> u32 {
        self.version
    }
}

/// The state of a component that has none. An explicit answer, where `None` from
/// [`Component::persist`](crate::Component::persist) would mean "cannot be saved".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoState {}

impl Schema for NoState {
    const KIND: &'static str = "none";
    const VERSION: u32 = 1;
}

/// Why a component could not be saved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SaveError {
    /// The state has no encoded form.
    #[error("{kind} state: cannot encode: {cause}")]
    Encode {
        /// The state's kind.
        kind: &'static str,
        /// What the encoder said.
        cause: String,
    },
    /// The component could not give its state.
    #[error("cannot save: {0}")]
    Component(String),
}

/// Why a saved state was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The blob is of another kind, or newer than this reader.
    #[error("found {found} state version {version}, can restore {wanted} up to version {newest}")]
    Schema {
        /// The blob's kind.
        found: String,
        /// The blob's version.
        version: u32,
        /// The kind that the component restores.
        wanted: &'static str,
        /// The newest version that it understands.
        newest: u32,
    },
    /// The bytes are not an encoding of this state.
    #[error("{kind} state: cannot decode: {cause}")]
    Decode {
        /// The state's kind.
        kind: &'static str,
        /// What the decoder said.
        cause: String,
    },
    /// The state decodes, but no component can be in it.
    #[error("invalid {kind} state: {cause}")]
    Invalid {
        /// The state's kind.
        kind: &'static str,
        /// What is wrong with it.
        cause: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Debug, PartialEq, Clone, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct CounterState {
        count: u8,
    }
    impl Schema for CounterState {
        const KIND: &'static str = "counter";
        const VERSION: u32 = 2;
    }
    struct Counter(Mutex<u8>);
    impl Persist for Counter {
        type State = CounterState;
        fn save(&self) -> Result<CounterState, SaveError> {
            Ok(CounterState { count: *self.0.lock().unwrap() })
        }
        fn restore(&self, state: CounterState) -> Result<(), RestoreError> {
            if state.count > 9 {
                let cause = format!("count {} is above 9", state.count);
                return Err(RestoreError::Invalid { kind: CounterState::KIND, cause });
            }
            *self.0.lock().unwrap() = state.count;
            Ok(())
        }
    }

    #[test]
    fn a_saved_state_comes_back_through_the_erased_trait() {
        let saved = (&Counter(Mutex::new(7)) as &dyn PersistDyn).save_blob().unwrap();
        let fresh = Counter(Mutex::new(0));
        (&fresh as &dyn PersistDyn).restore_blob(&saved).unwrap();
        assert_eq!(*fresh.0.lock().unwrap(), 7);
    }

    #[test]
    fn foreign_newer_and_broken_blobs_are_refused() {
        let good = Blob::encode(&CounterState { count: 1 }).unwrap();
        let foreign = Blob { kind: "clock".into(), ..good.clone() };
        let newer = Blob { version: 3, ..good.clone() };
        let short = Blob { body: good.body[..3].to_vec(), ..good.clone() };
        let long = Blob { body: [good.body.as_slice(), &[0]].concat(), ..good.clone() };
        let deep = Blob { body: vec![0x81; 100_000], ..good.clone() };
        assert!(matches!(foreign.decode::<CounterState>(), Err(RestoreError::Schema { .. })));
        assert!(matches!(newer.decode::<CounterState>(), Err(RestoreError::Schema { .. })));
        for blob in [short, long, deep] {
            assert!(matches!(blob.decode::<CounterState>(), Err(RestoreError::Decode { .. })));
        }
        assert!(good.decode::<CounterState>().is_ok());
    }

    #[test]
    fn an_impossible_state_is_refused_by_the_component() {
        let blob = Blob::encode(&CounterState { count: 10 }).unwrap();
        assert!(matches!(Counter(Mutex::new(0)).restore_blob(&blob), Err(RestoreError::Invalid { .. })));
    }
}
