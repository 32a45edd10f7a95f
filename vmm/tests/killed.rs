//! A whole machine that is killed at any moment while it writes itself down: the snapshot is the old one or the new one, it goes on, and
//! what is left over is gone after the next command. On any `/dev/kvm`, with the guest that is built in.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod common;

use common::has_kvm;
use common::place::{Place, ask, leave};
use drystone_snapshot::{Manifest, Snapshot};
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

const KILLS: u32 = 50;
/// So much of guest memory is not zeros: enough that writing it takes a while.
const DATA: usize = 16 << 20;

fn manifest(place: &Place) -> Manifest {
    Snapshot::open(&place.path("snap")).unwrap().manifest().clone()
}

fn names(place: &Place, dir: &str) -> BTreeSet<PathBuf> {
    fs::read_dir(place.path(dir)).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn a_machine_that_is_killed_while_it_writes_leaves_the_old_snapshot_or_the_new_one() {
    if !has_kvm() {
        return;
    }
    let place = Place::new();
    fs::create_dir(place.path("elsewhere")).unwrap();
    let noise: Vec<u8> =
        (0..DATA as u32 / 4).flat_map(|n| n.wrapping_mul(0x9e37_79b9).to_le_bytes()).collect();
    fs::write(place.path("initrd"), noise).unwrap();

    // Half a line is typed when the machine is written down; what the guest makes of the other half tells the snapshots apart.
    let mut machine = place.run("web", &["--initrd", "initrd"]);
    machine.type_in(b"echo 0");
    machine.read_to("echo 0");
    let begun = Instant::now();
    place.say(&["snapshot", "web", "snap", "--stop"]);
    let takes = begun.elapsed();
    machine.end();

    let (mut last, mut outcomes, mut interrupted) = (0, [0, 0], 0);
    let mut kept = BTreeSet::new();
    for kill in 1..=KILLS {
        let mut machine = place.session(&["restore", "snap", "--id", "web", "--verify"]);
        assert_eq!(ask(&mut machine, ""), last.to_string());
        let half = format!("echo {kill}");
        machine.type_in(half.as_bytes());
        machine.read_to(&half);

        let before = manifest(&place);
        let memory: &[&str] = if kill % 3 == 0 { &["--memory-dir", "elsewhere"] } else { &[] };
        let mut command = place.command(&[&["snapshot", "web", "snap"], memory].concat());
        let mut writer = command.stdout(std::process::Stdio::null()).spawn().unwrap();
        // Moments all over what it takes, and after it, in no order.
        std::thread::sleep(takes.mul_f64(f64::from(kill * 37 % KILLS) / f64::from(KILLS) * 1.5));
        machine.child.kill().unwrap();
        machine.child.wait().unwrap();
        let said_so = writer.wait().unwrap().success();

        // Which it is, its manifest says; the next restore compares all of its memory, and asks it.
        let now = manifest(&place);
        let new = now.created_unix_ms != before.created_unix_ms;
        kept.extend(Some(now.memory.path).filter(|path| path.is_absolute()));
        assert!(new || !said_so, "a snapshot that was said to be written is not there");
        outcomes[usize::from(new)] += 1;
        last = if new { kill } else { last };
        assert_eq!(place.say(&["ls"]).lines().count(), 1, "it is not listed any more");
        let beside: Vec<_> =
            names(&place, ".").into_iter().filter(|p| p.to_string_lossy().contains("partial")).collect();
        assert!(beside.len() <= 1 && names(&place, "elsewhere").difference(&kept).count() <= 1, "{beside:?}");
        interrupted += beside.len();
    }
    println!("{} old, {} new; {interrupted} left something behind", outcomes[0], outcomes[1]);

    let mut machine = place.session(&["restore", "snap"]);
    assert_eq!(ask(&mut machine, ""), last.to_string());
    let id = place.say(&["ls"]);
    let id = id.lines().nth(1).unwrap().split(' ').next().unwrap().to_owned();
    place.say(&["snapshot", &id, "snap"]);
    assert!(!place.path(".snap.partial").exists());
    assert_eq!(names(&place, "elsewhere"), kept, "what was killed has left memory behind");
    leave(machine);
}
