//! Fuzz bodies: each takes any bytes, drives a crate's public interface with them, and panics when a promise does not
//! hold. `fuzz/` has a libFuzzer target around each; tests replay the corpus beside those targets.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod block;
mod boot_params;
mod cpuid;
mod formats;
mod i8042;
pub mod images;
mod input;
mod limit;
mod loader;
mod msr_policy;
mod net;
mod passt_frames;
mod pci;
mod saved_state;
mod serial;
mod snapshot;
mod virtio;
mod virtio_pci;

pub use block::{DiskGuest, block, block_on};
pub use boot_params::boot_params;
pub use cpuid::cpuid;
pub use formats::{qcow2, vmdk};
pub use i8042::i8042;
pub use input::Input;
pub use limit::limit;
pub use loader::loader;
pub use msr_policy::msr_policy;
pub use net::net;
pub use passt_frames::passt_frames;
pub use pci::pci;
pub use saved_state::{saved_state, saved_state_on};
pub use serial::serial;
pub use snapshot::snapshot;
pub use virtio::{entropy_world, rng, virtio_core, virtio_mmio, virtio_ring};
pub use virtio_pci::virtio_pci;

use std::path::Path;

/// Gives every file of the corpus of `target` to its body and returns how many there were.
///
/// # Panics
/// If the corpus cannot be read or the body panics; the file is named on standard error then.
pub fn replay(target: &str, body: impl Fn(&[u8])) -> usize {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let files = std::fs::read_dir(&corpus).unwrap_or_else(|e| panic!("corpus at {}: {e}", corpus.display()));
    let mut count = 0;
    for file in files {
        let path = file.expect("the corpus can be listed").path();
        let data = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let named = Named(&path);
        body(&data);
        std::mem::forget(named);
        count += 1;
    }
    count
}

/// Says which file it was when a body panics.
struct Named<'a>(&'a Path);

impl Drop for Named<'_> {
    fn drop(&mut self) {
        eprintln!("the input that broke it: {}", self.0.display());
    }
}
