//! A process that is killed at any moment of writing leaves the old snapshot or the new one, whole.
#![allow(missing_docs, clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use drystone_memory::{GuestRam, Layout, RamConfig};
use drystone_snapshot::{About, Content, Options, Progress, Snapshot, write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};

const SIZE: u64 = 4 << 20;
/// Tells this program that it is the one that is to be killed.
const WRITER: &str = "SNAPSHOT_TEST_WRITER";
const KILLS: u32 = 50;

/// Writes one snapshot after the other, each with its number all over its memory and in its name.
fn write_for_ever(dir: &Path) -> ! {
    let ram = GuestRam::new(&Layout::new(SIZE, 46).unwrap(), &RamConfig::default()).unwrap();
    for n in 1_u32.. {
        let fill: Vec<u8> = n.to_le_bytes().repeat(SIZE as usize / 4);
        ram.view().memory().write_slice(&fill, GuestAddress(0)).unwrap();
        let about = About { machine: n.to_string(), ..About::default() };
        let content = Content { about, parts: Default::default(), ram: &ram };
        write(dir, &content, &Options::default(), &Progress::new()).unwrap();
    }
    unreachable!()
}

/// The number of the snapshot, whose every byte is checked.
fn number(dir: &Path) -> u32 {
    let snapshot = Snapshot::open(dir).unwrap();
    snapshot.verify(&Progress::new()).unwrap();
    let ram = GuestRam::from_file(
        &Layout::new(SIZE, 46).unwrap(),
        &RamConfig::default(),
        snapshot.memory().unwrap(),
    );
    let mut memory = vec![0; SIZE as usize];
    ram.unwrap().view().memory().read_slice(&mut memory, GuestAddress(0)).unwrap();
    let n: u32 = snapshot.manifest().machine.parse().unwrap();
    assert!(
        memory.chunks(4).all(|word| word == n.to_le_bytes()),
        "memory is of another snapshot than its manifest"
    );
    n
}

#[test]
fn there_is_always_one_whole_snapshot() {
    if let Some(dir) = std::env::var_os(WRITER) {
        write_for_ever(&PathBuf::from(dir));
    }
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("snapshot");
    let mut seen = std::collections::BTreeSet::new();
    for kill in 0..KILLS {
        let test = "there_is_always_one_whole_snapshot";
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([test, "--exact", "--nocapture"]).env(WRITER, &dir).stdout(Stdio::null());
        let mut writer = command.spawn().unwrap();
        // The first one is waited for; it is from then on that there is always one. The others die at moments all over a write.
        let begun = Instant::now();
        while kill == 0 && !dir.exists() {
            assert!(begun.elapsed() < Duration::from_secs(60) && writer.try_wait().unwrap().is_none());
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_micros(u64::from(kill) * 2311 % 60_000));
        writer.kill().unwrap();
        writer.wait().unwrap();
        seen.insert(number(&dir));
        let beside = std::fs::read_dir(parent.path()).unwrap().count();
        assert!(beside <= 2, "no more than one attempt is left behind");
    }
    println!("snapshots numbered {seen:?} survived");
}
