//! Disks that come and go under a guest that knows nothing of hot plug and never answers: the small one, on the real
//! `/dev/kvm`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod common;

use common::{Session, is_raw, wait_until};
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn has_kvm() -> bool {
    let opened = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm");
    if let Err(e) = &opened {
        eprintln!("NOT RUN: /dev/kvm: {e}");
    }
    opened.is_ok()
}

fn drystone(runtime: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_drystone"));
    command.args(args).current_dir(runtime).env("DRYSTONE_RUNTIME_DIR", runtime).stderr(Stdio::piped());
    command
}

struct Machine<'a> {
    dir: &'a Path,
    session: Session,
}

impl<'a> Machine<'a> {
    fn start(dir: &'a Path, args: &[&str]) -> Self {
        let args = [&["run", "--id", "m", "--memory", "64M"], args].concat();
        let mut session = Session::open(drystone(dir, &args));
        wait_until("raw mode", || is_raw(&session.tty));
        session.read_to("\r\n> ");
        Self { dir, session }
    }

    /// From the snapshot `shot`.
    fn restored(dir: &'a Path) -> Self {
        let mut session = Session::open(drystone(dir, &["restore", "shot", "--id", "m"]));
        wait_until("raw mode", || is_raw(&session.tty));
        session.type_in(b"\r");
        session.read_to("> ");
        Self { dir, session }
    }

    /// The guest starts again by itself.
    fn reset(&mut self) {
        self.session.type_in(b"reset\r");
        self.session.read_to("A small guest");
        self.session.read_to("\r\n> ");
    }

    fn ask(&self, args: &[&str]) -> Output {
        drystone(self.dir, args).output().unwrap()
    }

