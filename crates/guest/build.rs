//! Builds the guest in `image/` for the very target that the crate is built for, whose core library is there, but without
//! a standard library, start files or an operating system: no further toolchain is needed.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() -> Result<(), String> {
    println!("cargo::rerun-if-changed=image");
    let out = PathBuf::from(variable("OUT_DIR")?).join("guest.elf");
    if variable("CARGO_CFG_TARGET_ARCH")? != "x86_64" {
        // The guest is for x86-64 and this toolchain is not. See `IMAGE`.
        return std::fs::write(&out, []).map_err(|e| format!("{}: cannot write: {e}", out.display()));
    }
    build(&Path::new(&variable("CARGO_MANIFEST_DIR")?).join("image"), &out)
}

fn variable(name: &str) -> Result<String, String> {
    std::env::var(name).map_err(|e| format!("{name}: {e}"))
}

fn build(source: &Path, out: &Path) -> Result<(), String> {
    let script = source.join("link.ld");
    let link_args =
        format!("-nostartfiles -nostdlib -static -no-pie -Wl,--build-id=none -Wl,-T,{}", script.display());
    let mut rustc = Command::new(variable("RUSTC")?);
    rustc
        .args(["--edition=2024", "--crate-type=bin", "--crate-name=guest"])
        .arg(format!("--target={}", variable("TARGET")?))
        .args(["-Copt-level=s", "-Cpanic=abort", "-Crelocation-model=static", "-Cstrip=symbols"])
        .arg(format!("-Clink-args={link_args}"))
        // A panic message names a file: not where it lay on the machine that built it.
        .arg(format!("--remap-path-prefix={}=guest", source.display()))
        .arg("-o")
        .arg(out)
        .arg(source.join("main.rs"));
    let output = rustc.output().map_err(|e| format!("cannot start {rustc:?}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "cannot build the guest: {rustc:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    ))
}
