//! The files of a snapshot as somebody else wrote them.

use super::input::Input;
use drystone_snapshot::{Manifest, ManifestError, MemoryMap, decode_parts, encode_parts};

const NO_CHECKSUM: &str = "00000000";

/// The first byte says which file, the rest is its content. Whatever is read is again what it was when it is written and read.
///
/// # Panics
/// When it is not, or when what was read promises what cannot be.
pub fn snapshot(data: &[u8]) {
    let mut input = Input::new(data);
    let kind = input.u8();
    let content = input.rest();
    match kind % 3 {
        0 => manifest(&String::from_utf8_lossy(content)),
        1 => map(content),
        _ => parts(content),
    }
}

fn manifest(text: &str) {
    let read = match Manifest::from_text(text) {
        // What is behind the checksum must be tried too.
        Err(ManifestError::Checksum) => Manifest::from_text(&mended(text)),
        read => read,
    };
    let Ok(manifest) = read else { return };
    let written = manifest.to_text().expect("what was read can be written");
    assert_eq!(Manifest::from_text(&written).expect("what was written can be read"), manifest);
}

/// The text with the checksum that it should have, if it has one at all.
fn mended(text: &str) -> String {
    let Ok(serde_json::Value::Object(fields)) = serde_json::from_str(text) else { return text.into() };
    let Some(old) = fields.get("checksum").and_then(|sum| sum.as_str()) else { return text.into() };
    let field = |sum: &str| format!("\"checksum\": \"{sum}\"");
    let Some(at) = text.rfind(&field(old)) else { return text.into() };
    let with = |sum: &str| text[..at].to_owned() + &text[at..].replacen(&field(old), &field(sum), 1);
    with(&format!("{:08x}", crc32fast::hash(with(NO_CHECKSUM).as_bytes())))
}

fn map(bytes: &[u8]) {
    let Ok(map) = MemoryMap::from_bytes(bytes) else { return };
    let mut end = 0;
    for range in map.ranges() {
        assert!(range.base >= end && range.len > 0, "ranges in order, and apart");
        end = range.base + range.len;
    }
    assert_eq!(map.len(), map.ranges().iter().map(|r| r.len).sum::<u64>());
    let written = map.to_bytes().expect("what was read can be written");
    assert!(written.len() as u64 <= MemoryMap::MAX_LEN.max(bytes.len() as u64));
    assert_eq!(MemoryMap::from_bytes(&written).expect("what was written can be read"), map);
}

fn parts(bytes: &[u8]) {
    let Ok(parts) = decode_parts(bytes) else { return };
    let written = encode_parts(&parts).expect("what was read can be written");
    assert_eq!(decode_parts(&written).expect("what was written can be read"), parts);
}
