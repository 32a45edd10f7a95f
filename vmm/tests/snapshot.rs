//! Machines written down and brought back on the real `/dev/kvm`, with the guest that is built in: what a person types and sees, and
//! everything that can be wrong with a snapshot.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod common;

use common::place::{Place, ask, leave};
use common::{Session, has_kvm, wait_until};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The words that are half typed are in the guest's memory, the bytes on their way in its serial port, its place in the program in
/// its registers.
#[test]
fn a_machine_goes_on_in_another_process_and_in_its_own() {
    if !has_kvm() {
        return;
    }
    for cpus in ["1", "4"] {
        let place = Place::new();
        let mut old = place.run("web", &["--cpus", cpus]);
        old.type_in(b"echo one t");
        old.read_to("echo one t");
        let said = place.say(&["snapshot", "web", "snap"]);
        assert_eq!(said, format!("web: written to {}\n", place.path("snap").display()));
        assert_eq!(place.state("web"), "running");
        let events = place.say(&["events", "web"]);
        let events = events.lines().map(|line| line.split(' ').nth(2).unwrap());
        // There are hosts that cannot give all of a machine.
        let events: Vec<_> = events.filter(|what| *what != "snapshot_lacks:").collect();
        assert_eq!(events, ["started", "paused", "snapshot:", "resumed"]);

        let mut new = place.session(&["restore", "snap", "--id", "web2"]);
        assert_eq!(ask(&mut new, "wo"), "one two");
        assert_eq!(ask(&mut old, "hree"), "one three");
        assert_eq!(ask(&mut new, "check").split(": ").nth(1), Some("good"));
        assert!(place.say(&["events", "web2"]).contains(" restored restored\n"));
        assert!(place.say(&["info", "web2"]).contains(&format!("cpus     {cpus}\n")));

        // A snapshot of the restored one, into the place of that from which it runs; and again.
        new.type_in(b"echo three f");
        new.read_to("three f");
        place.say(&["snapshot", "web2", "snap", "--stop"]);
        assert_eq!(new.end().0, 0);
        let mut last = place.session(&["restore", "snap"]);
        assert_eq!(ask(&mut last, "our"), "three four");
        // It is a machine like another: it can be reset.
        last.type_in(b"reset\r");
        last.read_to("A small guest");
        last.read_to("\r\n> ");
        leave(last);
        leave(old);
    }
}

#[test]
fn a_restored_machine_waits_if_asked_and_a_snapshot_leaves_it_as_asked() {
    if !has_kvm() {
        return;
    }
    let place = Place::new();
    let mut old = place.run("web", &[]);
    place.say(&["snapshot", "web", "snap", "--pause"]);
    assert_eq!(place.state("web"), "paused");
    // What is paused stays paused, and can be written down too.
    place.say(&["snapshot", "web", "snap"]);
    assert_eq!(place.state("web"), "paused");
    place.say(&["resume", "web"]);
    assert_eq!(ask(&mut old, "echo on"), "on");
    let mut new = place.session(&["restore", "snap", "--id", "new", "--paused", "--verify"]);
    wait_until("it is there", || place.output(&["info", "new"]).status.success());
    assert_eq!(place.state("new"), "paused");
    place.say(&["resume", "new"]);
    assert_eq!(ask(&mut new, "echo here"), "here");
    leave(new);
    leave(old);
}

/// The guest's paravirtual clock, as it says.
fn kvm_clock(session: &mut Session) -> Duration {
    let said = ask(session, "time");
    let clock = said.lines().find_map(|line| line.strip_prefix("kvm-clock  ")).unwrap();
    Duration::from_secs_f64(clock.split(' ').next().unwrap().parse().unwrap())
}

/// The generation identifier in a snapshot's memory.
fn identity(snapshot: &Path) -> [u8; 16] {
    let mut id = [0; 16];
    let memory = fs::File::open(snapshot.join("memory")).unwrap();
    std::os::unix::fs::FileExt::read_exact_at(&memory, &mut id, drystone_loader::map::GENERATION_ID).unwrap();
    id
}

