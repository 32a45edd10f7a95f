//! What cannot be booted, on a terminal: one clear line with its cause, an exit code that is not 0, the terminal as it was, and
//! nothing left behind. One test for each kind.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod common;

use common::Session;
use drystone_testkit::fuzz::images;
use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const ERROR: i32 = 1;
const USAGE: i32 = 2;
const FAULT: i32 = 4;
/// Debian's nobody.
const NOBODY: u32 = 65534;

/// A place for images, and the runtime directory in it.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir(place.runtime()).unwrap();
        place
    }
    fn runtime(&self) -> PathBuf {
        self.0.path().join("run")
    }
    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }
    fn file(&self, name: &str, content: &[u8]) -> String {
        std::fs::write(self.path(name), content).unwrap();
        self.path(name)
    }

    /// Lets everybody look, and gives the runtime directory to nobody, who gets a copy of the binary as well.
    fn open_to_nobody(&self) -> String {
        std::fs::set_permissions(self.0.path(), Permissions::from_mode(0o755)).unwrap();
        chown(self.runtime(), Some(NOBODY), Some(NOBODY)).unwrap();
        std::fs::copy(env!("CARGO_BIN_EXE_drystone"), self.path("drystone")).unwrap();
        self.path("drystone")
    }

    /// Runs `drystone run` with `args`, which must be refused with `code` and the one line `line`, of which `…` stands for
    /// anything.
    fn refuses(&self, args: &[&str], code: i32, line: &str) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_drystone"));
        command.arg("run").args(args);
        self.command_refuses(command, code, line);
    }

    fn command_refuses(&self, mut command: Command, code: i32, line: &str) {
        command
            .env("DRYSTONE_RUNTIME_DIR", self.runtime())
            .env_remove("RUST_BACKTRACE")
            .stderr(Stdio::piped());
        let (status, said) = Session::open(command).end();
        // A machine that came so far as to run says its name first.
        let said: Vec<_> = said.lines().filter(|l| !l.ends_with("Ctrl-A h helps")).collect();
        assert_eq!((status, said.len()), (code, 1), "{said:?}");
        assert!(matches(said[0], line), "{}\nis not\n{line}", said[0]);
        let left: Vec<_> =
            std::fs::read_dir(self.runtime()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| name == ".lock"), "left behind: {left:?}");
    }
}

/// Whether `text` is `pattern`, in which `…` stands for anything.
fn matches(text: &str, pattern: &str) -> bool {
    let mut parts = pattern.split('…');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let mut parts: Vec<_> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        let Some((_, after)) = rest.split_once(part) else { return false };
        rest = after;
    }
    rest.ends_with(last)
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A command that runs another as nobody.
fn as_nobody(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", program, "run"]);
    command
}

fn has_kvm() -> bool {
    let opened = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm");
    if let Err(e) = &opened {
        eprintln!("NOT RUN: /dev/kvm: {e}");
    }
    opened.is_ok()
}

#[test]
fn the_pattern_of_this_file_matches_what_it_should() {
    assert!(
        matches("abc", "abc") && matches("abc", "a…c") && matches("abc", "…") && matches("abcbd", "a…b…d")
    );
    assert!(
        !matches("abc", "ab") && !matches("abc", "a…d") && !matches("abc", "b…") && !matches("abc", "a…x…c")
    );
}

#[test]
fn a_missing_kernel() {
    if !has_kvm() {
        return;
    }
    let place = Place::new();
    let path = place.path("vmlinuz");
    let line = format!("drystone: kernel at {path}: cannot open: No such file or directory (os error 2)");
    place.refuses(&["--kernel", &path], ERROR, &line);
    let path = place.path("");
    place.refuses(
        &["--kernel", &path],
        ERROR,
        &format!("drystone: kernel at {path}: cannot open: it is a directory"),
    );
}

#[test]
fn an_unreadable_kernel() {
    if !has_kvm() {
        return;
    }
    let place = Place::new();
    let kernel = place.file("vmlinuz", &images::bzimage());
    std::fs::set_permissions(&kernel, Permissions::from_mode(0o0)).unwrap();
    // Root reads everything, unless it has given its capabilities away.
    let mut command = Command::new("setpriv");
    if is_root() {
        command.args(["--inh-caps=-all", "--bounding-set=-all"]);
    }
    command.args([env!("CARGO_BIN_EXE_drystone"), "run", "--kernel", &kernel]);
    let line = format!("drystone: kernel at {kernel}: cannot open: Permission denied (os error 13)");
    place.command_refuses(command, ERROR, &line);
}

