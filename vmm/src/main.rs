//! The `drystone` command.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    // A panic was reported by the hook; the exit code is that of an error.
    let code = std::panic::catch_unwind(|| drystone::cli::main(std::env::args_os()));
    ExitCode::from(code.unwrap_or(1))
}