/// By a clock that goes on, at least the time has gone by in which there was no machine; by one that stands still, at most the
/// time in which there was.
#[test]
fn clocks_and_identity_are_as_asked() {
    if !has_kvm() {
        return;
    }
    // Thousandths of a second are shown.
    const SHOWN: Duration = Duration::from_millis(1);
    let place = Place::new();
    let mut old = place.run("web", &[]);
    let begun = Instant::now();
    let then = kvm_clock(&mut old);
    place.say(&["snapshot", "web", "snap", "--stop"]);
    old.end();
    let ended = Instant::now();
    std::thread::sleep(Duration::from_millis(500));

    for args in [&[][..], &["--clocks", "stand-still", "--keep-identity"]] {
        let restored = Instant::now();
        let mut new = place.session(&[&["restore", "snap", "--id", "new"], args].concat());
        let passed = kvm_clock(&mut new) - then;
        let (gone, there) = (restored - ended, (ended - begun) + restored.elapsed());
        place.say(&["snapshot", "new", "again"]);
        let kept = identity(&place.path("again")) == identity(&place.path("snap"));
        if args.is_empty() {
            assert!(passed + SHOWN >= gone, "{passed:?} of {gone:?}");
            assert!(!kept);
        } else {
            assert!(passed <= there + SHOWN, "{passed:?} of {there:?}");
            assert!(kept);
        }
        leave(new);
    }
    place.refuses(&["restore", "snap", "--clocks", "stop"], 2, "drystone: …invalid value 'stop'…");
}

/// Ten machines from one snapshot share what they do not write.
#[test]
fn ten_clones_run_at_once() {
    if !has_kvm() {
        return;
    }
    let place = Place::new();
    let old = place.run("web", &["--console", "stdio"]);
    place.say(&["snapshot", "web", "snap", "--stop"]);
    old.end();
    let mut clones: Vec<_> = (0..10).map(|_| place.session(&["restore", "snap"])).collect();
    for (n, clone) in clones.iter_mut().enumerate() {
        assert_eq!(ask(clone, &format!("echo {n}")), n.to_string());
    }
    // The snapshot may go while they run.
    fs::remove_dir_all(place.path("snap")).unwrap();
    let mut total = 0;
    for (n, clone) in clones.iter_mut().enumerate() {
        assert_eq!(ask(clone, &format!("echo {n}{n}")), format!("{n}{n}"));
        let rollup =
            fs::read_to_string(format!("/proc/{}/smaps_rollup", clone.pid().as_raw_nonzero())).unwrap();
        let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
        total += pss.trim().trim_end_matches(" kB").parse::<u64>().unwrap();
    }
    println!("ten clones of 64 MiB take {total} KiB together");
    assert!(total < 10 * (64 << 10) / 2, "{total} KiB: nothing is shared");
    clones.into_iter().for_each(leave);
}

#[test]
fn a_snapshot_that_fails_leaves_the_machine_running() {
    if !has_kvm() {
        return;
    }
    let place = Place::new();
    let mut old = place.run("web", &[]);
    let (dir, file) = (place.path("theirs"), place.path("file"));
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("precious"), "1").unwrap();
    fs::write(&file, "1").unwrap();
    let occupied = "drystone: web: snapshot: …: is there and is not a snapshot; it is left as it is";
    for (to, line) in [
        ("theirs", occupied),
        ("file", occupied),
        ("no/such", "drystone: web: snapshot: …/no/.such.partial: cannot make this directory: No such file…"),
        ("/", "drystone: web: snapshot: /: not a place for a directory"),
        ("/proc/x", "drystone: web: snapshot: /proc/.x.partial: cannot make this directory: …"),
    ] {
        place.refuses(&["snapshot", "web", to], 1, line);
        assert_eq!(ask(&mut old, "echo on"), "on");
    }
    let line =
        "drystone: web: snapshot: …/nowhere: cannot use it for guest memory: No such file or directory…";
    place.refuses(&["snapshot", "web", "snap", "--memory-dir", "nowhere", "--stop"], 1, line);
    place.refuses(&["cancel-snapshot", "web"], 1, "drystone: web: no snapshot is being written");
    place.refuses(&["snapshot", "else", "snap"], 1, "drystone: no machine named else runs (running: web)");
    assert_eq!((ask(&mut old, "echo on"), place.state("web")), ("on".into(), "running".into()));
    assert!(place.say(&["events", "web"]).contains(" error: snapshot: "));
    leave(old);
}

