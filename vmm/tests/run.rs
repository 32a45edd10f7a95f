//! The run sequence around a machine that is none: terminal, signals, panics, registry, control socket. Each test starts
//! this very program as a child, in which the test `child` runs the machine.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod common;

use common::{Session, is_raw, modes, wait, wait_until};
use drystone::config::{Config, ConsoleConfig};
use drystone::console::{InputSink, OutputSource, Taken};
use drystone::control::{Action, Info, VerbError, Verbs, VmState};
use drystone::events::{CauseKind, EventKind, History};
use drystone::log::Log;
use drystone::monitor::End;
use drystone::registry::VmId;
use drystone::run::{Built, Engine, run_with};
use drystone_lifecycle::Cause;
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

// ---- in the child ----

/// Makes a machine that echoes what it is sent, and whose keys are its ends: q powers off, c crashes, f cannot go on,
/// r resets, P is a bug of its own, V one on another thread.
struct Echo {
    /// It does not end when it is told to.
    deaf: bool,
    /// It takes its time to end.
    slow: bool,
}

enum Message {
    Typed(u8),
    End,
}

struct EchoVerbs {
    state: Mutex<VmState>,
    messages: Mutex<Sender<Message>>,
    history: History,
}
struct EchoInput(Sender<Message>);
struct EchoOutput(Receiver<Vec<u8>>);

impl Engine for Echo {
    fn build(&self, config: &Config, _: &VmId, _: &Log) -> Result<Built, String> {
        if config.cmdline == "broken" {
            return Err("kernel at x: it is broken".into());
        }
        let (messages, inbox) = channel();
        let (speaker, speech) = channel();
        let _ = speaker.send(b"ready\r\n".to_vec());
        let history = History::new();
        history.push(EventKind::Started, Some(CauseKind::Operator), None);
        let state = Mutex::new(VmState::Running);
        let verbs = EchoVerbs { state, messages: Mutex::new(messages.clone()), history };
        let (deaf, slow, ender) = (self.deaf, self.slow, messages.clone());
        Ok(Built {
            verbs: Arc::new(verbs),
            input: Box::new(EchoInput(messages)),
            output: Box::new(EchoOutput(speech)),
            end: Box::new(move || drop(ender.send(Message::End))),
            begin: Box::new(move || Ok(Box::new(move || serve(&inbox, speaker, deaf, slow)))),
        })
    }
}

fn serve(inbox: &Receiver<Message>, speaker: Sender<Vec<u8>>, deaf: bool, slow: bool) -> Result<End, String> {
    loop {
        let cause = match inbox.recv().unwrap() {
            Message::End if deaf => continue,
            Message::End => {
                std::thread::sleep(Duration::from_millis(if slow { 500 } else { 0 }));
                Cause::Operator
            }
            Message::Typed(b'q') => Cause::GuestPowerOff,
            Message::Typed(b'c') => Cause::TripleFault,
            Message::Typed(b'r') => Cause::GuestReset,
            Message::Typed(b'f') => Cause::Fault("vCPU 0: no such instruction".into()),
            Message::Typed(b'e') => return Err("cannot boot: no".into()),
            Message::Typed(b'P') => panic!("a bug in the monitor"),
            Message::Typed(b'V') => {
                let thread = std::thread::spawn(|| panic!("a bug in a vCPU"));
                drop(thread);
                continue;
            }
            Message::Typed(byte) => {
                let _ = speaker.send(vec![byte]);
                continue;
            }
        };
        let _ = speaker.send(b"bye".to_vec());
        return Ok(End { cause, hint: "" });
    }
}

impl InputSink for EchoInput {
    fn push(&self, bytes: &[u8]) -> usize {
        bytes.iter().take_while(|b| self.0.send(Message::Typed(**b)).is_ok()).count()
    }
    fn wait_for_room(&self, _: Duration) -> bool {
        true
    }
    fn is_closed(&self) -> bool {
        false
    }
}

