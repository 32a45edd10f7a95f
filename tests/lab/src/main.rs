//! The command line of the lab.

use std::process::ExitCode;
use drystone_lab::*;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    if is_agent() {
        return agent();
    }
    let lab = Lab::prepare_with_agent(std::path::Path::new("/proc/self/exe"), &Progress::stderr());
    let lab = match lab { Ok(lab) => lab, Err(error) => { eprintln!("{error}"); return ExitCode::from(125) } };
    let out = Job::shell(args.get(1).cloned().unwrap_or_default()).inherit_output().progress(Progress::stderr()).run(&lab);
    match out { Ok(o) => { eprintln!("{o:?}"); ExitCode::from(o.code as u8) } Err(e) => { eprintln!("{e}"); ExitCode::from(125) } }
}
