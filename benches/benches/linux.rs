//! How long it is from exec of a VMM to the first program of a stock Linux, side by side, in the lab.
#![allow(clippy::print_stdout)]

use clap::Parser;
use drystone_benches::figures::{Series, table};
use drystone_benches::stock::Stock;
use drystone_benches::vmm::{Guest, Kind, Vmm};
use drystone_lab::initramfs::Builder;
use drystone_lab::{Job, Lab, Progress};
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Measures how long VMMs take from exec to the first program of a stock Linux, side by side, in the lab.
#[derive(Parser)]
struct Args {
    /// Another VMM to measure in the same run, a program that needs no more than this host's C library; may be repeated
    #[arg(long, value_name = "NAME=PATH")]
    peer: Vec<Vmm>,
    /// The drystone to measure [default: built now, in the release profile]
    #[arg(long, value_name = "PATH")]
    drystone: Option<PathBuf>,
    /// Guest RAM in MiB
    #[arg(long, default_value_t = 256)]
    memory: u64,
    /// What is added to the command line that each VMM has of its own
    #[arg(long, default_value = "quiet")]
    cmdline: String,
    #[command(flatten)]
    stock: Stock,
}

const INIT: &str = "#!/bin/sh\necho FIRST\nwhile :; do sleep 60; done\n";

/// Runs its arguments until the guest's first program speaks, and says how many seconds that took.
const MEASURE: &str = r#"
measure() {
    read began _ < /proc/uptime
    "$@" > out 2> err < /dev/null & pid=$!
    if ! grep -q FIRST < out; then cat err >&2; exit 9; fi
    read ended _ < /proc/uptime
    kill -9 $pid; wait $pid
    echo "took $(awk "BEGIN { print $ended - $began }")"
}
export DRYSTONE_RUNTIME_DIR=$PWD/run
mkfifo out
"#;

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let lab = Lab::prepare(&Progress::stderr())?;
    let path = match &args.drystone {
        Some(path) => path.clone(),
        None => drystone_lab::build_profile("drystone", "drystone", "release")?,
    };
    let mut programs = vec![Vmm { name: "drystone".into(), kind: Kind::Drystone, path }];
    programs.extend(args.peer.iter().cloned());
    for program in &programs {
        println!("{}: {}, {}", program.name, program.path.display(), program.version());
    }

    let scratch = tempfile::tempdir()?;
    let initrd = scratch.path().join("guest.cpio");
    Builder::new().busybox(lab.busybox())?.init(INIT).write_to(&initrd)?;
    let job = job(&args, &programs, scratch.path())?
        .file(&initrd, "guest.cpio")
        .file(&lab.kernel(args.stock.kernel).vmlinux, "vmlinux");
    let said = args.stock.run(job, &lab)?;
    println!(
        "\nLinux {}, median (least - most) of {} runs; ratio: drystone's over this program's, turn by turn\n",
        args.stock.kernel.name(),
        args.stock.runs
    );
    println!("{}", table(&["exec to the first program, s"], &rows(&programs, &said)));
    Ok(())
}

/// One emulated machine boots them all by turns, so that a busy moment meets all of them.
fn job(args: &Args, programs: &[Vmm], scratch: &Path) -> std::io::Result<Job> {
    let guest = Guest {
        kernel: Path::new("vmlinux"),
        initrd: Some(Path::new("guest.cpio")),
        cmdline: &args.cmdline,
        memory_mib: args.memory,
    };
    let (mut turn, mut files) = (String::new(), Vec::new());
    for (n, program) in programs.iter().enumerate() {
        let there = Vmm { path: format!("./program{n}").into(), ..program.clone() };
        turn += &format!("echo of {n}; measure {}\n", shell(&there.command(guest, Path::new(""))));
        files.push((program.path.clone(), format!("program{n}")));
        if let Some(name) = program.prepare(guest, scratch)? {
            files.push((scratch.join(name), name.to_owned()));
        }
    }
    // The first turn warms caches and is not counted.
    let script = format!(
        "{MEASURE}{turn}echo begin\nn=0; while [ $n -lt {} ]; do n=$((n+1))\n{turn}done\n",
        args.stock.runs
    );
    let job = Job::shell(script).time_limit(Duration::from_secs(3600));
    Ok(files.into_iter().fold(job, |job, (path, name)| job.file(path, name)))
}

fn shell(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| format!("'{}' ", word.to_string_lossy())).collect()
}

/// A row for each program.
fn rows(programs: &[Vmm], text: &str) -> Vec<(String, Vec<Series>)> {
    let mut rows: Vec<_> = programs.iter().map(|p| (p.name.clone(), vec![Series::default()])).collect();
    let mut row = None;
    for line in text.lines().skip_while(|line| line.trim_end() != "begin").map(str::trim_end) {
        if let Some(n) = line.strip_prefix("of ") {
            row = n.parse().ok();
        } else if let Some(seconds) = line.strip_prefix("took ").and_then(|took| took.parse().ok())
            && let Some((_, series)) = row.and_then(|n: usize| rows.get_mut(n))
        {
            series.iter_mut().for_each(|series| series.0.push(seconds));
        }
    }
    rows
}
