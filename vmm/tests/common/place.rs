//! A place where machines with the guest that is built in run, and what a person types and sees there.

use super::{Session, is_raw, wait_until};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A directory in which machines with terminals run, and commands about them.
pub struct Place(tempfile::TempDir);

impl Place {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
    pub fn dir(&self) -> &Path {
        self.0.path()
    }
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_drystone"));
        // Relative paths are the command's, not the machine's.
        command.args(args).current_dir(self.0.path()).env("DRYSTONE_RUNTIME_DIR", self.path("run"));
        command.stderr(Stdio::piped());
        command
    }
    /// A machine with this terminal.
    pub fn session(&self, args: &[&str]) -> Session {
        let session = Session::open(self.command(args));
        // Until then what is typed is shown twice.
        wait_until("raw mode", || is_raw(&session.tty));
        session
    }
    /// A machine at its first prompt.
    pub fn run(&self, id: &str, args: &[&str]) -> Session {
        let mut session = self.session(&[&["run", "--memory", "64M", "--id", id], args].concat());
        session.read_to("\r\n> ");
        session
    }
    pub fn output(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }
    /// Runs a command that works; returns what it says.
    pub fn say(&self, args: &[&str]) -> String {
        let output = self.output(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
    /// Runs a command that is refused with `code` and one line, in which `…` stands for anything.
    pub fn refuses(&self, args: &[&str], code: i32, line: &str) {
        let output = self.output(args);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{args:?}: {said}");
        let mut rest = said.trim_end();
        for (n, piece) in line.split('…').enumerate() {
            let at = rest.find(piece).unwrap_or_else(|| panic!("{args:?}: {said:?} is not {line:?}"));
            assert!(n > 0 || at == 0, "{args:?}: {said:?} is not {line:?}");
            rest = &rest[at + piece.len()..];
        }
        let machines = self.say(&["ls"]);
        let others: Vec<_> = machines.lines().skip(1).filter(|line| !line.starts_with("web ")).collect();
        assert!(others.is_empty(), "{args:?}: something is left behind: {others:?}");
    }
    pub fn state(&self, id: &str) -> String {
        let info = self.say(&["info", id]);
        info.lines().find_map(|line| line.strip_prefix("state    ")).unwrap().to_owned()
    }
}

/// Types a line to its end, and returns the answer.
pub fn ask(session: &mut Session, line: &str) -> String {
    session.type_in(format!("{line}\r").as_bytes());
    let answer = session.read_to("\r\n> ");
    answer.strip_prefix(&format!("{line}\r\n")).unwrap_or(&answer).trim_end_matches("\r\n> ").to_owned()
}

pub fn leave(mut session: Session) {
    session.type_in(b"poweroff\r");
    let (code, said) = session.end();
    assert_eq!(code, 0, "{said}");
}
