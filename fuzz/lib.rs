//! What all targets share: a bound on what a body may have allocated at any moment, leaks of earlier ones included.
use std::alloc::System;

/// In bytes. Guest memory is mapped and not in it; libFuzzer's own memory is not either.
const MOST: usize = 64 << 20;

#[global_allocator]
static ALLOCATOR: cap::Cap<System> = cap::Cap::new(System, MOST);

/// A target around a body.
#[macro_export]
macro_rules! target {
    ($body:path) => {
        libfuzzer_sys::fuzz_target!(|data: &[u8]| {
            let _ = $body(data);
        });
    };
}
