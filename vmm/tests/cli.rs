//! The command line of the binary itself, as far as it needs no machine.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Exit code, standard output, standard error.
fn drystone(runtime: &Path, args: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_drystone"));
    command.args(args).env("DRYSTONE_RUNTIME_DIR", runtime).stdin(Stdio::null());
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

#[test]
fn the_help_teaches() {
    let dir = tempfile::tempdir().unwrap();
    let (code, out, err) = drystone(dir.path(), &["--help"]);
    assert_eq!((code, err.as_str()), (0, ""));
    for part in ["Examples:", "Ctrl-A x", "Exit codes:", "128+n", "DRYSTONE_RUNTIME_DIR", "control.sock"] {
        assert!(out.contains(part), "{part}");
    }
    for command in ["run", "ls", "info", "cpu", "pause", "resume", "power", "reset", "stop"] {
        assert!(out.lines().any(|l| l.trim_start().starts_with(command)), "{command}");
        let (code, help, _) = drystone(dir.path(), &[command, "--help"]);
        assert_eq!((code, &help), (0, &drystone(dir.path(), &["help", command]).1), "{command}");
    }
    let (code, out, _) = drystone(dir.path(), &["--version"]);
    assert_eq!((code, out), (0, format!("drystone {}\n", env!("CARGO_PKG_VERSION"))));
    assert_eq!(drystone(dir.path(), &[]).0, 2);
}

#[test]
fn what_makes_no_sense_is_one_line_and_code_2() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("vm.toml");
    std::fs::write(&file, "kernel = \"k\"\nmemroy = \"1G\"\n").unwrap();
    let cases: [(&[&str], &str); 11] = [
        (&["frob"], "unrecognized subcommand 'frob'"),
        (&["ls", "--jason"], "unexpected argument '--jason'"),
        (&["stop", "UPPER"], "\"UPPER\" is no name for a machine"),
        (&["run", "--kernel"], "a value is required for '--kernel <FILE>'"),
        (&["run", "--kernel", "k", "--cpus", "0"], "cpus: 0 virtual CPUs: must be 1 to 32"),
        (&["run", "--kernel", "k", "--cpus", "33"], "cpus: 33 virtual CPUs: must be 1 to 32"),
        (&["run", "--kernel", "k", "--cpus", "-1"], "'-1'"),
        (&["run", "--kernel", "k", "--memory", "0"], "memory: 0 bytes"),
        (&["run", "--kernel", "k", "--memory", "64Q"], "\"Q\" is no unit"),
        (&["run", "--kernel", "k", "--id", "a/b"], "\"a/b\" is no name"),
        (&["run", "--config", file.to_str().unwrap()], "vm.toml: line 2: unknown field `memroy`"),
    ];
    for (args, what) in cases {
        let (code, out, err) = drystone(dir.path(), args);
        assert_eq!((code, out.as_str()), (2, ""), "{args:?}: {err}");
        assert!(err.starts_with("drystone: ") && err.contains(what), "{args:?}: {err}");
        assert_eq!(err.lines().count(), 1, "{args:?}: {err}");
    }
}

#[test]
fn what_cannot_be_done_is_one_line_and_code_1() {
    let dir = tempfile::tempdir().unwrap();
    let cases: [(&[&str], &str); 4] = [
        (&["info"], "drystone: no machine runs\n"),
        (&["pause", "web"], "drystone: no machine named web runs\n"),
        (
            &["run", "--config", "/nonexistent/x.toml"],
            "drystone: configuration /nonexistent/x.toml: cannot read: No such file or directory (os error 2)\n",
        ),
        (
            &["run", "--kernel", "k", "--log-file", "/nonexistent/log"],
            "drystone: log /nonexistent/log: cannot open: No such file or directory (os error 2)\n",
        ),
    ];
    for (args, what) in cases {
        assert_eq!(drystone(dir.path(), args), (1, String::new(), what.into()), "{args:?}");
    }
    let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, [".lock"], "nothing is left behind");
}

#[test]
fn flags_win_over_the_file_and_the_dump_is_such_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("vm.toml");
    std::fs::write(&file, "kernel = \"k\"\ncpus = 2\nmemory = \"64M\"\n").unwrap();
    let args =
        ["run", "--config", file.to_str().unwrap(), "--cpus", "4", "--huge-pages", "never", "--dump-config"];
    let (code, dumped, err) = drystone(dir.path(), &args);
    assert_eq!((code, err.as_str()), (0, ""));
    for part in
        ["cpus = 4", "size = \"64M\"", "huge_pages = \"never\"", &format!("{:?}", dir.path().join("k"))]
    {
        assert!(dumped.contains(part), "{part}: {dumped}");
    }
    std::fs::write(&file, &dumped).unwrap();
    let again = drystone(dir.path(), &["run", "--config", file.to_str().unwrap(), "--dump-config"]);
    assert_eq!(again, (0, dumped, String::new()));
}

#[test]
fn ls_cleans_up_and_prints_what_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let stale = dir.path().join("dead");
    std::fs::create_dir(&stale).unwrap();
    for file in ["lock", "pid", "log", "control.sock"] {
        std::fs::write(stale.join(file), "1").unwrap();
    }
    let (code, out, err) = drystone(dir.path(), &["ls"]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(out, "ID  PID  STATE  CPUS  MEMORY  UPTIME\n");
    assert!(!stale.exists());
    assert_eq!(drystone(dir.path(), &["ls", "--json"]).1, "[]\n");
}

#[test]
fn a_machine_that_does_not_listen_yet_is_starting() {
    let dir = tempfile::tempdir().unwrap();
    let registry = drystone::registry::Registry::at(dir.path()).unwrap();
    let claim = registry.claim(Some(&"web".parse().unwrap())).unwrap();
    let (_, out, _) = drystone(dir.path(), &["ls"]);
    let row: Vec<_> = out.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row, ["web", &std::process::id().to_string(), "starting", "-", "-", "-"]);
    // One that listens and never answers.
    let _mute = std::os::unix::net::UnixListener::bind(claim.socket()).unwrap();
    assert!(drystone(dir.path(), &["ls"]).1.contains("unresponsive"));
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let dir = tempfile::tempdir().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = Command::new(env!("CARGO_BIN_EXE_drystone"));
    let child =
        command.arg("ls").env("DRYSTONE_RUNTIME_DIR", dir.path()).stdout(writer).stderr(Stdio::piped());
    let output = child.output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}
