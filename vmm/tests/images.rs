//! Images on the command line: made, looked at, refused.
#![cfg(feature = "formats")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

use std::path::Path;
use std::process::Command;

struct Said {
    code: i32,
    out: String,
    err: String,
}

fn drystone(dir: &Path, words: &str) -> Said {
    let mut command = Command::new(env!("CARGO_BIN_EXE_drystone"));
    command.args(words.split_whitespace()).current_dir(dir).env("DRYSTONE_RUNTIME_DIR", dir.join("run"));
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}

#[test]
fn images_are_made_and_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let done = |words: &str, line: &str| {
        let said = drystone(dir.path(), words);
        assert_eq!((said.code, said.out.as_str(), said.err.as_str()), (0, line, ""), "{words}");
    };
    done("disk create a.img --size 1M", "a.img: a disk of 1048576 bytes\n");
    done("disk create a.qcow2 --format qcow2 --size 20G", "a.qcow2: a disk of 21474836480 bytes\n");
    done(
        "disk create b.qcow2 --format qcow2 --backing a.qcow2 --backing-format qcow2",
        "b.qcow2: a disk of 21474836480 bytes\n",
    );
    done(
        "disk create c.qcow2 --format qcow2 --size 2M --backing a.img --backing-format raw",
        "c.qcow2: a disk of 2097152 bytes\n",
    );
    let look = |words: &str| {
        let said = drystone(dir.path(), words);
        assert_eq!((said.code, said.err.as_str()), (0, ""), "{words}");
        said.out
    };
    let raw = look("disk info a.img");
    assert!(
        raw.starts_with("path     a.img\nformat   raw\nsize     1M (1048576 bytes)\nfile     1M"),
        "{raw}"
    );
    let qcow2 = look("disk info c.qcow2 --format qcow2");
    for line in
        ["size     2M (2097152 bytes)\n", "version  3\nclusters 64K (65536 bytes)\ncounts   16 bits\n"]
    {
        assert!(qcow2.contains(line), "{qcow2}");
    }
    assert!(qcow2.ends_with("backing  a.img (raw)\n"), "{qcow2}");
    // Said, and not taken for it.
    let raw = look("disk info c.qcow2");
    assert!(raw.contains("format   raw\n") && !raw.contains("2097152"), "{raw}");
    assert!(raw.ends_with("content  begins like qcow2: --format qcow2, if you made it so\n"), "{raw}");
    let json: serde_json::Value =
        serde_json::from_str(&look("disk info b.qcow2 --format qcow2 --json")).unwrap();
    assert_eq!(json["size_bytes"], 20u64 << 30);
    assert_eq!(json["qcow2"]["backing"], serde_json::json!({ "name": "a.qcow2", "format": "qcow2" }));
}

#[test]
fn what_cannot_be_made_or_looked_at_is_said_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let said = |words: &str, code: i32, line: &str| {
        let said = drystone(dir.path(), words);
        assert_eq!((said.code, said.out.as_str()), (code, ""), "{words}: {}", said.err);
        let (begin, end) = line.split_once('…').unwrap_or((line, ""));
        let err = said.err.strip_prefix("drystone: ").unwrap_or(&said.err).trim_end();
        assert!(err.starts_with(begin) && err.ends_with(end) && !err.contains('\n'), "{words}: {err}");
    };
    drystone(dir.path(), "disk create a.img --size 1M");
    said("disk create a.img --size 1M", 1, "a.img: cannot make it: File exists (os error 17)");
    said(
        "disk create b.img --size 1000",
        1,
        "b.img: a disk has a size that is a multiple of 512 bytes, and not 1000",
    );
    said("disk create b.img", 2, "the following required arguments were not provided: …");
    said("disk create b.img --size 1M --format vdi", 2, "invalid value 'vdi' for '--format <FORMAT>'…");
    said("disk create b.img --backing a.img", 2, "the following required arguments were not provided: …");
    said(
        "disk create b.img --backing a.img --backing-format raw",
        1,
        "b.img: a raw image has no backing file: say --format qcow2",
    );
    said(
        "disk create b.img --format qcow2 --backing none.img --backing-format raw",
        1,
        "disk `backing` at none.img: cannot open for reading: No such file or directory (os error 2)",
    );
    said(
        "disk create b.img --format qcow2 --backing a.img --backing-format qcow2",
        1,
        "a.img as qcow2: no such image: it does not begin with QFI and 0xfb",
    );
    said(
        "disk create b.img --format qcow2 --size 1000",
        1,
        "b.img as qcow2: its size must be a multiple of 512 bytes",
    );
    assert!(!dir.path().join("b.img").exists());
    said("disk info none.img", 1, "none.img: cannot open it: No such file or directory (os error 2)");
    said("disk info a.img --format qcow2", 1, "a.img as qcow2: no such image: …");
    said("disk info a.img --format vmdk", 1, "a.img as vmdk: cannot open it: …");
}

#[test]
fn a_machine_does_not_take_what_it_should_not() {
    let dir = tempfile::tempdir().unwrap();
    let said = |words: &str, code: i32, line: &str| {
        let said = drystone(dir.path(), words);
        assert_eq!((said.code, said.err.trim_end()), (code, format!("drystone: {line}").as_str()), "{words}");
    };
    drystone(dir.path(), "disk create a.img --size 1M");
    drystone(dir.path(), "disk create a.qcow2 --format qcow2 --backing a.img --backing-format raw");
    said(
        "run --disk a.qcow2,format=qcow2",
        1,
        "disk `disk0`: a.qcow2 as qcow2: it refers to another file, \"a.img\": say backing=allow if you know where the image comes from",
    );
    said(
        "run --disk a.img,format=qcow2",
        1,
        "disk `disk0`: a.img as qcow2: no such image: it does not begin with QFI and 0xfb",
    );
    said(
        "run --disk a.qcow2,format=qcow2,engine=io_uring",
        2,
        "disk: `disk0`: engine io_uring: for raw images only; use threads, sync or auto",
    );
    said("run --disk a.qcow2,format=vmdk", 2, "disk: `disk0`: format vmdk: can only be read: say readonly");
    said("run --disk a.img,backing=allow", 2, "disk: `disk0`: backing: a raw image names no other file");
    let locked = "disk `disk1` at a.img: in use by another program or machine";
    said("run --disk a.qcow2,format=qcow2,backing=allow --disk a.img", 1, locked);
}
