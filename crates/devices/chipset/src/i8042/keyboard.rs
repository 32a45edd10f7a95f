use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Bytes of key strokes that wait for the guest: two dozen strokes.
const MAX_KEYS: usize = 64;
/// The longest answer to a command: an acknowledgement and an identity.
const MAX_ANSWER: usize = 3;

const ACK: u8 = 0xfa;
const SELF_TEST_PASSED: u8 = 0xaa;
const ECHO: u8 = 0xee;
const RESEND: u8 = 0xfe;
/// An MF2 keyboard.
const IDENTITY: [u8; 2] = [0xab, 0x83];
/// The same, where the controller translates it like a scan code.
const IDENTITY_TRANSLATED: [u8; 2] = [0xab, 0x41];
const SCAN_CODE_SET: u8 = 2;
const EXTENDED: u8 = 0xe0;
const RELEASED_SET_2: u8 = 0xf0;
const RELEASED_SET_1: u8 = 0x80;

/// A key, with its codes in scan code sets 1 and 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Key {
    extended: bool,
    set_1: u8,
    set_2: u8,
}

const CTRL: Key = Key { extended: false, set_1: 0x1d, set_2: 0x14 };
const ALT: Key = Key { extended: false, set_1: 0x38, set_2: 0x11 };
const DELETE: Key = Key { extended: true, set_1: 0x53, set_2: 0x71 };

/// A PS/2 keyboard, as far as drivers look: it acknowledges all commands, says what it is, and types.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyboardState {
    /// The answer to the last command, as far as it has not been read; it comes before keys.
    pub answer: VecDeque<u8>,
    /// Key strokes that have not been read.
    pub keys: VecDeque<u8>,
    /// It sends what is typed.
    pub scanning: bool,
    /// The command that waits for its parameter.
    pub parameter_of: Option<u8>,
}

impl Default for KeyboardState {
    /// As after its self-test, whose result nobody has waited for.
    fn default() -> Self {
        Self { answer: VecDeque::new(), keys: VecDeque::new(), scanning: true, parameter_of: None }
    }
}

impl KeyboardState {
    pub(super) fn validate(&self) -> Result<(), String> {
        let Self { answer, keys, scanning: _, parameter_of } = self;
        if answer.len() > MAX_ANSWER || keys.len() > MAX_KEYS {
            return Err(format!(
                "{} bytes of an answer and {} of keys: there can be {MAX_ANSWER} and {MAX_KEYS}",
                answer.len(),
                keys.len()
            ));
        }
        match parameter_of {
            Some(command) if !has_parameter(*command) => {
                Err(format!("keyboard command {command:#x} has no parameter"))
            }
            _ => Ok(()),
        }
    }

    /// Whether there is a byte to read.
    pub(super) fn is_ready(&self) -> bool {
        !self.answer.is_empty() || !self.keys.is_empty()
    }

    pub(super) fn take(&mut self) -> Option<u8> {
        self.answer.pop_front().or_else(|| self.keys.pop_front())
    }

    /// A byte from the driver. `translated` says that the controller makes set 1 of set 2.
    pub(super) fn receive(&mut self, byte: u8, translated: bool) {
        // Whatever it was about to answer is given up, as the real one does.
        self.answer.clear();
        match (self.parameter_of.take(), byte) {
            // A command in place of the parameter is a command.
            (Some(command), 0..=0xdf) => self.parameter(command, byte),
            _ => self.command(byte, translated),
        }
    }

    fn command(&mut self, command: u8, translated: bool) {
        match command {
            ECHO => return self.answer.push_back(ECHO),
            0xf2 => {
                let identity = if translated { IDENTITY_TRANSLATED } else { IDENTITY };
                self.answer.push_back(ACK);
                return self.answer.extend(identity);
            }
            0xf4 => self.scanning = true,
            0xf5 => self.set_defaults(false),
            0xf6 => self.set_defaults(true),
            0xff => {
                self.set_defaults(true);
                return self.answer.extend([ACK, SELF_TEST_PASSED]);
            }
            command if has_parameter(command) => self.parameter_of = Some(command),
            // Key by key modes of scan code set 3.
            0xf7..=0xfd => {}
            _ => return self.answer.push_back(RESEND),
        }
        self.answer.push_back(ACK);
    }

    fn parameter(&mut self, command: u8, value: u8) {
        self.answer.push_back(ACK);
        // Lights and repeat rate are nothing to us, and there is one scan code set.
        if command == 0xf0 && value == 0 {
            self.answer.push_back(SCAN_CODE_SET);
        }
    }

    fn set_defaults(&mut self, scanning: bool) {
        self.keys.clear();
        self.scanning = scanning;
    }

    /// Presses Ctrl, Alt and Delete in this order and lets go of them, in scan code set 1 if `translated`. False, and
    /// nothing is typed, when there is no room for all of it.
    pub(super) fn ctrl_alt_del(&mut self, translated: bool) -> bool {
        let presses = [(CTRL, false), (ALT, false), (DELETE, false)];
        let releases = [(DELETE, true), (ALT, true), (CTRL, true)];
        let mut codes = Vec::new();
        for (key, released) in presses.into_iter().chain(releases) {
            codes.extend(key.extended.then_some(EXTENDED));
            match (translated, released) {
                (true, false) => codes.push(key.set_1),
                (true, true) => codes.push(key.set_1 | RELEASED_SET_1),
                (false, false) => codes.push(key.set_2),
                (false, true) => codes.extend([RELEASED_SET_2, key.set_2]),
            }
        }
        let room = self.keys.len() + codes.len() <= MAX_KEYS;
        if room {
            self.keys.extend(codes);
        }
        room
    }
}

/// Set lights, scan code set, repeat rate.
fn has_parameter(command: u8) -> bool {
    matches!(command, 0xed | 0xf0 | 0xf3)
}
