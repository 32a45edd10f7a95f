//! What a snapshot and a restore take, by the size of guest RAM and by what is in it.
#![allow(clippy::print_stdout)]

use clap::Parser;
use drystone_benches::figures::{Series, table};
use drystone_benches::vmm::{Guest, Kind, Vmm};
use drystone_benches::{probe, snapshot};
use drystone_memory::{GuestRam, Layout, RamConfig};
use drystone_snapshot::{About, Content, Options, Progress, Snapshot, write};
use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};

/// Measures what a snapshot and a restore take.
#[derive(Parser)]
struct Args {
    /// Another VMM to measure in the same run, as drystone=PATH or firecracker=PATH; may be repeated
    #[arg(long, value_name = "NAME=PATH")]
    peer: Vec<Vmm>,
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
    let mut vmms = vec![Vmm { name: "drystone".into(), kind: Kind::Drystone, path }];
    vmms.extend(args.peer.iter().cloned());
    crate_alone(&args, scratch.path())?;
    for memory in &args.memory {
        whole_machines(&args, *memory, &vmms, scratch.path())?;
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

/// A guest that ticks, of which as much of its memory holds data: written down while it runs, and brought back.
fn whole_machines(args: &Args, memory: u64, vmms: &[Vmm], scratch: &Path) -> Result<(), Box<dyn Error>> {
    let names = [
        "pause, ms",
        "snapshot, ms",
        "on disk, MiB",
        "restore to first guest instruction, ms",
        "CPU until then, ms",
    ];
    let kernel = scratch.join("kernel");
    std::fs::write(&kernel, probe::ticking(u32::try_from(args.data.min(memory / 2))?))?;
    let guest = Guest { kernel: &kernel, initrd: None, cmdline: "", memory_mib: memory };
    let mut rows: Vec<_> = vmms
        .iter()
        .map(|vmm| (format!("{}, {memory} MiB", vmm.name), vec![Series::default(); names.len()]))
        .collect();
    for turn in 0..=args.runs {
        for (vmm, (_, row)) in vmms.iter().zip(&mut rows) {
            let (written, restored) = snapshot::cycle(vmm, guest, scratch)?;
            let mib = written.bytes as f64 / f64::from(1 << 20);
            let values = [ms(written.pause), ms(written.request), mib, ms(restored.wall), ms(restored.cpu)];
            if turn > 0 {
                row.iter_mut().zip(values).for_each(|(series, value)| series.0.push(value));
            }
        }
    }
    println!("{}", table(&names, &rows));
    Ok(())
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
