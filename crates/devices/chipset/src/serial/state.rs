use super::uart::RECEIVE_FIFO;
use drystone_state::{RestoreError, Schema};
use serde::{Deserialize, Serialize};

/// The saved state of a [`Serial`](super::Serial): its registers and its receive FIFO.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SerialState {
    /// Divisor latch, low and high byte.
    pub divisor: [u8; 2],
    /// Interrupt enable register.
    pub interrupt_enable: u8,
    /// FIFO control register, without the bits that clear themselves.
    pub fifo_control: u8,
    /// Line control register.
    pub line_control: u8,
    /// Modem control register.
    pub modem_control: u8,
    /// Scratch register.
    pub scratch: u8,
    /// "Transmitter empty" is to be reported.
    pub transmitter_empty: bool,
    /// How the driver uses RTS.
    pub request_to_send: RequestToSend,
    /// Bytes typed and not yet read.
    pub received: Vec<u8>,
    /// Bytes that came round in loopback and were not yet read.
    pub loopback: Vec<u8>,
}

/// What the driver has said about RTS (request to send, by now "ready to receive") since reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestToSend {
    /// It has not written the modem control register: a driver so small that it surely knows no flow control.
    Untouched,
    /// It has set the port up without raising RTS.
    NeverRaised,
    /// RTS is up.
    Raised,
    /// RTS was up and is down.
    Lowered,
}

impl Schema for SerialState {
    const KIND: &'static str = "serial";
    const VERSION: u32 = 1;
}

impl SerialState {
    /// Refuses what no save can have written.
    pub(super) fn check(&self) -> Result<(), RestoreError> {
        let within = [
            ("interrupt_enable", usize::from(self.interrupt_enable), 0x0f),
            ("modem_control", usize::from(self.modem_control), 0x1f),
            ("length of received", self.received.len(), RECEIVE_FIFO),
            ("length of loopback", self.loopback.len(), RECEIVE_FIFO),
        ];
        for (what, value, most) in within {
            if value > most {
                return Err(invalid(format!("{what} is {value}, at most {most} is possible")));
            }
        }
        Ok(())
    }
}

pub(super) fn invalid(cause: String) -> RestoreError {
    RestoreError::Invalid { kind: SerialState::KIND, cause }
}