impl OutputSource for EchoOutput {
    fn take(&self, into: &mut Vec<u8>, timeout: Duration) -> Taken {
        match self.0.recv_timeout(timeout) {
            Ok(bytes) => {
                into.extend(&bytes);
                Taken::Bytes(bytes.len())
            }
            Err(RecvTimeoutError::Timeout) => Taken::TimedOut,
            Err(RecvTimeoutError::Disconnected) => Taken::Closed,
        }
    }
}

impl Verbs for EchoVerbs {
    fn info(&self) -> Info {
        Info {
            id: "echo".into(),
            pid: std::process::id(),
            state: *self.state.lock().unwrap(),
            cpus: 3,
            memory_bytes: 1 << 30,
            uptime_ms: 61_000,
            version: "0".into(),
            kernel: "vmlinux".into(),
            boot_protocol: "linux".into(),
            resets: 0,
            end: None,
            exits: [("pio_reads".to_owned(), 5)].into(),
            exit_latency: [("pio_reads".to_owned(), [(1024, 1)].into())].into(),
            msrs: Vec::new(),
            snapshot: None,
        }
    }
    fn history(&self) -> History {
        self.history.clone()
    }
    fn act(&self, action: Action) -> Result<Info, VerbError> {
        let say = |message| drop(self.messages.lock().unwrap().send(message));
        match action {
            Action::Pause => *self.state.lock().unwrap() = VmState::Paused,
            Action::Resume => *self.state.lock().unwrap() = VmState::Running,
            Action::Power => say(Message::Typed(b'p')),
            Action::Reset => return Err(VerbError::Illegal("not now".into())),
            Action::CtrlAltDel => say(Message::Typed(b'd')),
            Action::Nmi { cpu } => say(Message::Typed(cpu.map_or(b'n', |n| b'0' + n as u8))),
            Action::StopGracefully { timeout } => {
                let forced = timeout < Duration::from_secs(1);
                self.history.push(EventKind::GracefulStop, None, None);
                *self.state.lock().unwrap() = VmState::Stopped;
                say(Message::End);
                let end = Some(if forced { CauseKind::Overdue } else { CauseKind::Shutdown });
                return Ok(Info { end, ..self.info() });
            }
            Action::Stop => {
                *self.state.lock().unwrap() = VmState::Stopped;
                say(Message::End);
            }
            other => return Err(VerbError::Failed(format!("what is {other:?}?"))),
        }
        Ok(self.info())
    }
}

#[test]
fn child() {
    let Ok(mode) = std::env::var("DRYSTONE_TEST_CHILD") else { return };
    let mut config = Config { kernel: Some("x".into()), id: Some("echo".into()), ..Config::default() };
    config.log_file = std::env::var_os("DRYSTONE_TEST_LOG").map(PathBuf::from);
    match mode.as_str() {
        "broken" => config.cmdline = mode.clone(),
        "none" => config.console = ConsoleConfig::None,
        _ => (),
    }
    let code = match run_with(&config, &Echo { deaf: mode == "deaf", slow: mode == "slow" }) {
        Ok(status) => {
            status.message.iter().for_each(|m| eprintln!("drystone: {m}"));
            status.code
        }
        Err(e) => {
            eprintln!("drystone: {e}");
            1
        }
    };
    std::process::exit(code.into());
}

// ---- in the parent ----

struct Runtime(tempfile::TempDir);

impl Runtime {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
    fn command(&self, mode: &str) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        self.prepare(command.args(["--exact", "child", "--nocapture", "--quiet"]), mode);
        command
    }
    fn prepare(&self, command: &mut Command, mode: &str) {
        command
            .env("DRYSTONE_RUNTIME_DIR", self.0.path())
            .env("DRYSTONE_TEST_CHILD", mode)
            .env_remove("RUST_BACKTRACE")
            .stderr(Stdio::piped());
    }
    fn drystone(&self, args: &[&str]) -> (i32, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_drystone"));
        let Output { status, stdout, stderr } =
            command.args(args).env("DRYSTONE_RUNTIME_DIR", self.0.path()).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (status.code().unwrap(), text(stdout), text(stderr))
    }
    fn machines(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).unwrap();
        entries
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .filter(|n| !n.starts_with('.'))
            .collect()
    }
}

