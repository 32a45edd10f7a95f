//! Snapshots as whoever writes and reads them meets them: round trips, replacing, and everything that can be wrong with one.
#![allow(missing_docs, clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use drystone_memory::{Backing, GuestRam, HugePages, Layout, RamConfig};
use drystone_snapshot::{
    About, BLOCK, Content, Manifest, OpenError, Options, Outside, Progress, Snapshot, WriteError, write,
};
use drystone_state::{Blob, Schema};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::num::NonZeroUsize;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

#[derive(Serialize, Deserialize, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
struct Counter {
    count: u64,
}
impl Schema for Counter {
    const KIND: &'static str = "counter";
    const VERSION: u32 = 3;
}

fn ram(size: u64, backing: Backing) -> GuestRam {
    let layout = Layout::new(size, 46).unwrap();
    GuestRam::new(&layout, &RamConfig { backing, huge_pages: HugePages::Never }).unwrap()
}

fn put(ram: &GuestRam, at: u64, bytes: &[u8]) {
    ram.view().memory().write_slice(bytes, GuestAddress(at)).unwrap();
}

fn get(ram: &GuestRam, at: u64) -> u8 {
    ram.view().memory().read_obj(GuestAddress(at)).unwrap()
}

fn content(ram: &GuestRam, count: u64) -> Content<'_> {
    let parts = BTreeMap::from([("clock".into(), Blob::encode(&Counter { count }).unwrap())]);
    let about = About {
        program: "test 1".into(),
        machine: "web".into(),
        created_unix_ms: 1_796_000_000_000,
        config: serde_json::json!({"cpus": 2, "checksum": "00000000"}),
        outside: Vec::new(),
    };
    Content { about, parts, ram }
}

fn save(dir: &Path, ram: &GuestRam, count: u64) -> Manifest {
    write(dir, &content(ram, count), &Options::default(), &Progress::new()).unwrap()
}

fn restore(snapshot: &Snapshot, size: u64) -> GuestRam {
    let layout = Layout::new(size, 46).unwrap();
    let config = RamConfig { backing: Backing::Anonymous, huge_pages: HugePages::Never };
    GuestRam::from_file(&layout, &config, snapshot.memory().unwrap()).unwrap()
}

fn count(snapshot: &Snapshot) -> u64 {
    snapshot.parts()["clock"].decode::<Counter>().unwrap().count
}

struct Rig {
    _temporary: tempfile::TempDir,
    parent: PathBuf,
    dir: PathBuf,
}

impl Rig {
    fn new() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let parent = temporary.path().to_owned();
        Self { dir: parent.join("snapshot"), parent, _temporary: temporary }
    }

    /// Everything that lies beside the snapshot.
    fn beside(&self) -> Vec<String> {
        let names = fs::read_dir(&self.parent).unwrap();
        let names = names.map(|e| e.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name != "snapshot").collect()
    }
}