    fn done(&self, args: &[&str]) {
        let output = self.ask(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn refused(&self, args: &[&str]) -> String {
        let output = self.ask(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// The slots that the guest finds something in.
    fn slots(&mut self) -> Vec<u8> {
        self.session.type_in(b"pci\r");
        let said = self.session.read_to("\r\n> ");
        let slot = |line: &str| {
            let (slot, rest) = line.trim().strip_prefix("00:")?.split_once(".0")?;
            rest.contains("1af4:").then(|| u8::from_str_radix(slot, 16).ok())?
        };
        said.lines().filter_map(slot).collect()
    }

    fn events(&self) -> String {
        String::from_utf8(self.ask(&["events", "m"]).stdout).unwrap()
    }
}

fn image(dir: &Path, name: &str) {
    std::fs::File::create(dir.join(name)).unwrap().set_len(1 << 20).unwrap();
}

#[test]
fn a_disk_comes_and_is_pulled_from_a_guest_that_never_answers() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for name in ["a.img", "b.img", "c.img"] {
        image(dir.path(), name);
    }
    let mut m = Machine::start(dir.path(), &["--transport", "pci", "--disk", "a.img,id=a"]);
    assert_eq!(m.slots(), [1, 2], "a disk and entropy");
    m.done(&["disk", "add", "m", "b.img,id=b"]);
    m.done(&["disk", "add", "m", "c.img"]);
    assert_eq!(m.slots(), [1, 2, 3, 4]);
    for (args, why) in [
        (&["disk", "add", "m", "a.img,id=b"][..], "disk `b`: there is a disk of that name"),
        (&["disk", "add", "m", "a.img,id=x"], "disk `x` at"),
        (&["disk", "add", "m", "none.img"], "No such file"),
        (&["disk", "add", "m", "a.img,queues=0"], "queues 0"),
        (&["disk", "add", "m", "b.img,id=y"], "in use"),
        (&["disk", "add", "m", "c.img,transport=mmio,id=y"], "on virtio-mmio nothing can be added"),
        (&["disk", "remove", "m", "x"], "there is no disk `x`"),
        (&["disk", "remove", "m", "b", "--timeout", "1ms"], "has not let go of disk `b` in time"),
        (&["disk", "remove", "m", "rng"], "there is no disk `rng`"),
    ] {
        let said = m.refused(args);
        assert!(said.contains(why), "{args:?}: {said}");
    }
    assert_eq!(m.slots(), [1, 2, 3, 4], "what the guest does not let go of stays");
    m.done(&["disk", "remove", "m", "b", "--surprise"]);
    assert_eq!(m.slots(), [1, 2, 3, 4], "a guest that has not taken notice finds a disk that fails");
    // Its file is free; its slot and its name are not. One that was there from the start goes as well.
    let said = m.refused(&["disk", "add", "m", "b.img,id=b"]);
    assert!(said.contains("was pulled and which the guest has not let go of"), "{said}");
    m.done(&["disk", "add", "m", "b.img,id=again,readonly"]);
    m.done(&["disk", "remove", "m", "a", "--surprise"]);
    m.done(&["disk", "remove", "m", "a", "--surprise"]);
    assert!(m.refused(&["disk", "remove", "m", "a", "--timeout", "1ms"]).contains("has not let go"));

    // A paused machine cannot answer, but takes a disk.
    m.done(&["pause", "m"]);
    assert!(m.refused(&["disk", "remove", "m", "again"]).contains("paused"));
    m.done(&["disk", "add", "m", "a.img,id=late"]);
    m.done(&["disk", "remove", "m", "disk0", "--surprise"]);
    m.done(&["resume", "m"]);
    assert_eq!(m.slots(), [1, 2, 3, 4, 5, 6]);

    // A reset gives back what was asked for, and what was pulled.
    let (dir, id) = (m.dir, "m");
    let asking = std::thread::spawn({
        let mut command = drystone(dir, &["disk", "remove", id, "again", "--timeout", "10m"]);
        move || command.output().unwrap()
    });
    wait_until("the guest was asked", || m.events().matches("disk_requested").count() == 3);
    assert!(m.refused(&["disk", "remove", "m", "again"]).contains("already asked"));
    m.reset();
    let asked = asking.join().unwrap();
    assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
    assert_eq!(m.slots(), [2, 6]);
    let events = m.events();
    for event in ["disk_added", "disk_request_timeout", "disk_pulled", "disk_removed"] {
        assert!(events.contains(event), "{event}: {events}");
    }
    m.session.type_in(b"poweroff\r");
    let (code, said) = m.session.end();
    assert_eq!(code, 0, "{said}");
}

#[test]
fn a_bus_has_room_for_31_and_a_disk_on_mmio_stays() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    (0..32).for_each(|n| image(dir.path(), &format!("{n}.img")));
    let mut m = Machine::start(dir.path(), &["--rng", "false", "--disk", "0.img,transport=mmio"]);
    assert!(m.slots().is_empty());
    assert!(m.refused(&["disk", "remove", "m", "disk0"]).contains("virtio-mmio"));
    for n in 1..32 {
        m.done(&["disk", "add", "m", &format!("{n}.img")]);
    }
    assert_eq!(m.slots(), (1..32).collect::<Vec<_>>());
    std::fs::remove_file(dir.path().join("31.img")).unwrap();
    image(dir.path(), "31.img");
    assert!(m.refused(&["disk", "add", "m", "31.img,id=x"]).contains("no PCI slot is free"));
    m.done(&["disk", "remove", "m", "disk7", "--surprise"]);
    assert!(m.refused(&["disk", "add", "m", "31.img,id=x"]).contains("no PCI slot is free"));
    m.reset();
    assert_eq!(m.slots().len(), 30, "without the one that was pulled");
    m.done(&["disk", "add", "m", "31.img,id=x"]);
    assert_eq!(m.slots().len(), 31);
    m.session.type_in(b"poweroff\r");
    assert_eq!(m.session.end().0, 0);
}

/// Its guest knows devices by their slots, and those have changed since it was started.
#[test]
fn a_machine_is_restored_with_every_device_where_it_was() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for name in ["a.img", "b.img", "c.img"] {
        image(dir.path(), name);
    }
    let mut m = Machine::start(dir.path(), &["--transport", "pci", "--disk", "a.img", "--disk", "b.img"]);
    m.done(&["disk", "add", "m", "c.img"]);
    m.done(&["disk", "remove", "m", "disk0", "--surprise"]);
    assert_eq!(m.slots(), [1, 2, 3, 4]);
    m.done(&["snapshot", "m", "shot", "--stop"]);
    assert_eq!(m.session.end().0, 0);
    // Nobody asks for the file of one that was pulled.
    std::fs::remove_file(dir.path().join("a.img")).unwrap();

    let mut m = Machine::restored(dir.path());
    assert_eq!(m.slots(), [1, 2, 3, 4]);
    // They are what they were called.
    assert!(m.refused(&["disk", "add", "m", "c.img,id=disk0"]).contains("was pulled"));
    m.done(&["disk", "remove", "m", "disk1", "--surprise"]);
    m.done(&["disk", "remove", "m", "disk2", "--surprise"]);
    m.reset();
    assert_eq!(m.slots(), [3]);
    m.session.type_in(b"poweroff\r");
    assert_eq!(m.session.end().0, 0);
}

/// A machine that was made without devices has no threads for them, until one comes.
#[test]
fn a_machine_whose_first_disk_came_while_it_ran_is_restored() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    image(dir.path(), "a.img");
    let mut m = Machine::start(dir.path(), &["--transport", "mmio", "--rng", "false"]);
    m.done(&["disk", "add", "m", "a.img,id=a"]);
    assert_eq!(m.slots(), [1]);
    m.done(&["snapshot", "m", "shot", "--stop"]);
    assert_eq!(m.session.end().0, 0);

