use super::uart::TRANSMIT_FIFO;
use serde::{Deserialize, Serialize};
use std::io;

/// The largest output buffer that may be asked for.
const MAX_OUTPUT_BUFFER: usize = 16 << 20;

/// The settings of a [`Serial`](super::Serial). Absent ones take the values of the first serial port of a PC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SerialConfig {
    /// First I/O port; 0x3f8 for COM1. The port takes [`Serial::LEN`](super::Serial::LEN) ports.
    pub base: u16,
    /// Global system interrupt that the AML names; 4 for COM1. Whoever makes the `Interrupt` wires it there.
    pub irq: u32,
    /// Number of the port, from 0 to 3: its ACPI `_UID` and its name, `COM1` to `COM4`.
    pub index: u8,
    /// How many bytes of output may wait to be taken: 32 to 16 MiB. 64 KiB if not given.
    pub output_buffer: usize,
}

impl Default for SerialConfig {
    fn default() -> Self {
        Self { base: 0x3f8, irq: 4, index: 0, output_buffer: 64 << 10 }
    }
}

impl SerialConfig {
    pub(super) fn check(&self) -> Result<(), SerialError> {
        let bad = |cause: String| Err(SerialError::Config(cause));
        if self.base > 0xfff8 {
            return bad(format!("base {:#x}: its 8 ports end past the last one", self.base));
        }
        if self.index > 3 {
            return bad(format!("index {}: only 0 to 3 have a name", self.index));
        }
        if !(2 * TRANSMIT_FIFO..=MAX_OUTPUT_BUFFER).contains(&self.output_buffer) {
            return bad(format!("output_buffer {}: must be 32 bytes to 16 MiB", self.output_buffer));
        }
        Ok(())
    }
}

/// Why a serial port could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SerialError {
    /// A setting is out of range; says which, and what is allowed.
    #[error("serial port: {0}")]
    Config(String),
    /// The event for waiting writers could not be made.
    #[error("serial port: cannot make an eventfd: {0}")]
    Event(#[source] io::Error),
}
