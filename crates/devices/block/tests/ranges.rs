//! Discarding and writing zeros, and everything that can be wrong with such a request (virtio 1.3, 5.2.6). Over every engine.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod over_sync {
    const ENGINE: drystone_block::EngineKind = drystone_block::EngineKind::Sync;
    include!("requests/ranges.rs");
}
mod over_threads {
    const ENGINE: drystone_block::EngineKind = drystone_block::EngineKind::Threads;
    include!("requests/ranges.rs");
}
mod over_io_uring {
    const ENGINE: drystone_block::EngineKind = drystone_block::EngineKind::IoUring;
    include!("requests/ranges.rs");
}
