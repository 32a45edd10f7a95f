//! Guest memory in a file: all ranges one after the other, with holes where there are only zeros.

mod file;
mod map;
mod verify;
mod write;

pub(crate) use file::{MemoryFile, clear};
pub use map::{BLOCK, MapError, MemoryMap, MemoryRange};
pub(crate) use verify::{check_some, verify};
pub(crate) use write::write;

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

const PAGE: u64 = 4096;

/// Has `threads` threads call `work` with the numbers below `count`, each once, each thread with a buffer of a block. The first
/// error ends it.
fn in_parallel<T: Send, E: Send>(
    count: usize,
    threads: NonZeroUsize,
    work: impl Fn(usize, &mut [u8]) -> Result<T, E> + Sync,
) -> Result<Vec<(usize, T)>, E> {
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let run = || {
        let mut buffer = vec![0; BLOCK as usize];
        let mut done = Vec::new();
        while !failed.load(Ordering::Relaxed) {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= count {
                break;
            }
            match work(n, &mut buffer) {
                Ok(value) => done.push((n, value)),
                Err(error) => {
                    failed.store(true, Ordering::Relaxed);
                    return Err(error);
                }
            }
        }
        Ok(done)
    };
    let helpers = threads.get().min(count).saturating_sub(1);
    std::thread::scope(|scope| {
        // A host that gives no thread leaves more to the others.
        let spawn = |_| std::thread::Builder::new().name("snapshot".into()).spawn_scoped(scope, run).ok();
        let spawned: Vec<_> = (0..helpers).filter_map(spawn).collect();
        let mut all = run();
        for helper in spawned {
            let more = helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            all = all.and_then(|mut done| {
                done.extend(more?);
                Ok(done)
            });
        }
        all
    })
}