#[test]
fn memory_around_the_device_window_comes_back_and_zeros_cost_nothing() {
    for backing in [Backing::Anonymous, Backing::Memfd] {
        let rig = Rig::new();
        let size = 5 * GIB;
        let old = ram(size, backing);
        let places = [0, 4095, 3 * GIB - 1, 4 * GIB, 5 * GIB + 12_345, 6 * GIB - 1];
        places.iter().for_each(|at| put(&old, *at, &[7]));
        put(&old, MIB, &[0; 4096]); // touched, and still zeros
        let manifest = save(&rig.dir, &old, 42);
        assert_eq!((manifest.memory.len, manifest.memory.data), (size, 5 * 4096), "{backing:?}");
        let file = fs::metadata(rig.dir.join("memory")).unwrap();
        assert_eq!(file.len(), size);
        assert!(file.blocks() * 512 < MIB, "{backing:?}: {} bytes are taken", file.blocks() * 512);

        let snapshot = Snapshot::open(&rig.dir).unwrap();
        assert_eq!((count(&snapshot), snapshot.manifest()), (42, &manifest));
        assert_eq!(manifest.parts[0].kind, "counter");
        let new = restore(&snapshot, size);
        places.iter().for_each(|at| assert_eq!(get(&new, *at), 7, "{at:#x}"));
        assert_eq!((get(&new, 1), get(&new, 2 * GIB)), (0, 0));
        snapshot.verify(&Progress::new()).unwrap();
        assert_eq!(rig.beside(), [""; 0]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Whatever was written, through whatever number of threads, is what the restored machine has; and a snapshot of that
    /// machine, with more written to it and parts of it discarded, is again the whole.
    #[test]
    fn a_snapshot_of_a_snapshot_is_the_machine(
        writes in prop::collection::vec((0..8 * MIB - 9000, 1..9000_usize, any::<u8>()), 0..20),
        more in prop::collection::vec((0..8 * MIB - 9000, 1..9000_usize, any::<u8>()), 0..8),
        discards in prop::collection::vec(0..8 * MIB / 4096, 0..8),
        threads in 1..5_usize,
    ) {
        let rig = Rig::new();
        let old = ram(8 * MIB, Backing::Anonymous);
        let mut model = vec![0; 8 * MIB as usize];
        let apply = |ram: &GuestRam, model: &mut Vec<u8>, writes: &[(u64, usize, u8)]| {
            for (at, len, byte) in writes {
                put(ram, *at, &vec![*byte; *len]);
                model[*at as usize..][..*len].fill(*byte);
            }
        };
        apply(&old, &mut model, &writes);
        let options = Options { threads: NonZeroUsize::new(threads), ..Options::default() };
        write(&rig.dir, &content(&old, 1), &options, &Progress::new()).unwrap();
        let new = restore(&Snapshot::open(&rig.dir).unwrap(), 8 * MIB);
        apply(&new, &mut model, &more);
        for page in discards {
            new.discard(page * 4096..(page + 1) * 4096).unwrap();
            model[page as usize * 4096..][..4096].fill(0);
        }
        // Into the place of the snapshot that it runs from.
        write(&rig.dir, &content(&new, 2), &options, &Progress::new()).unwrap();
        let snapshot = Snapshot::open(&rig.dir).unwrap();
        snapshot.verify(&Progress::new()).unwrap();
        let last = restore(&snapshot, 8 * MIB);
        let mut found = vec![0; 8 * MIB as usize];
        last.view().memory().read_slice(&mut found, GuestAddress(0)).unwrap();
        prop_assert!(found == model);
    }
}

#[test]
fn a_snapshot_is_replaced_whole_and_other_things_are_not() {
    let rig = Rig::new();
    let old = ram(MIB, Backing::Anonymous);
    save(&rig.dir, &old, 1);
    save(&rig.dir, &old, 2);
    assert_eq!(count(&Snapshot::open(&rig.dir).unwrap()), 2);
    assert_eq!(rig.beside(), [""; 0]);

    let attempt = |dir: &Path| write(dir, &content(&old, 3), &Options::default(), &Progress::new());
    let (theirs, file) = (rig.parent.join("theirs"), rig.parent.join("file"));
    fs::create_dir(&theirs).unwrap();
    attempt(&theirs).unwrap(); // empty
    fs::remove_file(theirs.join(Manifest::FILE)).unwrap();
    fs::write(&file, "precious").unwrap();
    for place in [&theirs, &file] {
        let refused = attempt(place).unwrap_err();
        assert!(matches!(&refused, WriteError::Occupied(at) if at == place), "{refused}");
    }
    assert_eq!(fs::read(&file).unwrap(), b"precious");
    let refused = attempt(&rig.parent.join("no/such")).unwrap_err().to_string();
    assert!(refused.contains("no/.such.partial: cannot make this directory: No such file"), "{refused}");
    assert!(matches!(attempt(Path::new("/")), Err(WriteError::NoName(_))));
}

#[test]
fn an_attempt_that_ends_early_leaves_the_old_one() {
    let rig = Rig::new();
    let old = ram(64 * MIB, Backing::Anonymous);
    put(&old, 0, &[1; 64 << 20]);
    save(&rig.dir, &old, 1);
    let cancelled = Progress::new();
    cancelled.cancel();
    let refused = write(&rig.dir, &content(&old, 2), &Options::default(), &cancelled).unwrap_err();
    assert!(matches!(refused, WriteError::Cancelled));
    // In the middle.
    let progress = Progress::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while progress.bytes().0 == 0 {
                std::thread::yield_now();
            }
            progress.cancel();
        });
        let written = write(&rig.dir, &content(&old, 3), &Options::default(), &progress);
        assert!(matches!(written, Err(WriteError::Cancelled)));
    });
    let (done, total) = progress.bytes();
    assert_eq!(total, 64 * MIB);
    assert!(done > 0);
    assert_eq!((count(&Snapshot::open(&rig.dir).unwrap()), rig.beside()), (1, vec![]));
}

#[test]
fn two_do_not_write_to_one_place_and_what_a_killed_one_left_goes() {
    let rig = Rig::new();
    let old = ram(MIB, Backing::Anonymous);
    let partial = rig.parent.join(".snapshot.partial");
    fs::create_dir(&partial).unwrap();
    fs::write(partial.join("memory"), "half").unwrap();
    {
        let other = fs::File::open(&partial).unwrap();
        rustix::fs::flock(&other, rustix::fs::FlockOperation::LockExclusive).unwrap();
        let refused = write(&rig.dir, &content(&old, 1), &Options::default(), &Progress::new());
        assert!(matches!(refused, Err(WriteError::Busy(_))));
        assert!(partial.join("memory").exists(), "it is the other's");
    }
    save(&rig.dir, &old, 1);
    assert_eq!(rig.beside(), [""; 0]);
}