    let mut m = Machine::restored(dir.path());
    assert_eq!(m.slots(), [1]);
    m.done(&["pause", "m"]);
    m.done(&["resume", "m"]);
    m.reset();
    assert_eq!(m.slots(), [1]);
    m.session.type_in(b"poweroff\r");
    assert_eq!(m.session.end().0, 0);
}

#[test]
fn disks_share_a_limit_that_changes_and_is_saved() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for name in ["a.img", "b.img", "c.img", "d.img"] {
        image(dir.path(), name);
    }
    let group = "shared,bandwidth=10M,operations=100";
    let disks = ["--limit-group", group, "--disk", "a.img,id=a,limit_group=shared", "--disk", "b.img,id=b"];
    let m = Machine::start(dir.path(), &disks);
    let metric = |m: &Machine<'_>, name: &str| {
        let said = String::from_utf8(m.ask(&["metrics", "m", name]).stdout).unwrap();
        let value = |line: &str| Some(line.strip_prefix(name)?.strip_prefix(' ')?.to_owned());
        said.lines().find_map(value).unwrap_or_default()
    };
    assert_eq!(metric(&m, "limit_group.shared.bandwidth"), (10 << 20).to_string());
    m.done(&["disk", "add", "m", "c.img,id=c,limit_group=shared"]);
    for (args, why) in [
        (
            &["disk", "add", "m", "c.img,id=d,limit_group=none"][..],
            "disk `d`: there is no limit group `none`",
        ),
        (&["disk", "limit", "m", "--group", "none", "--none"], "there is no limit group `none`"),
    ] {
        let said = m.refused(args);
        assert!(said.contains(why), "{args:?}: {said}");
    }
    m.done(&["disk", "limit", "m", "--group", "shared", "--operations", "7", "--operations-burst", "3"]);
    assert_eq!(
        (metric(&m, "limit_group.shared.operations"), metric(&m, "limit_group.shared.bandwidth")),
        ("7".into(), String::new())
    );
    assert!(
        m.events().contains("limited: limit group shared to operations 7, operations_burst 3"),
        "{}",
        m.events()
    );
    m.done(&["disk", "limit", "m", "b", "--bandwidth", "3M"]);
    // What was set while it ran holds in a restored machine.
    m.done(&["snapshot", "m", "shot", "--stop"]);
    m.session.end();
    let m = Machine::restored(dir.path());
    assert_eq!(metric(&m, "limit_group.shared.operations"), "7");
    assert_eq!(metric(&m, "limit_group.shared.operations_burst"), "3");
    assert_eq!(metric(&m, "block.b.limit.bandwidth"), (3 << 20).to_string());
    m.done(&["disk", "add", "m", "d.img,id=d,limit_group=shared"]);
}
