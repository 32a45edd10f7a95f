//! Parts and memory map as bytes: CBOR with named fields (RFC 8949).

use drystone_state::Blob;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;

/// How deeply what is decoded may nest. All of it is flat.
const MAX_DEPTH: usize = 8;

/// The state of a machine's parts, by name, as it is written.
///
/// # Errors
/// What the encoder said.
pub fn encode_parts(parts: &BTreeMap<String, Blob>) -> Result<Vec<u8>, String> {
    encode(parts)
}

/// Reads what [`encode_parts`] wrote. `bytes` are untrusted.
///
/// # Errors
/// What is wrong with them, in one line.
pub fn decode_parts(bytes: &[u8]) -> Result<BTreeMap<String, Blob>, String> {
    decode(bytes)
}

pub(crate) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).map_err(|e| e.to_string())?;
    Ok(bytes)
}

pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let mut rest = bytes;
    let value = ciborium::de::from_reader_with_recursion_limit(&mut rest, MAX_DEPTH)
        .map_err(|e| format!("cannot decode: {e}"))?;
    if !rest.is_empty() {
        return Err(format!("cannot decode: {} bytes left over", rest.len()));
    }
    Ok(value)
}