/// A child with a terminal, once its machine runs.
fn start(runtime: &Runtime, mode: &str) -> Session {
    spawn(runtime.command(mode))
}

fn spawn(command: Command) -> Session {
    let mut session = Session::open(command);
    session.read_to("ready");
    wait_until("raw mode", || is_raw(&session.tty));
    session
}

#[test]
fn however_the_guest_ends_the_terminal_is_given_back_and_nothing_is_left() {
    let cases: [(&[u8], i32, &str); 8] = [
        (b"q", 0, ""),
        (b"\x01x", 0, ""),
        (b"c", 3, "drystone: the guest crashed: triple fault"),
        (b"f", 4, "drystone: vCPU 0: no such instruction"),
        (b"r", 5, "on_reset is stop"),
        (b"e", 1, "drystone: cannot boot: no"),
        (b"P", 1, "drystone: internal error: a bug in the monitor at vmm/tests/run.rs:"),
        (b"V", 1, "drystone: internal error: a bug in a vCPU at vmm/tests/run.rs:"),
    ];
    for (typed, code, said) in cases {
        let runtime = Runtime::new();
        let mut session = start(&runtime, "echo");
        assert_eq!(runtime.machines(), ["echo"]);
        session.type_in(typed);
        let (status, message) = session.end();
        let name = String::from_utf8_lossy(typed);
        assert_eq!(status, code, "{name}: {message}");
        // The first line tells the machine's name.
        let rest: Vec<_> = message.lines().skip(1).collect();
        assert_eq!(rest.len(), usize::from(!said.is_empty()), "{name}: one line: {message}");
        assert!(message.contains(said), "{name}: {message}");
        assert!(runtime.machines().is_empty(), "{name}");
    }
}

/// nohup and shells without job control have what they start in the background ignore some, and children inherit that.
fn is_ignored(signal: Signal) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    u64::from_str_radix(mask.trim(), 16).unwrap() >> (signal.as_raw() - 1) & 1 == 1
}

#[test]
fn signals_end_the_machine_and_are_told_by_the_code() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT] {
        if is_ignored(signal) {
            eprintln!("NOT RUN: {signal:?} is ignored by whoever runs this test, and so by what it starts");
            continue;
        }
        let runtime = Runtime::new();
        let session = start(&runtime, "echo");
        kill_process(session.pid(), signal).unwrap();
        let (status, message) = session.end();
        assert_eq!(status, 128 + signal.as_raw(), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
        assert!(runtime.machines().is_empty());
    }
}

#[test]
fn keys_go_to_the_guest_and_help_to_the_user() {
    let runtime = Runtime::new();
    let mut session = start(&runtime, "echo");
    session.type_in(b"\x03\x1a\x13\x11a");
    assert!(session.read_to("a").ends_with("\x03\x1a\x13\x11a"), "no key means anything to the host");
    session.type_in(b"\x01h");
    session.read_to("Ctrl-A x   stop the machine and leave\r\n");
    session.type_in(b"\x01p");
    session.read_to("p");
    assert_eq!(runtime.drystone(&["ctrl-alt-del"]).0, 0);
    session.read_to("d");
    assert_eq!(runtime.drystone(&["nmi", "--cpu", "2", "echo"]).0, 0);
    session.read_to("2");
    let (_, told, _) = runtime.drystone(&["events", "echo"]);
    assert!(told.ends_with(" 1 started operator\n"), "{told}");
    let (_, told, _) = runtime.drystone(&["events", "--json"]);
    assert!(told.ends_with(",\"event\":\"started\",\"cause\":\"operator\"}\n"), "{told}");
    session.type_in(b"q");
    session.read_to("bye");
    assert_eq!(session.end().0, 0);
}

#[test]
fn a_machine_that_does_not_end_is_left_at_the_second_request() {
    let runtime = Runtime::new();
    let log = runtime.0.path().join(".log");
    let mut command = runtime.command("deaf");
    command.env("DRYSTONE_TEST_LOG", &log);
    let session = spawn(command);
    kill_process(session.pid(), Signal::TERM).unwrap();
    wait_until("the first is seen", || std::fs::read_to_string(&log).unwrap().contains("signal 15"));
    kill_process(session.pid(), Signal::TERM).unwrap();
    assert_eq!(session.end().0, 143);
    assert!(runtime.machines().is_empty());
}

