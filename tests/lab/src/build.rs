//! Building a workspace binary from within a test.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::error::Error;

/// Builds a binary of this workspace with cargo, in the dev profile, and gives its path.
///
/// A test cannot see another package's binaries otherwise. Cargo comes from `CARGO`, which it sets for tests, else from
/// the path; the target directory is the one that the running program was built in. Cargo holds no lock while it runs
/// tests, so this may be called from one; when nothing has changed it takes a fraction of a second.
///
/// # Errors
/// [`Error::Build`] with the compiler's message.
///
/// ```no_run
/// let vmm = drystone_lab::build_binary("drystone", "drystone")?;
/// # Ok::<(), drystone_lab::Error>(())
/// ```
pub fn build_binary(package: &str, bin: &str) -> Result<PathBuf, Error> {
    build_profile(package, bin, "dev")
}

/// As [`build_binary`], in a profile of the caller's choice ("dev", "release").
///
/// # Errors
/// As [`build_binary`].
pub fn build_profile(package: &str, bin: &str, profile: &str) -> Result<PathBuf, Error> {
    build(package, bin, profile, false)
}

/// As [`build_profile`], with cargo's own progress and messages on stderr.
///
/// # Errors
/// As [`build_binary`].
pub fn build_visibly(package: &str, bin: &str, profile: &str) -> Result<PathBuf, Error> {
    build(package, bin, profile, true)
}

fn build(package: &str, bin: &str, profile: &str, visibly: bool) -> Result<PathBuf, Error> {
    let failed = |detail: String| Error::Build { package: package.into(), bin: bin.into(), detail };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut command = Command::new(cargo);
    command.current_dir(&workspace).args(["build", "--package", package, "--bin", bin]);
    command.args(["--profile", profile, "--message-format", "json-render-diagnostics"]);
    if let Some(target) = target_directory() {
        command.arg("--target-dir").arg(target);
    }
    // What cargo tells a test about its package is not meant for the cargo that is called now.
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_about_package(&name.to_string_lossy())) {
        command.env_remove(name);
    }
    if visibly {
        command.stderr(Stdio::inherit());
    } else {
        command.arg("--quiet");
    }
    let output = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .output()
        .map_err(|error| failed(format!("cannot start cargo: {error}")))?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        return Err(failed(if visibly { "see above".into() } else { message.trim().to_string() }));
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    executable(&messages, bin).ok_or_else(|| failed("cargo does not say where it put it".into()))
}

/// Finds the path in cargo's messages (one JSON object a line).
fn executable(messages: &str, bin: &str) -> Option<PathBuf> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let of_bin =
        messages.filter(|message| message.pointer("/target/name").and_then(Value::as_str) == Some(bin));
    of_bin.filter_map(|message| Some(PathBuf::from(message.get("executable")?.as_str()?))).next_back()
}

/// The target directory of the running program: the one above it that cargo has marked as its own.
fn target_directory() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    program.ancestors().find(|dir| dir.join("CACHEDIR.TAG").is_file()).map(Path::to_path_buf)
}

fn is_about_package(name: &str) -> bool {
    name.starts_with("CARGO_PKG_")
        || name.starts_with("CARGO_BIN_")
        || [
            "CARGO_MANIFEST_DIR",
            "CARGO_MANIFEST_PATH",
            "CARGO_CRATE_NAME",
            "CARGO_PRIMARY_PACKAGE",
            "CARGO_MANIFEST_LINKS",
        ]
        .contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_is_found_among_other_messages() {
        let messages = "{\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"x\"},\"executable\":\"/wrong\"}\nnot json\n\
            {\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"tool\"},\"executable\":null}\n\
            {\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"tool\"},\"executable\":\"/t/debug/tool\"}\n{\"reason\":\"build-finished\"}";
        assert_eq!(executable(messages, "tool").unwrap(), Path::new("/t/debug/tool"));
        assert_eq!(executable(messages, "other"), None);
    }

    #[test]
    fn a_package_that_is_not_there_is_a_clear_error() {
        let message = build_binary("no-such-package", "x").unwrap_err().to_string();
        assert!(message.starts_with("cannot build the binary x of package no-such-package: "), "{message}");
    }
}
