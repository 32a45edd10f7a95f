//! The few words of QEMU's control protocol that a snapshot needs.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// QEMU answers at once; silence this long means that it hangs.
const PATIENCE: Duration = Duration::from_secs(60);
/// No answer comes near this size.
const LONGEST: usize = 1 << 20;

/// A control connection. Errors are sentences that follow "the machine".
#[derive(Debug)]
pub(super) struct Qmp {
    stream: UnixStream,
    bytes: Vec<u8>,
}

impl Qmp {
    /// Greets QEMU.
    pub(super) fn connect(stream: UnixStream) -> Result<Self, String> {
        let mut qmp = Self { stream, bytes: Vec::new() };
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    pub(super) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Executes a command and gives what it returns.
    pub(super) fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, String> {
        let text = json!({ "execute": command, "arguments": arguments }).to_string();
        let gone = |_| "ended while it was being controlled".to_string();
        self.stream.write_all(text.as_bytes()).map_err(gone)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let message = self.message(deadline)?.ok_or_else(|| format!("does not answer to {command}"))?;
            if let Some(error) = message.get("error") {
                let text = error.get("desc").and_then(Value::as_str).unwrap_or("no description");
                return Err(format!("refuses {command}: {text}"));
            }
            if let Some(value) = message.get("return") {
                return Ok(value.clone());
            }
        }
    }

    /// Gives the next event that has already arrived, without waiting.
    pub(super) fn pending_event(&mut self) -> Result<Option<Value>, String> {
        loop {
            match self.message(Instant::now())? {
                Some(message) if message.get("event").is_some() => return Ok(Some(message)),
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }

    fn message(&mut self, deadline: Instant) -> Result<Option<Value>, String> {
        loop {
            if let Some(end) = self.bytes.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.bytes.drain(..=end).collect();
                let value = serde_json::from_slice(&line);
                return value.map(Some).map_err(|error| format!("says what cannot be understood: {error}"));
            }
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            let mut buffer = [0; 4096];
            let read = self.stream.set_read_timeout(Some(left)).and_then(|()| self.stream.read(&mut buffer));
            match read {
                Ok(0) => return Err("ended".into()),
                Ok(length) => self.bytes.extend_from_slice(buffer.get(..length).unwrap_or_default()),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    if Instant::now() >= deadline {
                        return Ok(None);
                    }
                }
                Err(_) => return Err("ended".into()),
            }
            if self.bytes.len() > LONGEST {
                return Err("says more than can be right".into());
            }
        }
    }
}
