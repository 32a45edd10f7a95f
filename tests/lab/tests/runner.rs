//! The runner, ended in every way that a program can be ended.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::process::{Child, Stdio};

use common::{eventually, machine_of, read_until, runner};
use rustix::process::{Pid, Signal, kill_process};

fn emulated() -> bool {
    let emulated = common::lab().mode() == drystone_lab::Mode::Emulated;
    if !emulated {
        eprintln!("not run: this machine runs jobs directly, there is no QEMU to be leaked");
    }
    emulated
}

fn start(script: &str) -> Child {
    let mut child =
        runner().args(["--", script]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    read_until(child.stdout.as_mut().unwrap(), "ready");
    child
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_raw(child.id() as i32).unwrap(), signal).unwrap();
}

#[test]
fn a_killed_runner_takes_its_machine_along_and_the_next_one_clears_up() {
    if !emulated() {
        return;
    }
    let mut child = start("echo ready; sleep 1000");
    let (machine, directory) = machine_of(&child);
    assert!(machine.is_alive() && directory.is_dir());
    // The machine itself would notice, and power off; one that is stuck must go just as well.
    machine.stop();
    signal(&child, Signal::KILL);
    child.wait().unwrap();
    eventually("QEMU ends with its runner", || !machine.is_alive());
    assert!(directory.is_dir(), "nobody was left to remove it");
    assert!(runner().args(["--", "true"]).status().unwrap().success());
    assert!(!directory.exists());
}

#[test]
fn a_terminated_or_interrupted_runner_leaves_nothing() {
    if !emulated() {
        return;
    }
    for (number, what) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129)] {
        let mut child = start("trap '' TERM INT HUP; echo ready; sleep 1000");
        let (machine, directory) = machine_of(&child);
        signal(&child, number);
        assert_eq!(child.wait().unwrap().code(), Some(what));
        assert!(!machine.is_alive());
        assert!(!directory.exists());
    }
}

#[test]
fn a_runner_whose_output_is_closed_ends() {
    if !emulated() {
        return;
    }
    // One that would write for ever, and one that never writes again.
    for script in ["echo ready; yes", "echo ready; sleep 1000"] {
        let mut child = start(script);
        let (machine, directory) = machine_of(&child);
        drop(child.stdout.take());
        assert_eq!(child.wait().unwrap().code(), Some(141));
        assert!(!machine.is_alive() && !directory.exists());
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        // It may have had to wait for other tests, and nothing else.
        assert!(said.lines().all(|line| line.contains("waiting for")), "{said}");
    }
}

#[test]
fn two_run_at_once_and_do_not_see_each_other() {
    let both = [1, 2].map(|number| {
        let script = format!("echo {number} > mine; echo ready; read go; cat mine; echo $go");
        let mut command = runner();
        command.args(["-i", "--", &script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        command.spawn().unwrap()
    });
    let mut both = both;
    // Both are up before either may go on.
    for child in &mut both {
        read_until(child.stdout.as_mut().unwrap(), "ready");
    }
    for (child, number) in both.iter_mut().zip([1, 2]) {
        child.stdin.take().unwrap().write_all(b"went\n").unwrap();
        let mut rest = String::new();
        child.stdout.take().unwrap().read_to_string(&mut rest).unwrap();
        assert_eq!(rest.trim_start(), format!("{number}\nwent\n"));
        assert!(child.wait().unwrap().success());
    }
}

#[test]
fn mistakes_in_the_arguments_are_told() {
    for (arguments, text) in [
        (vec!["-f", "/nowhere/file", "--", "true"], "cannot find /nowhere/file"),
        (vec!["-e", "novalue", "--", "true"], "is not NAME=VALUE"),
        (vec!["-o", "../x", "--", "true"], "not a name inside"),
        (vec!["-t=-1", "--", "true"], "time limit"),
        (vec![], "required"),
    ] {
        let output = runner().args(&arguments).output().unwrap();
        assert!(!output.status.success() && output.stdout.is_empty());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(text), "{arguments:?}: {said}");
    }
    let output = runner().env("DRYSTONE_LAB", "yes").args(["--", "true"]).output().unwrap();
    assert!(
        String::from_utf8_lossy(&output.stderr)
            .contains("DRYSTONE_LAB=\"yes\": expected `direct` or `emulated`")
    );
}
