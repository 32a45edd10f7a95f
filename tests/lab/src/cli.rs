//! What the command line can say.

mod boot;
mod run;
mod upkeep;

use clap::{Parser, Subcommand};

const EXAMPLES: &str = "Examples:
  drystone-lab run -- uname -a
  drystone-lab run -t 30 -f target/debug/vmm -f vmlinux:kernel -o log -- './vmm kernel > log; wc log'
  drystone-lab run -i --tty -- sh
  drystone-lab boot --kernel 6.1 --cpus 2

Exit codes: the command's own, or 128 and the number of the signal that ended it; 124 when its time was up; 126 or 127 when
it could not be started; 125 when the lab itself failed; 2 for a mistake in the arguments.

Environment:
  DRYSTONE_LAB=direct|emulated   overrides the choice of where jobs run
  DRYSTONE_LAB_DIR               where things are kept (target/lab of the workspace)
  DRYSTONE_LAB_SLOTS             how many emulated machines may run at once (2)
  DRYSTONE_LAB_ARCHIVE           the address of a Debian archive, if not the one of this machine's apt
  DRYSTONE_LAB_QEMU, DRYSTONE_LAB_MKE2FS, DRYSTONE_LAB_BUSYBOX, DRYSTONE_LAB_KERNEL_6_1, DRYSTONE_LAB_KERNEL_6_12
                                 programs, and directories with `bzImage` and `modules/`, to use in place of fetched ones";

/// Runs commands on a Linux machine with a true /dev/kvm, wherever it is started.
///
/// With hardware virtualisation a command runs directly on this machine; otherwise on an emulated one, which is resumed
/// from a snapshot in about half a second.
#[derive(Debug, Parser)]
#[command(name = "drystone-lab", version, after_long_help = EXAMPLES)]
pub struct Arguments {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run a command.
    #[command(after_help = "See `drystone-lab --help` for examples and exit codes.")]
    Run(run::Run),
    /// Boot a stock Debian kernel with `drystone` to a shell in this terminal.
    Boot(boot::Boot),
    /// Fetch and prepare everything now, so that nothing has to be waited for later.
    Setup,
    /// Say where jobs run and why, and what is there.
    Status,
    /// Remove everything that was fetched or saved.
    Clean,
}

impl Arguments {
    /// Does what is asked; gives the exit code.
    pub fn execute(self) -> anyhow::Result<i32> {
        match self.command {
            Verb::Run(run) => run.execute(),
            Verb::Boot(boot) => boot.execute(),
            Verb::Setup => upkeep::setup(),
            Verb::Status => upkeep::status(),
            Verb::Clean => upkeep::clean(),
        }
    }
}

/// Reads a size: a number of bytes, or of the binary unit that follows it (K, M, G; KiB, MiB, GiB).
fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|char: char| !char.is_ascii_digit());
    let number: u64 = digits.parse().map_err(|_| format!("{text:?} is not a size such as 512M"))?;
    let shift = match text.get(digits.len()..).unwrap_or_default() {
        "" | "B" => 0,
        "K" | "KiB" | "k" => 10,
        "M" | "MiB" | "m" => 20,
        "G" | "GiB" | "g" => 30,
        unit => return Err(format!("{unit:?} is no unit: use K, M or G")),
    };
    number.checked_mul(1 << shift).ok_or_else(|| format!("{text:?} is too large"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_units() {
        assert_eq!(parse_size("512M"), Ok(512 << 20));
        assert_eq!(parse_size("2GiB"), Ok(2 << 30));
        assert_eq!(parse_size("4096"), Ok(4096));
        for bad in ["", "M", "1T", "-1", "1.5G", "99999999999G"] {
            assert!(parse_size(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_arguments_are_sound() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }
}
