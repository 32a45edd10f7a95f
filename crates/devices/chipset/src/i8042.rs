mod keyboard;
mod ports;
mod state;

pub use keyboard::KeyboardState;
pub use ports::I8042Port;
pub use state::I8042State;

use crate::bytes::{self, lock};
use drystone_bus::{Effect, Interrupt};
use std::sync::{Arc, Mutex};

/// Status: there is a byte to read at the data port.
const STATUS_OUTPUT_FULL: u8 = 0x01;
/// Status: the self-test has passed; a copy of the command byte's bit.
const STATUS_SYSTEM: u8 = 0x04;
/// Status: the last byte was written to the command port.
const STATUS_COMMAND: u8 = 0x08;
/// Status: the keyboard is not locked.
const STATUS_UNLOCKED: u8 = 0x10;
/// Status: the byte is from the auxiliary port.
const STATUS_AUXILIARY: u8 = 0x20;
/// Status: a device did not answer.
const STATUS_TIMEOUT: u8 = 0x40;

/// Command byte: the keyboard's interrupt is on.
const COMMAND_INTERRUPT: u8 = 0x01;
/// Command byte: the keyboard port is off.
const COMMAND_DISABLED: u8 = 0x10;
/// Command byte: scan codes of set 2 are made into those of set 1.
const COMMAND_TRANSLATE: u8 = 0x40;
/// Command byte when built: translation, self-test passed, both ports disabled, no interrupts.
const DEFAULT_COMMAND_BYTE: u8 = 0x74;
/// Output port when built: no reset, A20 open.
const DEFAULT_OUTPUT_PORT: u8 = 0x03;
/// Output port: the reset line; low resets.
const OUTPUT_NO_RESET: u8 = 0x01;
/// What a device that is not there is said to have answered.
const RESEND: u8 = 0xfe;

/// The keyboard controller of a PC (data port 0x60, command and status port 0x64) with a keyboard that types one thing:
/// Ctrl-Alt-Del.
///
/// It is also there for its reset line: command 0xfe, which Linux writes for `reboot=k` and as a last resort. Who probes
/// it finds a controller that answers its commands at once, a keyboard, and an auxiliary port that fails its test.
/// Linux saves itself that test, and a warning about a missing mouse, with `i8042.noaux` on its command line.
///
/// A controller's answer is read before what the keyboard sends, so neither is taken for the other's.
///
/// Offsets count from 0x60. Put the two ports on a bus with [`data_port`](Self::data_port) and
/// [`command_port`](Self::command_port): what is between them is others'. In the FADT, the 8042 bit (bit 1) of
/// IAPC_BOOT_ARCH belongs to it (ACPI 6.5, 5.2.9.3).
pub struct I8042 {
    inner: Mutex<Inner>,
    interrupt: Arc<dyn Interrupt>,
}

/// Why nothing was typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyboardError {
    /// No driver has switched the keyboard on.
    #[error("the guest does not listen to its keyboard")]
    Deaf,
    /// What was typed before is still there.
    #[error("the guest has not read what was typed before")]
    Full,
}

struct Inner {
    /// Byte 0 of the controller's RAM is the command byte.
    ram: [u8; 32],
    output_port: u8,
    /// The controller's own answer to read, and the status bits that say where it is from.
    answer: Option<(u8, u8)>,
    /// The command that waits for its byte at the data port.
    pending: Option<u8>,
    /// The last write was to the command port.
    last_was_command: bool,
    keyboard: KeyboardState,
}

impl Default for Inner {
    fn default() -> Self {
        let mut ram = [0; 32];
        let [command_byte, ..] = &mut ram;
        *command_byte = DEFAULT_COMMAND_BYTE;
        Self {
            ram,
            output_port: DEFAULT_OUTPUT_PORT,
            answer: None,
            pending: None,
            last_was_command: false,
            keyboard: KeyboardState::default(),
        }
    }
}

impl I8042 {
    /// The data port.
    pub const DATA_PORT: u16 = 0x60;
    /// The command and status port.
    pub const COMMAND_PORT: u16 = 0x64;

    /// Its interrupt line.
    pub const IRQ: u32 = 1;

    /// A controller that has passed its self-test. `interrupt` is wired to [`IRQ`](Self::IRQ).
    pub fn new(interrupt: Arc<dyn Interrupt>) -> Self {
        Self { inner: Mutex::default(), interrupt }
    }

    /// Types Ctrl-Alt-Del. What comes of it is up to the guest: Linux resets at once, or leaves it to its first process.
    ///
    /// # Errors
    /// [`KeyboardError`]; then nothing was typed.
    pub fn ctrl_alt_del(&self) -> Result<(), KeyboardError> {
        let mut inner = lock(&self.inner);
        if !inner.keyboard_is_on() || !inner.keyboard.scanning {
            return Err(KeyboardError::Deaf);
        }
        let translated = inner.translates();
        if !inner.keyboard.ctrl_alt_del(translated) {
            return Err(KeyboardError::Full);
        }
        self.signal(&inner);
        Ok(())
    }

    /// The controller as a device of one port, to be put at [`DATA_PORT`](Self::DATA_PORT).
    pub fn data_port(self: &Arc<Self>) -> I8042Port {
        I8042Port { controller: self.clone(), offset: 0 }
    }

    /// The controller as a device of one port, to be put at [`COMMAND_PORT`](Self::COMMAND_PORT).
    pub fn command_port(self: &Arc<Self>) -> I8042Port {
        I8042Port { controller: self.clone(), offset: 4 }
    }

