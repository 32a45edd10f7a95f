//! The lab's directory: stale snapshots, and disks without room.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use drystone_lab::Mode;

/// A directory for the lab that shares what was fetched, and has its own snapshots and jobs.
fn own_store(dir: &Path) {
    let lab = common::lab();
    for part in ["tools", "kernels"] {
        symlink(lab.store().root().join(part), dir.join(part)).unwrap();
    }
}

fn snapshots(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir.join("snapshots")).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    paths.sort();
    paths
}

#[test]
fn a_snapshot_is_used_again_until_its_inputs_change() {
    let lab = common::lab();
    if lab.mode() == Mode::Direct {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    own_store(dir.path());
    let busybox = dir.path().join("busybox");
    fs::copy(lab.busybox(), &busybox).unwrap();
    let run = || {
        let mut command = common::runner();
        command
            .env("DRYSTONE_LAB_DIR", dir.path())
            .env("DRYSTONE_LAB_BUSYBOX", &busybox)
            .args(["--", "echo ran"]);
        let output = command.output().unwrap();
        assert_eq!(
            (output.status.code(), output.stdout.as_slice()),
            (Some(0), b"ran\n".as_slice()),
            "{output:?}"
        );
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(run().contains("for the first time"));
    let first = snapshots(dir.path());
    assert_eq!(first.len(), 1);
    assert!(!run().contains("for the first time"), "nothing is made, so nothing is said");
    // The same bytes in another file are the same input.
    let bytes = fs::read(&busybox).unwrap();
    fs::remove_file(&busybox).unwrap();
    fs::write(&busybox, &bytes).unwrap();
    fs::set_permissions(&busybox, fs::metadata(lab.busybox()).unwrap().permissions()).unwrap();
    assert!(!run().contains("for the first time"));
    assert_eq!(snapshots(dir.path()), first);
    fs::write(&busybox, [bytes, vec![0]].concat()).unwrap();
    assert!(run().contains("for the first time"));
    assert_eq!(snapshots(dir.path()).len(), 2);
    // Half a snapshot, as a crash may leave it, is not used.
    for snapshot in snapshots(dir.path()) {
        fs::remove_file(snapshot.join("state")).unwrap();
    }
    assert!(run().contains("for the first time"));
    assert!(!dir.path().join("runs").read_dir().unwrap().any(|_| true), "no job has left anything");
}

/// Runs a script with a small file system mounted on `dir`, in a mount namespace of its own.
fn with_small_disk(dir: &Path, megabytes: u32, script: &str) -> Option<Output> {
    let mount = format!("mount -t tmpfs -o size={megabytes}m tmpfs '{}' || exit 99\n{script}", dir.display());
    let output = Command::new("unshare").args(["--mount", "sh", "-c", &mount]).output().ok()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.code() == Some(99) || text.starts_with("unshare:") {
        eprintln!("not run: a small file system cannot be mounted here: {text}");
        return None;
    }
    Some(output)
}

#[test]
fn a_full_disk_is_a_clear_error_and_leaves_nothing() {
    let lab = common::lab();
    if lab.mode() == Mode::Direct {
        return;
    }
    // The runner that is measured must not be the first one to make the snapshot.
    assert!(common::runner().args(["--", "true"]).status().unwrap().success());
    let dir = tempfile::tempdir().unwrap();
    let (store, runner) = (lab.store().root().display().to_string(), common::runner_path());
    let prepare = format!(
        "export DRYSTONE_LAB_DIR='{0}'; cd '{0}'; ln -s '{store}/tools' '{store}/kernels' .; ",
        dir.path().display()
    );
    // No room for a snapshot; then for what a job writes; then for the job's files.
    let left = "ls -d runs/* snapshots/*/ 2>/dev/null; pgrep -f \"$DRYSTONE_LAB_DIR/\"";
    let snapshot = format!("{runner} run -- true; echo $?; {left}");
    let linked = format!("ln -s '{store}/snapshots' .; ");
    let written = format!(
        "{linked}{runner} run -- 'dd if=/dev/zero of=x bs=1M count=300'; echo $?; ls -d runs/*; pgrep -f \"$DRYSTONE_LAB_DIR/\""
    );
    let files = format!(
        "{linked}truncate -s 0 /dev/null; {runner} run -f '{store}/kernels/6.12/vmlinux:a' -- true; echo $?; ls -d runs/*"
    );
    for (megabytes, script) in [(30, snapshot), (30, written), (20, files)] {
        let Some(output) = with_small_disk(dir.path(), megabytes, &format!("{prepare}{script}")) else {
            return;
        };
        let (said, shown) =
            (String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
        assert!(said.contains("no space left on the disk"), "{said}");
        assert_eq!(shown.trim(), "125", "{said}");
    }
}