/// Once it is being written. When that is over first, it is tried again.
#[test]
fn a_snapshot_that_is_cancelled_leaves_the_old_one_and_the_machine_running() {
    if !has_kvm() {
        return;
    }
    let place = Place::new();
    // Enough of memory is not zeros that writing it takes a while.
    let noise = (0..4_u32 << 20).flat_map(|n| n.wrapping_mul(0x9e37_79b9).to_le_bytes());
    fs::write(place.path("initrd"), noise.collect::<Vec<_>>()).unwrap();
    let mut old = place.run("web", &["--initrd", "initrd"]);
    place.say(&["snapshot", "web", "snap"]);
    for attempt in 0.. {
        let before = fs::read(place.path("snap/manifest.json")).unwrap();
        let mut writer = place.command(&["snapshot", "web", "snap"]).stdout(Stdio::null()).spawn().unwrap();
        let mut cancelled = false;
        while !cancelled && writer.try_wait().unwrap().is_none() {
            cancelled = place.output(&["cancel-snapshot", "web"]).status.success();
        }
        let written = writer.wait_with_output().unwrap();
        assert_eq!((ask(&mut old, "echo on"), place.state("web")), ("on".into(), "running".into()));
        assert!(!place.path(".snap.partial").exists());
        // It may have been too late for it.
        if cancelled && !written.status.success() {
            let said = String::from_utf8(written.stderr).unwrap();
            assert_eq!(
                (said.as_str(), written.status.code()),
                ("drystone: web: snapshot: cancelled\n", Some(1))
            );
            assert!(fs::read(place.path("snap/manifest.json")).unwrap() == before, "the old one is gone");
            break;
        }
        assert!(attempt < 100, "never in time");
    }
    leave_at_once(&place, &["restore", "snap", "--verify"]);
    leave(old);
}

/// As on a full disk, without one.
#[test]
fn files_that_may_not_grow_end_no_machine() {
    if !has_kvm() {
        return;
    }
    let place = Place::new();
    let mut command = Command::new("sh");
    let script = format!("ulimit -f 1024; exec {} run --memory 64M --id web", env!("CARGO_BIN_EXE_drystone"));
    command.args(["-c", &script]).current_dir(place.dir()).env("DRYSTONE_RUNTIME_DIR", place.path("run"));
    let mut old = Session::open({
        command.stderr(Stdio::piped());
        command
    });
    old.read_to("\r\n> ");
    let line = "drystone: web: snapshot: …/.snap.partial/memory: cannot make it as long as guest memory: File too large…";
    place.refuses(&["snapshot", "web", "snap"], 1, line);
    assert!(!place.path(".snap.partial").exists());
    assert_eq!((ask(&mut old, "echo on"), place.state("web")), ("on".into(), "running".into()));
    leave(old);
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

#[test]
fn what_is_wrong_with_a_snapshot_is_said_and_nothing_is_made_of_it() {
    if !has_kvm() {
        return;
    }
    let place = Place::new();
    let mut old = place.run("web", &[]);
    place.say(&["snapshot", "web", "good"]);
    let damaged = |change: &dyn Fn(&Path), line: &str| {
        let _ = fs::remove_dir_all(place.path("bad"));
        fs::create_dir(place.path("bad")).unwrap();
        for file in fs::read_dir(place.path("good")).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), place.path("bad").join(file.file_name())).unwrap();
        }
        change(&place.path("bad"));
        place.refuses(&["restore", "bad", "--verify"], 1, line);
    };
    place.refuses(
        &["restore", "none"],
        1,
        "drystone: snapshot: none/manifest.json: cannot open the manifest: No such file…",
    );
    place.refuses(
        &["restore", "."],
        1,
        "drystone: snapshot: ./manifest.json: cannot open the manifest: No such file…",
    );
    damaged(
        &|dir| change(&dir.join("manifest.json"), |text| text.truncate(700)),
        "drystone: snapshot: bad/manifest.json: cannot read the manifest: EOF while parsing…",
    );
    damaged(
        &|dir| {
            change(&dir.join("manifest.json"), |text| {
                let at = text.windows(8).position(|w| w == b"\"64M\"\n  ").unwrap();
                text[at + 1] = b'3';
            });
        },
        "drystone: snapshot: bad/manifest.json: the manifest was changed or is damaged: its checksum is wrong",
    );
    damaged(
        &|dir| change(&dir.join("state.cbor"), |state| state[900] ^= 4),
        "drystone: snapshot: bad/state.cbor: is damaged or another file: its checksum is not the manifest's",
    );
    damaged(
        &|dir| change(&dir.join("state.cbor"), |state| state.truncate(1000)),
        "drystone: snapshot: bad/state.cbor: has 1000 bytes, its manifest says …",
    );
    damaged(
        &|dir| fs::remove_file(dir.join("memory.map")).unwrap(),
        "drystone: snapshot: bad/memory.map: cannot open it: No such file…",
    );
    damaged(
        &|dir| fs::remove_file(dir.join("memory")).unwrap(),
        "drystone: snapshot: bad/memory: cannot open guest memory: No such file…",
    );
    damaged(
        &|dir| fs::File::options().write(true).open(dir.join("memory")).unwrap().set_len(32 << 20).unwrap(),
        "drystone: snapshot: bad/memory: has 33554432 bytes, its manifest says 67108864",
    );
    damaged(
        &|dir| {
            let memory = fs::File::options().write(true).open(dir.join("memory")).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&memory, &[1], 50 << 20).unwrap();
        },
        "drystone: snapshot: bad/memory: is damaged or another file: guest memory at 0x3200000 is not what was saved",
    );
    // The running machine has nothing to do with any of it.
    assert_eq!(ask(&mut old, "echo on"), "on");
    leave(old);
}