    /// The guest reads from `offset` on: 0 is the data port, 4 the status; others read as all ones.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        let mut inner = lock(&self.inner);
        bytes::read(offset, data, |at| match at {
            0 => {
                let byte = inner.read_data();
                // The next one, if there is one, is an edge of its own.
                self.signal(&inner);
                byte
            }
            4 => inner.status(),
            _ => 0xff,
        });
    }

    /// The guest writes from `offset` on: 0 is the data port, 4 the command port. [`Effect::Reset`] when it pulls
    /// the reset line.
    pub fn write(&self, offset: u64, data: &[u8]) -> Effect {
        let mut inner = lock(&self.inner);
        let effect = bytes::write(offset, data, |at, value| match at {
            0 => inner.write_data(value),
            4 => inner.command(value),
            _ => Effect::None,
        });
        self.signal(&inner);
        effect
    }

    /// Signals the interrupt if the driver wants it and has something to read. Once too often does no harm: a driver looks
    /// at the status first.
    fn signal(&self, inner: &Inner) {
        if inner.command_byte() & COMMAND_INTERRUPT != 0 && inner.status() & STATUS_OUTPUT_FULL != 0 {
            self.interrupt.trigger();
        }
    }
}

impl Inner {
    fn command_byte(&self) -> u8 {
        let [command_byte, ..] = self.ram;
        command_byte
    }

    fn keyboard_is_on(&self) -> bool {
        self.command_byte() & COMMAND_DISABLED == 0
    }

    fn translates(&self) -> bool {
        self.command_byte() & COMMAND_TRANSLATE != 0
    }

    fn status(&self) -> u8 {
        let output = match self.answer {
            Some((_, from)) => STATUS_OUTPUT_FULL | from,
            None if self.keyboard_is_on() && self.keyboard.is_ready() => STATUS_OUTPUT_FULL,
            None => 0,
        };
        let command = if self.last_was_command { STATUS_COMMAND } else { 0 };
        STATUS_UNLOCKED | self.command_byte() & STATUS_SYSTEM | command | output
    }

    fn read_data(&mut self) -> u8 {
        match self.answer.take() {
            Some((byte, _)) => byte,
            None if self.keyboard_is_on() => self.keyboard.take().unwrap_or(0),
            None => 0,
        }
    }

    /// An answer replaces one that nobody has read, so that it can never be taken for another command's.
    fn answer(&mut self, byte: u8, from: u8) -> Effect {
        self.answer = Some((byte, from));
        Effect::None
    }

    fn ram_at(&mut self, command: u8) -> Option<&mut u8> {
        self.ram.get_mut(usize::from(command & 0x1f))
    }

    fn command(&mut self, command: u8) -> Effect {
        self.last_was_command = true;
        self.pending = None;
        match command {
            0x20..=0x3f => {
                let byte = self.ram_at(command).map_or(0, |byte| *byte);
                self.answer(byte, 0)
            }
            // Write RAM, write the output port, loop a byte round (2), write to the auxiliary device.
            0x60..=0x7f | 0xd1..=0xd4 => {
                self.pending = Some(command);
                Effect::None
            }
            // Disable and enable the auxiliary port, then the keyboard port: bits 5 and 4 of the command byte.
            0xa7 => self.change_command_byte(0, 0x20),
            0xa8 => self.change_command_byte(0x20, 0),
            0xad => self.change_command_byte(0, 0x10),
            0xae => self.change_command_byte(0x10, 0),
            // Test the auxiliary port: its clock line is stuck, so there is none.
            0xa9 => self.answer(0x01, 0),
            // Self-test: passed.
            0xaa => {
                let _ = self.change_command_byte(0xff, DEFAULT_COMMAND_BYTE);
                self.answer(0x55, 0)
            }
            // Test the keyboard port's lines: good.
            0xab => self.answer(0x00, 0),
            // Read the input port: not locked.
            0xc0 => self.answer(0x80, 0),
            0xd0 => self.answer(self.output_port, 0),
            // Pulse those lines of the output port whose bit is 0; that of bit 0 is the reset.
            0xf0..=0xff if command & OUTPUT_NO_RESET == 0 => Effect::Reset,
            _ => Effect::None,
        }
    }

    fn change_command_byte(&mut self, clear: u8, set: u8) -> Effect {
        let [command_byte, ..] = &mut self.ram;
        *command_byte = *command_byte & !clear | set;
        Effect::None
    }

    fn write_data(&mut self, value: u8) -> Effect {
        self.last_was_command = false;
        match self.pending.take() {
            // For the keyboard; sending to it switches its port on.
            None => {
                let translated = self.translates();
                self.keyboard.receive(value, translated);
                self.change_command_byte(COMMAND_DISABLED, 0)
            }
            Some(0xd1) => {
                self.output_port = value | OUTPUT_NO_RESET;
                if value & OUTPUT_NO_RESET == 0 { Effect::Reset } else { Effect::None }
            }
            Some(0xd2) => self.answer(value, 0),
            // The auxiliary port's loop: not marked as from there, as there is no such port.
            Some(0xd3) => self.answer(value, 0),
            Some(0xd4) => self.answer(RESEND, STATUS_AUXILIARY | STATUS_TIMEOUT),
            Some(command) => {
                if let Some(byte) = self.ram_at(command) {
                    *byte = value;
                }
                Effect::None
            }
        }
    }
}

#[cfg(test)]
mod tests;