#[test]
fn a_machine_that_does_not_end_is_left_after_a_while() {
    let runtime = Runtime::new();
    let mut session = start(&runtime, "deaf");
    session.type_in(b"\x01x");
    let (status, message) = session.end();
    assert_eq!(status, 1);
    assert!(message.contains("drystone: the machine did not end within 10 seconds"), "{message}");
    assert!(runtime.machines().is_empty());
}

#[test]
fn a_panic_gives_the_terminal_back_before_anything_else_is_waited_for() {
    let runtime = Runtime::new();
    let mut session = start(&runtime, "deaf");
    session.type_in(b"V");
    wait_until("the terminal is given back", || modes(&session.tty) == session.before);
    assert!(session.child.try_wait().unwrap().is_none(), "the machine is still being waited for");
    kill_process(session.pid(), Signal::TERM).unwrap();
    assert_eq!(session.end().0, 1);
}

#[test]
fn a_stopped_process_gives_the_terminal_back_meanwhile() {
    let runtime = Runtime::new();
    // With the terminal as its controlling one, in a session of its own.
    let mut command = Command::new("setsid");
    command.args(["--ctty", "--wait"]).arg(std::env::current_exe().unwrap());
    runtime.prepare(command.args(["--exact", "child", "--nocapture", "--quiet"]), "echo");
    let session = spawn(command);
    let info = runtime.drystone(&["info", "--json"]).1;
    let pid: serde_json::Value = serde_json::from_str(&info).unwrap();
    let pid = Pid::from_raw(i32::try_from(pid["pid"].as_u64().unwrap()).unwrap()).unwrap();
    let is_stopped = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid())).unwrap();
        stat.rsplit(')').next().unwrap().starts_with(" T")
    };
    kill_process(pid, Signal::TSTP).unwrap();
    wait_until("it stops", is_stopped);
    assert_eq!(modes(&session.tty), session.before);
    kill_process(pid, Signal::CONT).unwrap();
    wait_until("raw mode again", || is_raw(&session.tty));
    kill_process(pid, Signal::STOP).unwrap();
    wait_until("it stops", is_stopped);
    kill_process(pid, Signal::CONT).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(session.end().0, 143, "the original mode is not forgotten");
}

#[test]
fn a_terminal_that_nobody_reads_does_not_hold_up_the_end() {
    let runtime = Runtime::new();
    let mut session = start(&runtime, "echo");
    // The echo fills the terminal's buffer.
    for _ in 0..64 {
        session.type_in(&[b'x'; 512]);
    }
    kill_process(session.pid(), Signal::TERM).unwrap();
    assert_eq!(session.end().0, 143);
}

#[test]
fn pipes_are_a_console_too_and_their_end_is_not_the_machines() {
    let runtime = Runtime::new();
    let mut child = runtime.command("echo").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"uno\x01xduo\n").unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("duo") {
        line.clear();
        assert_ne!(out.read_line(&mut line).unwrap(), 0);
    }
    assert_eq!(line, "uno\x01xduo\n", "a pipe has no escape key");
    assert!(child.try_wait().unwrap().is_none());
    assert_eq!(runtime.drystone(&["stop"]).0, 0);
    assert_eq!(wait(&mut child), 0);
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "bye");
}