#[test]
fn a_truncated_kernel() {
    if !has_kvm() {
        return;
    }
    let place = Place::new();
    for (name, image, promised) in [("vmlinuz", images::bzimage(), 5120), ("vmlinux", images::elf(), 1452)] {
        let kernel = place.file(name, &image[..1400]);
        let line = format!(
            "drystone: kernel at {kernel}: truncated: its header promises {promised} bytes, the file has 1400"
        );
        place.refuses(&["--kernel", &kernel], ERROR, &line);
    }
    let empty = place.file("empty", b"");
    place.refuses(
        &["--kernel", &empty],
        ERROR,
        &format!("drystone: kernel at {empty}: neither …an empty file"),
    );
}

#[test]
fn a_corrupt_kernel() {
    if !has_kvm() {
        return;
    }
    let place = Place::new();
    let mut low = images::bzimage();
    images::put(&mut low, 0x258, &0x7000_u64.to_le_bytes());
    let mut outside = images::pvh_elf();
    images::put(&mut outside, images::ELF_NOTES + 16, &[0; 4]);
    for (content, what) in [
        (low, "corrupt: it asks to be loaded at 0x7000, below 1 MiB"),
        (outside, "corrupt: its PVH entry point 0x0 is in none of its segments"),
        (b"\x1f\x8b and so on".to_vec(), "neither …it looks like gzip data (unpack it first)"),
        (b"#!/bin/sh\n".to_vec(), "neither …it looks like a script"),
        (vec![0x9b; 5000], "neither …it looks like unknown data …"),
    ] {
        let kernel = place.file("kernel", &content);
        place.refuses(&["--kernel", &kernel], ERROR, &format!("drystone: kernel at {kernel}: {what}"));
    }
    let kernel = place.file("kernel", &images::bzimage());
    let line = format!(
        "drystone: kernel at {kernel}: cannot be started by the boot protocol pvh: it has no PVH entry…"
    );
    place.refuses(&["--kernel", &kernel, "--boot-protocol", "pvh"], ERROR, &line);
}

#[test]
fn a_kernel_that_does_not_fit() {
    if !has_kvm() {
        return;
    }
    let place = Place::new();
    let mut large = images::bzimage();
    images::put(&mut large, 0x260, &(100_u32 << 20).to_le_bytes());
    let kernel = place.file("vmlinuz", &large);
    let line = format!(
        "drystone: kernel at {kernel}: does not fit: it needs 0x200000..0x6600000, guest RAM below 4 GiB ends at \
         0x4000000; give the guest at least 102 MiB"
    );
    place.refuses(&["--kernel", &kernel, "--memory", "64M"], ERROR, &line);
}

#[test]
fn an_initrd_that_does_not_fit_or_is_none() {
    if !has_kvm() {
        return;
    }
    let place = Place::new();
    let initrd = place.file("initrd", b"");
    place.refuses(&["--initrd", &initrd], ERROR, &format!("drystone: initrd at {initrd}: empty file"));
    std::fs::File::create(&initrd).unwrap().set_len(70 << 20).unwrap();
    let line = format!(
        "drystone: initrd at {initrd}: does not fit: it has 73400320 bytes, the largest free range of guest RAM below \
         0x4000000 has … (the kernel takes 0x100000..…)"
    );
    place.refuses(&["--initrd", &initrd, "--memory", "64M"], ERROR, &line);
    let missing = place.path("missing");
    place.refuses(
        &["--initrd", &missing],
        ERROR,
        &format!("drystone: initrd at {missing}: cannot open: No such file…"),
    );
}

#[test]
fn a_command_line_that_is_too_long() {
    if !has_kvm() {
        return;
    }
    let place = Place::new();
    let line = "drystone: kernel command line: … bytes are … too many, this kernel takes 2047";
    place.refuses(&["--cmdline", &"x".repeat(2047)], ERROR, line);
    place.refuses(
        &["--cmdline", "a\nb"],
        USAGE,
        "drystone: cmdline: must not contain a newline or a null byte",
    );
}

