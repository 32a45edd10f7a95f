//! Stock kernels in the lab.

use clap::Args;
use drystone_lab::{Job, Lab, Version};
use std::error::Error;

/// What benchmarks of stock kernels are told.
#[derive(Debug, Args)]
pub struct Stock {
    /// Turns
    #[arg(long, default_value_t = 5)]
    pub runs: u32,
    /// The kernel: 6.1 or 6.12
    #[arg(long, default_value = "6.12", value_parser = version)]
    pub kernel: Version,
    /// Count time in instructions of the emulated machine, which repeats on a busy host too
    #[arg(long)]
    pub counted: bool,
    /// What cargo passes
    #[arg(long, hide = true)]
    bench: bool,
}

impl Stock {
    /// Runs `job` by the clock that was asked for, and gives what it said.
    ///
    /// # Errors
    /// When the lab cannot run it, or its exit code is not 0; then with all that it said.
    pub fn run(&self, job: Job, lab: &Lab) -> Result<String, Box<dyn Error>> {
        let said = if self.counted { job.counted() } else { job }.run(lab)?;
        if said.code != 0 {
            let (code, out, err) = (said.code, said.text(), said.error_text());
            return Err(format!("the lab's job ended with {code}: {out}{err}").into());
        }
        Ok(said.text())
    }
}

fn version(name: &str) -> Result<Version, String> {
    Version::from_name(name).ok_or_else(|| "6.1 and 6.12 are known".into())
}