/// Whoever writes to the same place next removes it, and nothing but it.
#[test]
fn memory_that_a_killed_attempt_left_elsewhere_goes() {
    let (place, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (partial, left) = (place.path().join(".snap.partial"), elsewhere.path().join("web.1.memory"));
    let others = elsewhere.path().join("passwords");
    let memory = ram(MIB, Backing::Anonymous);
    let content = content(&memory, 1);
    for (note, stays) in [(&left, false), (&others, true), (&PathBuf::from("web.1.memory"), true)] {
        fs::create_dir(&partial).unwrap();
        fs::write(partial.join("memory.elsewhere"), note.as_os_str().as_encoded_bytes()).unwrap();
        fs::write(&left, "1").unwrap();
        fs::write(&others, "2").unwrap();
        write(&place.path().join("snap"), &content, &Options::default(), &Progress::new()).unwrap();
        assert!(!partial.exists() && others.exists() && left.exists() == stays, "{note:?}");
    }
    // That it is not there any more is no reason to fail; that it cannot be removed is.
    fs::create_dir(&partial).unwrap();
    fs::write(partial.join("memory.elsewhere"), left.as_os_str().as_encoded_bytes()).unwrap();
    fs::remove_file(&left).unwrap();
    fs::create_dir(&left).unwrap();
    let error =
        write(&place.path().join("snap"), &content, &Options::default(), &Progress::new()).unwrap_err();
    assert!(error.to_string().contains("web.1.memory: cannot clear away an attempt"), "{error}");
    // Nobody writes to this pipe.
    let note = partial.join("memory.elsewhere");
    let _ = fs::remove_dir_all(&partial);
    fs::create_dir(&partial).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&note).status().unwrap().success());
    let error =
        write(&place.path().join("snap"), &content, &Options::default(), &Progress::new()).unwrap_err();
    assert!(error.to_string().ends_with("memory.elsewhere: cannot read it: not a regular file"), "{error}");
}

#[test]
fn memory_may_lie_elsewhere() {
    let rig = Rig::new();
    let elsewhere = tempfile::tempdir().unwrap();
    let old = ram(MIB, Backing::Anonymous);
    put(&old, 77, &[5]);
    let options = Options { memory_dir: Some(elsewhere.path().into()), ..Options::default() };
    let count_files = || fs::read_dir(elsewhere.path()).unwrap().count();
    let cancelled = Progress::new();
    cancelled.cancel();
    assert!(write(&rig.dir, &content(&old, 1), &options, &cancelled).is_err());
    assert_eq!(count_files(), 0, "nothing is left there either");

    let manifest = write(&rig.dir, &content(&old, 1), &options, &Progress::new()).unwrap();
    assert!(manifest.memory.path.is_absolute() && !rig.dir.join("memory").exists());
    assert_eq!(get(&restore(&Snapshot::open(&rig.dir).unwrap(), MIB), 77), 5);
    // It was moved.
    let moved = rig.parent.join("moved");
    fs::rename(&manifest.memory.path, &moved).unwrap();
    let missing = Snapshot::open(&rig.dir).err().unwrap().to_string();
    assert!(missing.contains("cannot open guest memory: No such file"), "{missing}");
    assert_eq!(get(&restore(&Snapshot::open_with(&rig.dir, Some(&moved)).unwrap(), MIB), 77), 5);
    let missing = Options { memory_dir: Some("/no/such".into()), ..Options::default() };
    let refused = write(&rig.dir, &content(&old, 2), &missing, &Progress::new()).unwrap_err().to_string();
    assert_eq!(
        refused,
        "snapshot: /no/such: cannot use it for guest memory: No such file or directory (os error 2)"
    );
}

/// A snapshot with a page in each block of 2 MiB, to be damaged.
fn victim() -> (Rig, GuestRam) {
    let rig = Rig::new();
    let old = ram(2 * MIB, Backing::Anonymous);
    (0..8).for_each(|block| put(&old, block * BLOCK + 100, &[block as u8 + 1; 50]));
    save(&rig.dir, &old, 1);
    (rig, old)
}

fn flip(path: &Path, at: u64, bit: u8) {
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1 << bit], at).unwrap();
}

fn refused(dir: &Path) -> OpenError {
    match Snapshot::open(dir) {
        Ok(_) => panic!("it was opened"),
        Err(e) => e,
    }
}

