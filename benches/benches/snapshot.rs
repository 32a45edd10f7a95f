//! What a snapshot and a restore take, by the size of guest RAM and by what is in it.
#![allow(clippy::print_stdout)]

use clap::Parser;
use drystone_benches::figures::{Series, table};
use drystone_memory::{GuestRam, Layout, RamConfig};
use drystone_snapshot::{About, Content, Options, Progress, Snapshot, write};
use std::error::Error;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};

/// Measures what a snapshot and a restore take.
#[derive(Parser)]
struct Args {
    /// Another drystone to measure in the same run; may be repeated
    #[arg(long, value_name = "NAME=PATH")]
    peer: Vec<String>,
    /// The drystone to measure [default: built now, in the release profile]
    #[arg(long, value_name = "PATH")]
    drystone: Option<PathBuf>,
    /// Turns
    #[arg(long, default_value_t = 5)]
    runs: u32,
    /// Sizes of guest RAM in MiB
    #[arg(long, value_delimiter = ',', default_value = "256,1024,8192")]
    memory: Vec<u64>,
    /// How much of it holds data, in MiB
    #[arg(long, default_value_t = 128)]
    data: u64,
    /// Where snapshots are written
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// What cargo passes
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let scratch = match &args.dir {
        Some(dir) => tempfile::tempdir_in(dir)?,
        None => tempfile::tempdir()?,
    };
    let path = match &args.drystone {
        Some(path) => path.clone(),
        None => drystone_lab::build_profile("drystone", "drystone", "release")?,
    };
    let mut programs = vec![("drystone".to_owned(), path)];
    for peer in &args.peer {
        let (name, path) = peer.split_once('=').ok_or("--peer NAME=PATH")?;
        programs.push((name.into(), path.into()));
    }
    crate_alone(&args, scratch.path())?;
    for memory in &args.memory {
        whole_machines(&args, *memory, &programs, scratch.path())?;
    }
    Ok(())
}

/// The container by itself: `data` MiB that do not compress to nothing, at the end of RAM.
fn crate_alone(args: &Args, scratch: &Path) -> Result<(), Box<dyn Error>> {
    let names = ["write, ms", "MiB/s", "on disk, MiB", "open, ms", "map, ms"];
    let mut rows = Vec::new();
    for &memory in &args.memory {
        let mut row = vec![Series::default(); names.len()];
        let layout = Layout::new(memory << 20, 46)?;
        let ram = GuestRam::new(&layout, &RamConfig::default())?;
        let noise: Vec<u8> = (0..1_u32 << 20).map(|n| (n.wrapping_mul(0x9e37_79b9) >> 13) as u8).collect();
        for piece in 0..args.data.min(memory / 2) {
            ram.view().memory().write_slice(&noise, GuestAddress(piece << 20))?;
        }
        let dir = scratch.join("crate");
        for turn in 0..=args.runs {
            let content = Content { about: About::default(), parts: Default::default(), ram: &ram };
            let begun = Instant::now();
            let manifest = write(&dir, &content, &Options::default(), &Progress::new())?;
            let wrote = begun.elapsed();
            let begun = Instant::now();
            let snapshot = Snapshot::open(&dir)?;
            let opened = begun.elapsed();
            let begun = Instant::now();
            let _restored = GuestRam::from_file(&layout, &RamConfig::default(), snapshot.memory()?)?;
            let mapped = begun.elapsed();
            let mib = manifest.memory.data as f64 / f64::from(1 << 20);
            let values = [ms(wrote), mib / wrote.as_secs_f64(), mib, ms(opened), ms(mapped)];
            if turn > 0 {
                row.iter_mut().zip(values).for_each(|(series, value)| series.0.push(value));
            }
        }
        rows.push((format!("{memory} MiB RAM"), row));
    }
    println!("{}", table(&names, &rows));
    Ok(())
}

/// The guest that is built in, as a person meets it: how long `snapshot` takes, and how long it is from exec of `restore` to the
/// guest's answer to a line.
fn whole_machines(
    args: &Args,
    memory: u64,
    programs: &[(String, PathBuf)],
    scratch: &Path,
) -> Result<(), Box<dyn Error>> {
    let names = ["snapshot, ms", "restore to answer, ms", "boot to answer, ms"];
    let mut rows: Vec<_> = programs
        .iter()
        .map(|(name, _)| (format!("{name}, {memory} MiB"), vec![Series::default(); names.len()]))
        .collect();
    for turn in 0..=args.runs {
        for ((_, path), (_, row)) in programs.iter().zip(&mut rows) {
            let (dir, runtime) = (scratch.join("machine"), scratch.join("run"));
            let command = |args: &[&str]| {
                let mut command = Command::new(path);
                command.args(args).env("DRYSTONE_RUNTIME_DIR", &runtime);
                command
            };
            let size = format!("{memory}M");
            let begun = Instant::now();
            let mut machine = Machine::start(command(&["run", "--id", "bench", "--memory", &size]))?;
            machine.ask()?;
            let booted = begun.elapsed();
            let begun = Instant::now();
            let mut snapshot = command(&["snapshot", "bench"]);
            let done = snapshot.arg(&dir).stdout(Stdio::null()).status()?;
            let written = begun.elapsed();
            if !done.success() {
                return Err("it cannot be written".into());
            }
            drop(machine);
            let begun = Instant::now();
            let mut restore = command(&["restore"]);
            restore.arg(&dir);
            let mut machine = Machine::start(restore)?;
            machine.ask()?;
            let values = [ms(written), ms(begun.elapsed()), ms(booted)];
            if turn > 0 {
                row.iter_mut().zip(values).for_each(|(series, value)| series.0.push(value));
            }
        }
    }
    println!("{}", table(&names, &rows));
    Ok(())
}

/// A machine whose console is two pipes; killed when dropped.
struct Machine(Child);

impl Machine {
    fn start(mut command: Command) -> Result<Self, Box<dyn Error>> {
        Ok(Self(command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?))
    }

    /// Types a line and waits for the answer.
    fn ask(&mut self) -> Result<(), Box<dyn Error>> {
        self.0.stdin.as_mut().ok_or("no console")?.write_all(b"echo an%answer\r")?;
        let output = self.0.stdout.as_mut().ok_or("no console")?;
        let mut seen = Vec::new();
        // The line as it is typed, and as it is answered.
        while seen.windows(9).filter(|w| *w == b"an%answer").count() < 2 {
            let mut byte = [0];
            output.read_exact(&mut byte)?;
            seen.push(byte[0]);
        }
        Ok(())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
