use crate::bytes::{self, lock};
use drystone_bus::{BusDevice, Effect};
use drystone_state::{Component, ComponentError, Persist, PersistDyn, RestoreError, SaveError, Schema};
use serde::{Deserialize, Serialize};
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

/// Command byte when built: self-test passed, both ports disabled, no interrupts.
const DEFAULT_COMMAND_BYTE: u8 = 0x34;
/// Output port when built: no reset, A20 open.
const DEFAULT_OUTPUT_PORT: u8 = 0x03;
/// Output port: the reset line; low resets.
const OUTPUT_NO_RESET: u8 = 0x01;
/// What a device that is not there is said to have answered.
const RESEND: u8 = 0xfe;

/// The keyboard controller of a PC (data port 0x60, command and status port 0x64), with nothing plugged in.
///
/// It is there for its reset line: command 0xfe, which Linux writes for `reboot=k` and as a last resort. Who probes
/// it finds a controller that answers its commands at once, an auxiliary port that fails its test, and a keyboard
/// port whose device does not answer. It has no interrupts.
///
/// A probe costs exits, so a VMM better says in ACPI that there is none: the 8042 bit (bit 1) of the FADT's
/// IAPC_BOOT_ARCH clear (ACPI 6.5, 5.2.9.3) and no PNP0303 device, which is why this has no AML. Linux then leaves
/// its ports alone until it reboots.
///
/// Offsets count from 0x60. Put the two ports on a bus with [`data_port`](Self::data_port) and
/// [`command_port`](Self::command_port): what is between them is others'.
#[derive(Default)]
pub struct I8042(Mutex<Inner>);

struct Inner {
    /// Byte 0 of the controller's RAM is the command byte.
    ram: [u8; 32],
    output_port: u8,
    /// The byte to read, and the status bits that say where it is from.
    output: Option<(u8, u8)>,
    /// The command that waits for its byte at the data port.
    pending: Option<u8>,
    /// The last write was to the command port.
    last_was_command: bool,
}

impl Default for Inner {
    fn default() -> Self {
        let mut ram = [0; 32];
        let [command_byte, ..] = &mut ram;
        *command_byte = DEFAULT_COMMAND_BYTE;
        Self { ram, output_port: DEFAULT_OUTPUT_PORT, output: None, pending: None, last_was_command: false }
    }
}

impl I8042 {
    /// The data port.
    pub const DATA_PORT: u16 = 0x60;
    /// The command and status port.
    pub const COMMAND_PORT: u16 = 0x64;

    /// A controller that has passed its self-test.
    pub fn new() -> Self {
        Self::default()
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
        let mut inner = lock(&self.0);
        bytes::read(offset, data, |at| match at {
            0 => inner.read_data(),
            4 => inner.status(),
            _ => 0xff,
        });
    }

    /// The guest writes from `offset` on: 0 is the data port, 4 the command port. [`Effect::Reset`] when it pulls
    /// the reset line.
    pub fn write(&self, offset: u64, data: &[u8]) -> Effect {
        let mut inner = lock(&self.0);
        bytes::write(offset, data, |at, value| match at {
            0 => inner.write_data(value),
            4 => inner.command(value),
            _ => Effect::None,
        })
    }
}

impl Inner {
    fn command_byte(&self) -> u8 {
        let [command_byte, ..] = self.ram;
        command_byte
    }

    fn status(&self) -> u8 {
        let output = self.output.map_or(0, |(_, from)| STATUS_OUTPUT_FULL | from);
        let command = if self.last_was_command { STATUS_COMMAND } else { 0 };
        STATUS_UNLOCKED | self.command_byte() & STATUS_SYSTEM | command | output
    }

    fn read_data(&mut self) -> u8 {
        self.output.take().map_or(0, |(byte, _)| byte)
    }

    /// An answer replaces one that nobody has read, so that it can never be taken for another command's.
    fn answer(&mut self, byte: u8, from: u8) -> Effect {
        self.output = Some((byte, from));
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
            // For the keyboard.
            None => self.answer(RESEND, STATUS_TIMEOUT),
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

/// One of the two ports of an [`I8042`], as a device of its own.
#[derive(Clone)]
pub struct I8042Port {
    controller: Arc<I8042>,
    offset: u64,
}

impl BusDevice for I8042Port {
    fn read(&self, offset: u64, data: &mut [u8]) {
        // One byte wide: what is beyond it is not ours.
        if offset == 0
            && let Some(byte) = data.first_chunk_mut::<1>()
        {
            self.controller.read(self.offset, byte);
        }
    }
    fn write(&self, offset: u64, data: &[u8]) -> Effect {
        match data.first_chunk::<1>() {
            Some(byte) if offset == 0 => self.controller.write(self.offset, byte),
            _ => Effect::None,
        }
    }
}

impl Component for I8042 {
    fn pause(&self) -> Result<(), ComponentError> {
        Ok(())
    }
    fn resume(&self) -> Result<(), ComponentError> {
        Ok(())
    }
    fn reset(&self) -> Result<(), ComponentError> {
        let mut inner = lock(&self.0);
        let Inner { ram, output_port, output, pending, last_was_command } = &mut *inner;
        let fresh = Inner::default();
        *ram = fresh.ram;
        *output_port = fresh.output_port;
        *output = fresh.output;
        *pending = fresh.pending;
        *last_was_command = fresh.last_was_command;
        Ok(())
    }
    fn persist(&self) -> Option<&dyn PersistDyn> {
        Some(self)
    }
}

/// The saved state of an [`I8042`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct I8042State {
    /// The controller's RAM; byte 0 is the command byte.
    pub ram: [u8; 32],
    /// The output port.
    pub output_port: u8,
    /// The byte to read at the data port, and the status bits that belong to it.
    pub output: Option<(u8, u8)>,
    /// The command that waits for a byte.
    pub pending: Option<u8>,
    /// Whether the last write was to the command port.
    pub last_was_command: bool,
}

impl Schema for I8042State {
    const KIND: &'static str = "i8042";
    const VERSION: u32 = 1;
}

impl Persist for I8042 {
    type State = I8042State;

    fn save(&self) -> Result<I8042State, SaveError> {
        let Inner { ram, output_port, output, pending, last_was_command } = &*lock(&self.0);
        Ok(I8042State {
            ram: *ram,
            output_port: *output_port,
            output: *output,
            pending: *pending,
            last_was_command: *last_was_command,
        })
    }

    fn restore(&self, state: I8042State) -> Result<(), RestoreError> {
        let invalid = |cause| RestoreError::Invalid { kind: I8042State::KIND, cause };
        if let Some(command) = state.pending.filter(|c| !matches!(c, 0x60..=0x7f | 0xd1..=0xd4)) {
            return Err(invalid(format!("command {command:#x} does not wait for a byte")));
        }
        if let Some((_, from)) = state.output.filter(|(_, f)| f & !(STATUS_AUXILIARY | STATUS_TIMEOUT) != 0) {
            return Err(invalid(format!("status bits {from:#x} do not belong to a byte")));
        }
        let I8042State { ram, output_port, output, pending, last_was_command } = state;
        *lock(&self.0) = Inner { ram, output_port, output, pending, last_was_command };
        Ok(())
    }
}

#[cfg(test)]
mod tests;