#[test]
fn every_flipped_bit_is_found_and_so_is_every_cut() {
    let (rig, _) = victim();
    for name in [Manifest::FILE, "state.cbor", "memory.map"] {
        let path = rig.dir.join(name);
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            flip(&path, at as u64, (at % 8) as u8);
            refused(&rig.dir);
            fs::write(&path, &good[..at]).unwrap();
            refused(&rig.dir);
            fs::write(&path, &good).unwrap();
        }
        fs::write(&path, [good.as_slice(), b" "].concat()).unwrap();
        refused(&rig.dir);
        fs::remove_file(&path).unwrap();
        assert!(matches!(refused(&rig.dir), OpenError::Io { .. }), "{name}");
        fs::write(&path, &good).unwrap();
        Snapshot::open(&rig.dir).unwrap();
    }
}

/// A pipe would hold up whoever opens it for ever.
#[test]
fn what_is_no_regular_file_is_not_opened() {
    for name in [Manifest::FILE, "state.cbor", "memory.map", "memory"] {
        let (rig, _) = victim();
        let path = rig.dir.join(name);
        fs::remove_file(&path).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let said = refused(&rig.dir).to_string();
        assert!(said.contains(name) && said.ends_with("not a regular file"), "{said}");
    }
}

#[test]
fn memory_of_another_size_or_machine_is_refused_at_once_and_any_damage_when_asked() {
    let (rig, _) = victim();
    let path = rig.dir.join("memory");
    let file = fs::File::options().write(true).open(&path).unwrap();
    for len in [0, 2 * MIB - 1, 2 * MIB - 4096, 2 * MIB + 1, 4 * MIB] {
        file.set_len(len).unwrap();
        assert!(matches!(refused(&rig.dir), OpenError::Length { found, .. } if found == len));
    }
    // The right length again, and nothing in it.
    file.set_len(2 * MIB).unwrap();
    assert!(matches!(refused(&rig.dir), OpenError::Memory { .. }));

    // One page that was zeros, in a block that was.
    let old = ram(16 * MIB, Backing::Anonymous);
    put(&old, 9 * MIB, &[1]);
    save(&rig.dir, &old, 1);
    flip(&path, 12 * MIB + 5000, 3);
    let snapshot = Snapshot::open(&rig.dir).unwrap();
    let damaged = snapshot.verify(&Progress::new()).unwrap_err();
    assert!(matches!(damaged, OpenError::Memory { addr, .. } if addr == 12 * MIB));
    assert!(damaged.to_string().ends_with("guest memory at 0xc00000 is not what was saved"), "{damaged}");
    let cancelled = Progress::new();
    cancelled.cancel();
    assert!(matches!(snapshot.verify(&cancelled), Err(OpenError::Cancelled)));
}

#[test]
fn a_later_format_names_who_can_read_it() {
    let (rig, _) = victim();
    let path = rig.dir.join(Manifest::FILE);
    let text = fs::read_to_string(&path).unwrap();
    let later = text.replace("\"format\": 1", "\"format\": 2, \"new\": []").replace("test 1", "drystone 9.9");
    fs::write(&path, later).unwrap();
    let said = refused(&rig.dir).to_string();
    assert!(
        said.ends_with(
            "its format is 2; this version reads up to 1: restore it with the version that wrote it, drystone 9.9"
        ),
        "{said}"
    );
    fs::write(&path, text.replace("\"cpus\": 2", "\"cpus\": 3")).unwrap();
    assert!(refused(&rig.dir).to_string().ends_with("was changed or is damaged: its checksum is wrong"));
    for nonsense in ["", "{}", "[1]", "\u{0}", "{\"format\": 1}"] {
        fs::write(&path, nonsense).unwrap();
        assert!(refused(&rig.dir).to_string().contains("cannot read the manifest"), "{nonsense}");
    }
    fs::write(&path, vec![b' '; Manifest::MAX_LEN as usize + 1]).unwrap();
    assert!(matches!(refused(&rig.dir), OpenError::Length { .. }));
}

#[test]
fn what_lies_outside_is_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, moved) = (dir.path().join("disk"), dir.path().join("moved"));
    fs::write(&disk, [0; 1000]).unwrap();
    let then = Outside::look("root", &disk).unwrap();
    then.check(None).unwrap();
    fs::copy(&disk, &moved).unwrap();
    then.check(Some(&moved)).unwrap();
    fs::File::options()
        .write(true)
        .open(&disk)
        .unwrap()
        .set_times(fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH))
        .unwrap();
    let said = then.check(None).unwrap_err().to_string();
    assert!(
        said.starts_with("`root` at ") && said.ends_with("was written to after the snapshot was made"),
        "{said}"
    );
    fs::write(&moved, [0; 999]).unwrap();
    let said = then.check(Some(&moved)).unwrap_err().to_string();
    assert!(said.ends_with("has 999 bytes, and had 1000 when the snapshot was made"), "{said}");
    fs::remove_file(&disk).unwrap();
    assert!(then.check(None).unwrap_err().to_string().contains("cannot be opened: No such file"));
}
