//! How long a stock Linux takes to its first program, by transport and number of its disks, in the lab.
#![allow(clippy::print_stdout)]

use clap::Parser;
use drystone_benches::figures::{Series, table};
use drystone_benches::stock::Stock;
use drystone_lab::initramfs::{Builder, LOAD_MODULES};
use drystone_lab::{Job, Lab, Progress};
use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Boots a stock Debian kernel, with its disks on virtio-mmio and on virtio-pci, by turns.
#[derive(Parser)]
struct Args {
    /// Numbers of disks
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16])]
    disks: Vec<u32>,
    /// Another drystone, to boot over virtio-pci by the same turns
    #[arg(long, value_name = "PATH")]
    other: Option<PathBuf>,
    #[command(flatten)]
    stock: Stock,
}

const MODULES: &[&str] = &["virtio_mmio", "virtio_pci", "virtio_blk"];
const FIGURES: [&str; 2] = ["first program, ms", "all disks, ms"];
/// `pci-ecam` is PCI without the configuration ports, for kernels that need none.
const WAYS: [(&str, &str); 3] = [
    ("mmio", "drystone run --transport mmio"),
    ("pci", "drystone run --transport pci"),
    ("pci-ecam", "drystone run --transport pci --pci-config-ports false"),
];
const OTHER: (&str, &str) = ("pci of the other", "./other run --transport pci");

/// Says when it began, and when it has all of its disks; both by the clock of the kernel's log, which begins with the guest.
const INIT: &str = r#"#!/bin/sh
mount -t devtmpfs dev /dev
echo began > /dev/kmsg
mount -t proc proc /proc
mount -t sysfs sysfs /sys
@LOAD_MODULES@
for word in $(cat /proc/cmdline); do case $word in disks=*) disks=${word#disks=};; esac; done
until [ $(ls /sys/block | grep -c vd) = $disks ]; do usleep 1000; done
echo ended > /dev/kmsg
echo took $(dmesg | sed -n 's/^\[ *\([0-9]*\)[.]\([0-9]*\)\] \(began\|ended\)$/\1\2/p')
poweroff -f
"#;

impl Args {
    fn ways(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        WAYS.into_iter().chain(self.other.is_some().then_some(OTHER))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let version = args.stock.kernel;
    let lab = Lab::prepare(&Progress::stderr())?;
    let drystone = drystone_lab::build_profile("drystone", "drystone", "release")?;
    let scratch = tempfile::tempdir()?;
    let initrd = scratch.path().join("guest.cpio");
    let guest = Builder::new().busybox(lab.busybox())?.init(&INIT.replace("@LOAD_MODULES@", LOAD_MODULES));
    guest.modules(lab.kernel(version), MODULES)?.write_to(&initrd)?;

    let said = args.stock.run(job(&args, &lab, &drystone, &initrd), &lab)?;
    println!(
        "Linux {}, {} turns, ratios: virtio-mmio's over this one's, turn by turn\n",
        version.name(),
        args.stock.runs
    );
    let figures = read(&said);
    for disks in &args.disks {
        let row = |(way, _): (&str, &str)| {
            let name = format!("{disks} on {way}");
            let series = figures.get(&name).cloned().unwrap_or_default();
            (name, series)
        };
        println!("{}", table(&FIGURES, &args.ways().map(row).collect::<Vec<_>>()));
    }
    Ok(())
}

/// One emulated machine boots them all, so that a busy moment meets all of them.
fn job(args: &Args, lab: &Lab, drystone: &Path, initrd: &Path) -> Job {
    let most = args.disks.iter().max().copied().unwrap_or_default();
    let mut script = String::from("export DRYSTONE_RUNTIME_DIR=$PWD/run PATH=$PWD:$PATH\n");
    script += &format!(
        "n=0; while [ $n -lt {most} ]; do dd if=/dev/zero of=$n.img bs=1024 count=64 2>/dev/null; n=$((n+1)); done\n"
    );
    // The first turn warms caches and is not counted.
    for turn in 0..=args.stock.runs {
        for disks in &args.disks {
            let given: String = (0..*disks).map(|n| format!(" --disk {n}.img,readonly")).collect();
            for (way, run) in args.ways() {
                script += &format!(
                    "echo \"boot {turn} {disks} on {way}\"; {run} --kernel vmlinux --initrd guest.cpio --memory 256M \
                     --rng false{given} --cmdline 'quiet disks={disks}' < /dev/null || exit 9\n"
                );
            }
        }
    }
    let job = args.other.iter().fold(Job::shell(script), |job, other| job.file(other, "other"));
    job.file(drystone, "drystone")
        .file(initrd, "guest.cpio")
        .file(&lab.kernel(args.stock.kernel).vmlinux, "vmlinux")
        .time_limit(Duration::from_secs(3600))
}

/// By name of the row, a series for each figure.
fn read(text: &str) -> BTreeMap<String, Vec<Series>> {
    let mut figures = BTreeMap::<String, Vec<Series>>::new();
    let mut row = None;
    for line in text.lines().map(str::trim_end) {
        if let Some(boot) = line.strip_prefix("boot ") {
            row = boot.split_once(' ').filter(|(turn, _)| *turn != "0").map(|(_, name)| name.to_owned());
        } else if let (Some(took), Some(name)) = (line.strip_prefix("took "), &row) {
            let series =
                figures.entry(name.clone()).or_insert_with(|| vec![Series::default(); FIGURES.len()]);
            let microseconds = took.split(' ').map_while(|value| value.parse::<f64>().ok());
            series.iter_mut().zip(microseconds).for_each(|(series, value)| series.0.push(value / 1000.0));
        }
    }
    figures
}
