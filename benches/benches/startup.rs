//! How fast and how small VMMs start a guest, side by side.
#![allow(clippy::print_stdout)]

use clap::Parser;
use drystone_benches::figures::{Series, table};
use drystone_benches::vmm::{Guest, Kind, Vmm};
use drystone_benches::{probe, process};
use std::error::Error;
use std::path::PathBuf;

/// Measures how fast and how small VMMs start a guest, side by side.
#[derive(Parser)]
struct Args {
    /// Another VMM to measure in the same run; may be repeated
    #[arg(long, value_name = "NAME=PATH")]
    peer: Vec<Vmm>,
    /// The drystone to measure [default: built now, in the release profile]
    #[arg(long, value_name = "PATH")]
    drystone: Option<PathBuf>,
    /// Turns
    #[arg(long, default_value_t = 10)]
    runs: u32,
    /// Exits in one run of the exit round trip
    #[arg(long, default_value_t = 20_000)]
    exits: u32,
    /// Guest RAM in MiB
    #[arg(long, default_value_t = 256)]
    memory: u64,
    /// Count user-space instructions too (needs valgrind, takes seconds a program)
    #[arg(long)]
    instructions: bool,
    /// What cargo passes
    #[arg(long, hide = true)]
    bench: bool,
}

const FIGURES: [&str; 5] =
    ["first output, ms", "CPU, ms", "memory, MiB", "exit, us", "instructions, millions"];

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
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
    let (plain, exits) = (scratch.path().join("plain.elf"), scratch.path().join("exits.elf"));
    std::fs::write(&plain, probe::image(0))?;
    std::fs::write(&exits, probe::image(args.exits))?;
    let command = |program: &Vmm, kernel| -> std::io::Result<_> {
        let guest = Guest { kernel, initrd: None, cmdline: "", memory_mib: args.memory };
        program.prepare(guest, scratch.path())?;
        Ok(program.command(guest, scratch.path()))
    };

    let mut rows: Vec<_> =
        programs.iter().map(|p| (p.name.clone(), vec![Series::default(); FIGURES.len()])).collect();
    // The first turn warms caches and is not counted.
    for turn in 0..=args.runs {
        for (program, (_, row)) in programs.iter().zip(&mut rows) {
            let start = process::start(command(program, &plain)?)?;
            let memory = process::memory_overhead(command(program, &plain)?, args.memory)?;
            let exit = process::exit_round_trip(command(program, &exits)?, args.exits)?;
            let values = [
                start.wall.as_secs_f64() * 1e3,
                start.cpu.as_secs_f64() * 1e3,
                memory as f64 / f64::from(1 << 20),
                exit.as_secs_f64() * 1e6,
            ];
            if turn > 0 {
                row.iter_mut().zip(values).for_each(|(series, value)| series.0.push(value));
            }
        }
    }
    if args.instructions {
        for (program, (_, row)) in programs.iter().zip(&mut rows) {
            match process::instructions(&command(program, &plain)?, scratch.path()) {
                Ok(count) => row.iter_mut().skip(4).for_each(|s| s.0.push(count as f64 / 1e6)),
                Err(why) => println!("{}: instructions not counted: {why}", program.name),
            }
        }
    }
    println!(
        "\nmedian (least - most) of {} runs; ratio: drystone's over this program's, turn by turn\n",
        args.runs
    );
    println!("{}", table(&FIGURES, &rows));
    Ok(())
}