#[test]
fn commands_speak_to_a_running_machine() {
    let runtime = Runtime::new();
    let mut session = start(&runtime, "slow");
    let (code, table, _) = runtime.drystone(&["ls"]);
    let pid = session.child.id();
    assert_eq!(code, 0);
    let rows: Vec<Vec<_>> = table.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["ID", "PID", "STATE", "CPUS", "MEMORY", "UPTIME"]);
    assert_eq!(rows[1], ["echo", &pid.to_string(), "running", "3", "1G", "1m01s"]);
    assert_eq!(runtime.drystone(&["pause"]), (0, String::new(), String::new()));
    let json: serde_json::Value = serde_json::from_str(&runtime.drystone(&["ls", "--json"]).1).unwrap();
    assert_eq!((&json[0]["id"], &json[0]["state"]), (&"echo".into(), &"paused".into()));
    let info: serde_json::Value =
        serde_json::from_str(&runtime.drystone(&["info", "echo", "--json"]).1).unwrap();
    assert_eq!(info["exits"]["pio_reads"], 5);
    assert!(runtime.drystone(&["info"]).1.contains("state    paused"));
    let refused = runtime.drystone(&["reset", "echo"]);
    assert_eq!(refused, (1, String::new(), "drystone: echo: not now\n".into()));
    let unknown = runtime.drystone(&["resume", "other"]);
    assert_eq!(unknown.2, "drystone: no machine named other runs (running: echo)\n");
    assert_eq!(runtime.drystone(&["resume", "echo"]).0, 0);
    assert_eq!(runtime.drystone(&["power"]).0, 0);
    session.read_to("p");
    let second = runtime.command("echo").stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8(second.stderr).unwrap();
    assert_eq!(said, format!("drystone: a machine named echo is running already (pid {pid})\n"));
    assert_eq!(runtime.drystone(&["stop", "echo"]).0, 0);
    assert!(runtime.machines().is_empty(), "stop comes back when it is gone");
    assert_eq!(session.end().0, 0);
}

#[test]
fn a_graceful_stop_says_what_came_of_it_and_followers_hear_the_last_word() {
    for (time, said) in [
        ("2s", "echo: the guest shut down\n"),
        ("10ms", "echo: the guest did not shut down in time, and was forced\n"),
    ] {
        let runtime = Runtime::new();
        let session = start(&runtime, "echo");
        let mut events = Command::new(env!("CARGO_BIN_EXE_drystone"));
        let events = events.args(["events", "--follow"]).env("DRYSTONE_RUNTIME_DIR", runtime.0.path());
        let mut events = events.stdout(Stdio::piped()).spawn().unwrap();
        let mut told = BufReader::new(events.stdout.take().unwrap());
        let mut line = String::new();
        told.read_line(&mut line).unwrap();
        assert!(line.ends_with("started operator\n"), "{line}");
        let stopped = runtime.drystone(&["stop", "--graceful", "--timeout", time]);
        assert_eq!(stopped, (0, said.into(), String::new()));
        assert!(runtime.machines().is_empty());
        line.clear();
        told.read_to_string(&mut line).unwrap();
        assert!(line.ends_with(" 2 graceful_stop\n"), "{line}");
        assert_eq!(wait(&mut events), 0);
        assert_eq!(session.end().0, 0);
    }
    let runtime = Runtime::new();
    let refused = runtime.drystone(&["stop", "--timeout", "2s"]);
    assert_eq!(refused.0, 2, "a time is for a graceful stop");
}

#[test]
fn what_a_killed_machine_leaves_is_cleaned_by_the_next_command() {
    let runtime = Runtime::new();
    for args in [&["ls"][..], &["info", "echo"], &["stop"]] {
        let mut child = runtime.command("none").stdin(Stdio::null()).spawn().unwrap();
        wait_until("it listens", || runtime.0.path().join("echo/control.sock").exists());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(runtime.machines(), ["echo"]);
        runtime.drystone(args);
        assert!(runtime.machines().is_empty(), "{args:?}");
    }
}

#[test]
fn a_machine_that_cannot_be_made_leaves_nothing() {
    let runtime = Runtime::new();
    let output = runtime.command("broken").stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "drystone: kernel at x: it is broken\n");
    assert!(runtime.machines().is_empty());
}

#[test]
fn a_signal_that_was_ignored_stays_ignored() {
    let runtime = Runtime::new();
    let mut command = Command::new("nohup");
    command.arg(std::env::current_exe().unwrap());
    runtime.prepare(command.args(["--exact", "child", "--nocapture", "--quiet"]), "none");
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    wait_until("it listens", || runtime.drystone(&["info", "echo"]).0 == 0);
    kill_process(Pid::from_child(&child), Signal::HUP).unwrap();
    assert_eq!(runtime.drystone(&["info", "echo"]).0, 0);
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(wait(&mut child), 143);
}
