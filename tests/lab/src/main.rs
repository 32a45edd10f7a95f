//! The command line of the lab.

mod cli;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    // The same program serves jobs inside of the emulated machine.
    if drystone_lab::is_agent() {
        return drystone_lab::agent();
    }
    let result = cli::Arguments::parse().execute();
    let code = result.unwrap_or_else(|error| {
        let code = error.downcast_ref::<drystone_lab::Error>().map_or(125, drystone_lab::Error::exit_code);
        // Whoever closed the output or asked for the end does not have to be told.
        if !matches!(
            error.downcast_ref(),
            Some(drystone_lab::Error::OutputClosed(_) | drystone_lab::Error::Cancelled(_))
        ) {
            eprintln!("lab: {error:#}");
        }
        code
    });
    ExitCode::from(u8::try_from(code & 0xff).unwrap_or(125))
}
