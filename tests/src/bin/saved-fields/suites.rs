//! The tests that should notice.

use crate::tree::{SWITCH, Tree};
use cargo_metadata::Message;
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::io::BufReader;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A test that hangs without a field has noticed as well: when it has taken so many times as long as with it …
const PATIENCE: u32 = 20;
/// … and at least so long.
const AT_LEAST: Duration = Duration::from_secs(60);

/// The tests of a package that are looked at. Those of the whole VMM start many machines that have nothing to do with what is saved.
fn chosen(package: &str) -> &'static [&'static str] {
    match package {
        "drystone" => &["--lib", "--test", "golden", "--test", "snapshot", "--test", "plug"],
        _ => &["--lib", "--tests"],
    }
}

/// How a test program fails.
enum Failure {
    /// In the test of that name.
    Test(String),
    /// It takes longer than there is patience.
    Hangs,
    /// Its process ends.
    Ends(ExitStatus),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Test(name) => f.write_str(name),
            Self::Hangs => f.write_str("it hangs"),
            Self::Ends(status) => status.fmt(f),
        }
    }
}

/// A test program.
struct Program {
    path: PathBuf,
    /// The directory of its package, in which it runs.
    dir: PathBuf,
    /// It has a library's own tests.
    is_library: bool,
    /// How long it takes.
    takes: Duration,
}

impl Program {
    /// Runs it without the field of that number, if any; all of its tests or one. Says which fail.
    fn failing(&self, missing: Option<usize>, only: Option<&str>) -> Result<Vec<Failure>, Box<dyn Error>> {
        let mut command = Command::new("timeout");
        let limit = (self.takes * PATIENCE).max(AT_LEAST).as_secs().to_string();
        command.args(["--kill-after", "5", &limit]).arg(&self.path).arg("--quiet").current_dir(&self.dir);
        command.args(only.map(|test| ["--exact", test]).into_iter().flatten());
        command.env_remove(SWITCH).envs(missing.map(|number| (SWITCH, number.to_string())));
        let test = command.env("RUST_BACKTRACE", "0").stdin(Stdio::null()).output()?;
        if test.status.success() {
            return Ok(Vec::new());
        }
        let said = String::from_utf8_lossy(&test.stdout);
        let name = |line: &str| Some(line.strip_prefix("---- ")?.strip_suffix(" stdout ----")?.to_owned());
        let tests: Vec<_> = said.lines().filter_map(name).map(Failure::Test).collect();
        match (tests.is_empty(), test.status.code()) {
            (false, _) => Ok(tests),
            (true, Some(124)) => Ok(vec![Failure::Hangs]),
            // Where a test's process ends, no test is named.
            (true, _) if missing.is_some() => Ok(vec![Failure::Ends(test.status)]),
            _ => {
                Err(format!("{}: {said}{}", self.path.display(), String::from_utf8_lossy(&test.stderr))
                    .into())
            }
        }
    }

    /// What fails without the field of that number, and not by chance: a test fails so once more by itself, and passes with the field.
    fn noticing(&self, missing: usize) -> Result<Option<Failure>, Box<dyn Error>> {
        for failure in self.failing(Some(missing), None)? {
            let Failure::Test(test) = &failure else { return Ok(Some(failure)) };
            let again = !self.failing(Some(missing), Some(test))?.is_empty();
            if again && self.failing(None, Some(test))?.is_empty() {
                return Ok(Some(failure));
            }
        }
        Ok(None)
    }
}

/// The test programs of packages, with the switches.
#[derive(Default)]
pub struct Suites(BTreeMap<String, Vec<Program>>);

impl Suites {
    /// Builds the tests of `package`, and sees them pass while nothing is missing. The library's own will be the first, as they
    /// say best what is missing, and then those that take the shortest.
    ///
    /// # Errors
    /// When they do not build or do not pass.
    pub fn add(&mut self, tree: &Tree, package: &str) -> Result<(), Box<dyn Error>> {
        let mut programs = build(tree, package)?;
        for program in &mut programs {
            let begun = Instant::now();
            if let Some(test) = program.failing(None, None)?.first() {
                return Err(format!("{package}: {test} fails although nothing is missing").into());
            }
            program.takes = begun.elapsed();
        }
        programs.sort_by_key(|program| (!program.is_library, program.takes));
        self.0.insert(package.into(), programs);
        Ok(())
    }

    /// The first test of `packages` that fails without the field of that number.
    ///
    /// # Errors
    /// When one cannot be started.
    pub fn noticing(&self, packages: &[String], missing: usize) -> Result<Option<String>, Box<dyn Error>> {
        for package in packages {
            for program in self.0.get(package).into_iter().flatten() {
                if let Some(test) = program.noticing(missing)? {
                    return Ok(Some(format!("{package} {test}")));
                }
            }
        }
        Ok(None)
    }
}

/// Builds the tests of `package`. How long they take is not known yet.
fn build(tree: &Tree, package: &str) -> Result<Vec<Program>, Box<dyn Error>> {
    let mut command = Command::new("cargo");
    command.args(["test", "--no-run", "--message-format", "json-render-diagnostics", "--package", package]);
    command.args(chosen(package)).current_dir(tree.root()).stdout(Stdio::piped());
    // Switches are not written as the workspace's lints want it, and nobody debugs them.
    command
        .env("CARGO_TARGET_DIR", tree.root().with_file_name("build"))
        .env("RUSTFLAGS", "--cap-lints=allow");
    let mut cargo = command.env("CARGO_PROFILE_DEV_DEBUG", "0").spawn()?;
    let mut programs = Vec::new();
    for message in Message::parse_stream(BufReader::new(cargo.stdout.take().ok_or("no output")?)) {
        if let Message::CompilerArtifact(artifact) = message?
            && artifact.profile.test
            && let Some(path) = artifact.executable
        {
            let dir = artifact.manifest_path.parent().ok_or("a package without a directory")?;
            let is_library = artifact.target.is_lib();
            programs.push(Program { path: path.into(), dir: dir.into(), is_library, takes: AT_LEAST });
        }
    }
    match cargo.wait()?.success() {
        true => Ok(programs),
        false => Err(format!("{package}: its tests do not build with the switches").into()),
    }
}
