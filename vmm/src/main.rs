//! The `drystone` command.
#![forbid(unsafe_code)]

use dlmalloc::GlobalDlmalloc;
use std::process::ExitCode;

/// One heap for all threads, which allocate next to nothing once the guest runs. The C library's would make each a heap of its
/// own, and that takes longer than what most of them do until then.
#[global_allocator]
static HEAP: GlobalDlmalloc = GlobalDlmalloc;

fn main() -> ExitCode {
    // A panic was reported by the hook; the exit code is that of an error.
    let code = std::panic::catch_unwind(|| drystone::cli::main(std::env::args_os()));
    ExitCode::from(code.unwrap_or(1))
}