#[test]
fn no_vcpus_or_too_many() {
    let place = Place::new();
    for count in ["0", "33", "4294967295"] {
        let line = format!("drystone: cpus: {count} virtual CPUs: must be 1 to 32");
        place.refuses(&["--cpus", count], USAGE, &line);
    }
    place.refuses(&["--cpus", "many"], USAGE, "drystone: …'many'…");
}

#[test]
fn no_memory_or_more_than_the_host_can_map() {
    let place = Place::new();
    place.refuses(&["--memory", "0"], USAGE, "drystone: memory: 0 bytes: a machine needs at least 4M");
    place.refuses(&["--memory", "4097K"], USAGE, "drystone: memory: … is not a multiple of 4096");
    if !has_kvm() {
        return;
    }
    // More than any process's address space, and more than any processor's physical one.
    let addressing =
        "drystone: guest memory of …: does not fit into the … address bits of this host's virtual CPUs";
    place.refuses(&["--memory", "1048576T"], ERROR, addressing);
    let mut command = Command::new("sh");
    let limited = "ulimit -v 2000000; exec \"$0\" run --memory 64G";
    command.args(["-c", limited, env!("CARGO_BIN_EXE_drystone")]);
    let line = "drystone: guest memory: cannot map … bytes at …: …Cannot allocate memory…";
    place.command_refuses(command, ERROR, line);
}

#[test]
fn no_kvm() {
    let place = Place::new();
    let mut command = Command::new("unshare");
    command.arg(if is_root() { "-m" } else { "-rm" });
    let script = "mount -t tmpfs none /dev && exec \"$0\" run";
    command.args(["sh", "-c", script, env!("CARGO_BIN_EXE_drystone")]);
    let mut may = Command::new("unshare");
    may.args([if is_root() { "-m" } else { "-rm" }, "mount", "-t", "tmpfs", "none", "/dev"]);
    if !may_run(&mut may) {
        eprintln!("NOT RUN: this host lets nobody hide /dev/kvm");
        return;
    }
    place.command_refuses(
        command,
        ERROR,
        "drystone: /dev/kvm: cannot open: No such file or directory (os error 2); …",
    );
}

fn may_run(command: &mut Command) -> bool {
    command.stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}

#[test]
fn no_permission_for_kvm() {
    let place = Place::new();
    let program = if is_root() { place.open_to_nobody() } else { env!("CARGO_BIN_EXE_drystone").into() };
    let may = if is_root() {
        may_run(Command::new("setpriv").args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "test",
            "-w",
            "/dev/kvm",
        ]))
    } else {
        has_kvm()
    };
    if may || !Path::new("/dev/kvm").exists() {
        eprintln!("NOT RUN: /dev/kvm is open to everybody here, or is not there");
        return;
    }
    let mut command = if is_root() { as_nobody(&program) } else { Command::new(&program) };
    if !is_root() {
        command.arg("run");
    }
    let line = "drystone: /dev/kvm: cannot open: Permission denied (os error 13); …usermod -aG…";
    place.command_refuses(command, ERROR, line);
}

#[test]
fn a_kvm_that_cannot_run_the_guests_instruction() {
    if !has_kvm() {
        return;
    }
    let place = Place::new();
    let mut image = images::elf();
    // lock cmpxchg16b [rsp-16]; then, where that works, power off: al = 0x34, dx = 0x600, out
    let code = b"\x48\x83\xe4\xf0\xf0\x48\x0f\xc7\x4c\x24\xf0\xb0\x34\x66\xba\x00\x06\xee\xf4";
    images::put(&mut image, 0x400, code);
    let kernel = place.file("vmlinux", &image);
    let mut works = Command::new(env!("CARGO_BIN_EXE_drystone"));
    works
        .args(["run", "--kernel", &kernel])
        .env("DRYSTONE_RUNTIME_DIR", place.runtime())
        .stdin(Stdio::null());
    if may_run(&mut works) {
        eprintln!("NOT RUN: this host's KVM runs cmpxchg16b in kernel mode");
        return;
    }
    let line = "drystone: vCPU 0: …lock cmpxchg16b [rsp-10h] (f0 48 0f c7 4c 24 f0) at rip 0x200004, CPL 0…cargo boot…";
    place.refuses(&["--kernel", &kernel], FAULT, line);
}
