//! What a driver may rely on, request by request (virtio 1.3, 5.2.6). Over every engine.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod over_sync {
    const ENGINE: drystone_block::EngineKind = drystone_block::EngineKind::Sync;
    include!("requests/protocol.rs");
}
mod over_threads {
    const ENGINE: drystone_block::EngineKind = drystone_block::EngineKind::Threads;
    include!("requests/protocol.rs");
}
mod over_io_uring {
    const ENGINE: drystone_block::EngineKind = drystone_block::EngineKind::IoUring;
    include!("requests/protocol.rs");
}