#[test]
fn disks_are_looked_at_and_may_lie_elsewhere() {
    if !has_kvm() {
        return;
    }
    let place = Place::new();
    let image = |name: &str, len| fs::File::create(place.path(name)).unwrap().set_len(len).unwrap();
    image("root.img", 1 << 20);
    let old = place.run("web", &["--disk", "root.img,id=root"]);
    place.say(&["snapshot", "web", "snap", "--stop"]);
    old.end();
    let restore = |args: &[&str]| leave_at_once(&place, &[&["restore", "snap", "--id", "r"], args].concat());
    restore(&[]);
    fs::copy(place.path("root.img"), place.path("clone.img")).unwrap();
    restore(&["--disk", "root=clone.img"]);

    let changed = "drystone: disk `root` at …/root.img: was written to after the snapshot was made; a guest that goes on over \
                   another content loses data: --accept-changed-disks does it all the same";
    fs::write(place.path("root.img"), vec![1; 1 << 20]).unwrap();
    place.refuses(&["restore", "snap"], 1, changed);
    restore(&["--accept-changed-disks"]);
    image("short.img", 4096);
    let short =
        "drystone: disk `root` at short.img: has 4096 bytes, and had 1048576 when the snapshot was made; …";
    place.refuses(&["restore", "snap", "--disk", "root=short.img"], 1, short);
    fs::remove_file(place.path("root.img")).unwrap();
    let gone = "drystone: disk `root` at …/root.img: cannot be opened: No such file…; --disk NAME=PATH says where it is now";
    place.refuses(&["restore", "snap"], 1, gone);
    place.refuses(&["restore", "snap", "--accept-changed-disks"], 1, gone);
    let unknown = "drystone: the machine in the snapshot has no disk `data` (it has root)";
    place.refuses(&["restore", "snap", "--disk", "data=clone.img"], 2, unknown);
    place.refuses(&["restore", "snap", "--disk", "clone.img"], 2, "drystone: invalid value…use NAME=PATH…");
    restore(&["--disk", "root=clone.img"]);
}

fn leave_at_once(place: &Place, args: &[&str]) {
    let mut session = place.session(args);
    assert_eq!(ask(&mut session, "echo here"), "here");
    leave(session);
}

/// Not even for a moment: also when the first is killed, whatever its disk's engine has of the file.
#[test]
fn two_machines_do_not_write_one_disk() {
    if !has_kvm() {
        return;
    }
    let place = Place::new();
    fs::File::create(place.path("root.img")).unwrap().set_len(1 << 20).unwrap();
    let in_use = "drystone: disk `root` at …root.img: in use by another program or machine";
    let old = place.run("web", &["--disk", "root.img,id=root"]);
    place.say(&["snapshot", "web", "snap"]);
    place.refuses(&["restore", "snap", "--id", "r"], 1, in_use);
    place.refuses(&["run", "--id", "r", "--disk", "root.img,id=root"], 1, in_use);
    leave(old);
    for engine in ["auto", "threads", "sync"] {
        let disk = format!("root.img,id=root,engine={engine}");
        let mut killed = place.run("web", &["--disk", &disk]);
        let reader = ["run", "--id", "r", "--disk", "root.img,id=root,readonly"];
        place.refuses(&reader, 1, &format!("{in_use}, which writes it"));
        killed.child.kill().unwrap();
        killed.child.wait().unwrap();
        leave(place.run("again", &["--disk", &disk]));
    }
}

/// The kernel is needed only for a reset.
#[test]
fn a_machine_whose_kernel_is_gone_goes_on_until_it_is_reset() {
    if !has_kvm() {
        return;
    }
    let place = Place::new();
    fs::write(place.path("kernel"), drystone_guest::IMAGE).unwrap();
    let old = place.run("web", &["--kernel", "kernel"]);
    place.say(&["snapshot", "web", "snap", "--stop"]);
    old.end();
    fs::remove_file(place.path("kernel")).unwrap();
    let mut new = place.session(&["restore", "snap"]);
    assert_eq!(ask(&mut new, "echo here"), "here");
    new.type_in(b"reset\r");
    let (code, said) = new.end();
    assert_eq!(code, 4, "{said}");
    assert!(
        said.contains("ram: the guest cannot be started again: kernel ") && said.contains("No such file"),
        "{said}"
    );
}
