//! The first serial port, a 16550A or an older kind (data sheet PC16550D).

use crate::sys;
use core::fmt;

const BASE: u16 = 0x3f8;
const DATA: u16 = BASE;
const INTERRUPT_ENABLE: u16 = BASE + 1;
/// Reads as interrupt identification, writes as FIFO control.
const FIFO: u16 = BASE + 2;
const LINE_CONTROL: u16 = BASE + 3;
const MODEM_CONTROL: u16 = BASE + 4;
const LINE_STATUS: u16 = BASE + 5;
const SCRATCH: u16 = BASE + 7;

const DATA_READY: u8 = 1;
const CAN_SEND: u8 = 1 << 5;
/// As many times a byte's way out is looked at; one that never gets free must not stop everything.
const PATIENCE: u32 = 1_000_000;

/// Where the guest talks.
pub struct Console;

impl Console {
    /// Eight bits, FIFOs on, interrupts on for what is received, and their line connected (OUT2).
    pub fn new() -> Self {
        sys::write_port(LINE_CONTROL, 3);
        sys::write_port(FIFO, 1);
        sys::write_port(MODEM_CONTROL, 0b1011);
        sys::write_port(INTERRUPT_ENABLE, 1);
        Self
    }

    /// What kind of port it is, as it shows itself.
    pub fn kind(&self) -> &'static str {
        let keeps = |value| {
            sys::write_port(SCRATCH, value);
            sys::read_port(SCRATCH) == value
        };
        if !(keeps(0x5a) && keeps(0xa5)) {
            return "8250, or none";
        }
        match sys::read_port(FIFO) >> 6 {
            0b11 => "16550A, FIFOs on",
            0b10 => "16550",
            _ => "16450",
        }
    }

    /// The next byte that was typed, if there is one.
    pub fn read(&mut self) -> Option<u8> {
        (sys::read_port(LINE_STATUS) & DATA_READY != 0).then(|| sys::read_port(DATA))
    }

    fn write(&mut self, byte: u8) {
        let _ = (0..PATIENCE).find(|_| sys::read_port(LINE_STATUS) & CAN_SEND != 0);
        sys::write_port(DATA, byte);
    }
}

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.write(b'\r');
            }
            self.write(byte);
        }
        Ok(())
    }
}
