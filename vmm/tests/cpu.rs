//! `drystone cpu`, on hosts that were recorded.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

use drystone_testkit::hosts::{self, Host};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Exit code, standard output, standard error.
fn cpu(args: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_drystone"));
    let output = command.arg("cpu").args(args).stdin(Stdio::null()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// What `drystone cpu --json` would have printed on `host`.
fn record(dir: &Path, host: Host) -> PathBuf {
    let path = dir.join(format!("{}.json", host.name));
    let table = serde_json::to_value(host.table()).unwrap();
    let report = json!({
        "version": 1, "model": "host", "features": "", "topology": {"sockets": 1, "cores": 1, "threads": 1},
        "guest": table, "host": table,
    });
    std::fs::write(&path, report.to_string()).unwrap();
    path
}

/// The words behind a label, over all its lines.
fn words<'a>(text: &'a str, label: &str) -> Vec<&'a str> {
    let mut lines = text.lines().skip_while(|l| !l.starts_with(label));
    let first = lines.next().unwrap_or_else(|| panic!("no {label} in {text}"));
    let more = lines.take_while(|l| l.starts_with(' '));
    first[label.len()..].split_whitespace().chain(more.flat_map(str::split_whitespace)).collect()
}

#[test]
fn what_a_guest_would_see_on_a_host_is_printed() {
    let dir = tempfile::tempdir().unwrap();
    let host = record(dir.path(), hosts::SAPPHIRE_RAPIDS);
    let host = host.to_str().unwrap();
    let (code, out, err) = cpu(&[
        "--host",
        host,
        "--cpus",
        "8,sockets=2,threads=2",
        "--cpu-model",
        "x86-64-v3",
        "--cpu-features",
        "-fma,+aes",
    ]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains("GenuineIntel family 6 model 143 stepping 8 Intel(R) Xeon(R) w7-2475X"), "{out}");
    assert_eq!(words(&out, "vcpus").join(" "), "2 sockets, 2 cores in each, 2 threads on each");
    let instructions = words(&out, "instructions");
    assert!(
        instructions.contains(&"avx2") && instructions.contains(&"aes") && !instructions.contains(&"fma")
    );
    assert!(words(&out, "not given").contains(&"avx512f"));
    assert!(words(&out, "paravirtual").contains(&"kvm_steal_time"));
    assert!(out.lines().all(|l| l.len() <= 100));

    let (code, raw, _) = cpu(&["--host", host, "--raw"]);
    assert_eq!(code, 0);
    let line = raw.lines().find(|l| l.starts_with("0x4000000")).unwrap();
    assert!(line.contains("0x40000001 0x4b4d564b 0x564b4d56 0x0000004d"), "{line}");
}

#[test]
fn json_is_read_back_and_compares_as_equal() {
    let dir = tempfile::tempdir().unwrap();
    let host = record(dir.path(), hosts::MILAN);
    let (code, out, _) = cpu(&["--host", host.to_str().unwrap(), "--json"]);
    assert_eq!(code, 0);
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&report["summary"]["vendor"], &report["summary"]["model"]),
        (&json!("AuthenticAMD"), &json!(1))
    );
    assert!(report["summary"]["features"]["instructions"].as_array().unwrap().contains(&json!("avx2")));
    let again = dir.path().join("again.json");
    std::fs::write(&again, &out).unwrap();
    let (code, out, _) = cpu(&["--host", host.to_str().unwrap(), "--compare", again.to_str().unwrap()]);
    assert_eq!((code, out.lines().last()), (0, Some("equal: a guest can move between them")), "{out}");
}

#[test]
fn two_hosts_are_told_apart_and_the_suggestion_makes_them_equal() {
    let dir = tempfile::tempdir().unwrap();
    let hosts = [hosts::HASWELL, hosts::SAPPHIRE_RAPIDS].map(|host| record(dir.path(), host));
    let [a, b] = hosts.each_ref().map(|path| path.to_str().unwrap());
    let (code, out, err) = cpu(&["--compare", a, b]);
    assert_eq!((code, err.as_str()), (1, ""));
    assert!(words(&out, "a lacks").contains(&"avx512f"), "{out}");
    assert!(out.contains("note          family/model/stepping: a 6/63/2, b 6/143/8"), "{out}");
    let suggestion =
        out.lines().find_map(|l| l.strip_prefix("both can be: ")).unwrap_or_else(|| panic!("{out}"));
    assert!(suggestion.starts_with("--cpu-model x86-64-v3 --cpu-physical-bits 46"), "{suggestion}");
    let flags: Vec<&str> = suggestion.split(' ').collect();
    let files = [a, b].map(|host| {
        let (code, out, err) = cpu(&[&["--host", host, "--json"], flags.as_slice()].concat());
        assert_eq!(code, 0, "{err}");
        let path = format!("{host}.same");
        std::fs::write(&path, out).unwrap();
        path
    });
    let (code, out, _) = cpu(&["--compare", &files[0], &files[1]]);
    assert_eq!(code, 0, "{out}");
}

#[test]
fn what_cannot_be_is_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let host = record(dir.path(), hosts::WESTMERE);
    let host = host.to_str().unwrap();
    let junk = dir.path().join("junk.json");
    std::fs::write(&junk, "{\"version\": 1}").unwrap();
    let cases: [(&[&str], i32, &str); 7] = [
        (
            &["--host", host, "--cpu-model", "x86-64-v3"],
            1,
            "cpu: this host cannot be x86-64-v3: it lacks avx, avx2,",
        ),
        (&["--host", host, "--cpu-model", "pentium"], 2, "cpu.model: \"pentium\" is no CPU model: use host,"),
        (&["--host", host, "--cpu-features", "+monitor"], 2, "monitor cannot be given to a guest"),
        (&["--host", host, "--cpus", "8,sockets=3"], 2, "cpus: 8 virtual CPUs cannot be made of sockets=3"),
        (&["--host", host, "--cpu-physical-bits", "60"], 1, "60 bits of a physical address: must be 36 to"),
        (&["--compare", host, junk.to_str().unwrap()], 2, "junk.json: not from drystone cpu --json"),
        (&["--compare", host, "/nonexistent/x"], 2, "/nonexistent/x: cannot open: No such file"),
    ];
    for (args, expected, what) in cases {
        let (code, out, err) = cpu(args);
        assert_eq!((code, out.as_str()), (expected, ""), "{args:?}: {err}");
        assert!(err.contains(what) && err.lines().count() == 1, "{args:?}: {err}");
    }
}
