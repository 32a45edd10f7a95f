//! The guest's side of the port: registers, interrupt line, flow control.

use super::state::{RequestToSend, SerialState, invalid};
use drystone_bus::Interrupt;
use drystone_state::RestoreError;
use std::collections::VecDeque;
use std::io::Sink;
use vm_superio::serial::NoEvents;

/// How many received bytes wait for the guest at most.
pub(super) const RECEIVE_FIFO: usize = 64;
/// How many bytes a driver of a 16550A writes at once when it is told that the transmitter is empty.
pub(super) const TRANSMIT_FIFO: usize = 16;

const DATA: u8 = 0;
const INTERRUPT_ENABLE: u8 = 1;
/// Read: interrupt identification. Written: FIFO control.
const IDENTIFICATION: u8 = 2;
const LINE_CONTROL: u8 = 3;
const MODEM_CONTROL: u8 = 4;
const LINE_STATUS: u8 = 5;

const IER_RECEIVED: u8 = 0x01;
const IER_TRANSMITTER_EMPTY: u8 = 0x02;
const IIR_NONE: u8 = 0x01;
const IIR_TRANSMITTER_EMPTY: u8 = 0x02;
const IIR_RECEIVED: u8 = 0x04;
const IIR_FIFO_ENABLED: u8 = 0xc0;
const FCR_ENABLE: u8 = 0x01;
const FCR_CLEAR_RECEIVER: u8 = 0x02;
/// Receive trigger level and FIFO enable; the others clear themselves or belong to later chips.
const FCR_KEPT: u8 = 0xc1;
const LCR_DIVISOR_LATCH: u8 = 0x80;
const MCR_RTS: u8 = 0x02;
const MCR_LOOP: u8 = 0x10;
/// A 16550A has these; the others read as zero.
const MCR_KEPT: u8 = 0x1f;
const LSR_DATA_READY: u8 = 0x01;
/// Transmit holding register and shift register empty.
const LSR_EMPTY: u8 = 0x60;

/// vm-superio is given no line of its own: it would raise it for conditions that it alone sees.
struct NoLine;
impl vm_superio::Trigger for NoLine {
    type E = std::convert::Infallible;
    fn trigger(&self) -> Result<(), Self::E> {
        Ok(())
    }
}
type Registers = vm_superio::Serial<NoLine, NoEvents, Sink>;

pub(super) struct Uart {
    /// Register file, and the way round in loopback. Neither typed nor transmitted bytes pass through it.
    registers: Registers,
    fifo_control: u8,
    /// "Transmitter empty" is to be reported; set when it becomes empty, cleared by reporting it.
    transmitter_empty: bool,
    rts: RequestToSend,
    received: VecDeque<u8>,
    /// The level of the interrupt output. Only its rising edge is signalled.
    line: bool,
    output: Output,
}

struct Output {
    buffer: VecDeque<u8>,
    capacity: usize,
    /// Too little room for another transmit FIFO: the guest sees a transmitter that is not empty.
    stalled: bool,
    /// Nobody takes it any more.
    discard: bool,
    /// Bytes written while there was no room.
    dropped: u64,
}

impl Uart {
    pub fn new(capacity: usize) -> Self {
        Self {
            registers: fresh_registers(),
            fifo_control: 0,
            transmitter_empty: false,
            rts: RequestToSend::Untouched,
            received: VecDeque::new(),
            line: false,
            output: Output { buffer: VecDeque::new(), capacity, stalled: false, discard: false, dropped: 0 },
        }
    }

    pub fn reset(&mut self) {
        let Self { registers, fifo_control, transmitter_empty, rts, received, line, output } = self;
        *registers = fresh_registers();
        *fifo_control = 0;
        *transmitter_empty = false;
        *rts = RequestToSend::Untouched;
        received.clear();
        *line = false;
        // What the guest has sent is on its way; it stalls the next driver as it did the last.
        let Output { buffer: _, capacity: _, stalled: _, discard: _, dropped: _ } = output;
    }

    pub fn read(&mut self, offset: u64, interrupt: &dyn Interrupt) -> u8 {
        let Ok(register) = u8::try_from(offset) else { return 0xff };
        let value = match register {
            DATA if !self.divisor_latch() => self.read_data(),
            IDENTIFICATION => self.identify(),
            LINE_STATUS => self.line_status(),
            0..=7 => self.registers.read(register),
            _ => 0xff,
        };
        self.update_line(interrupt);
        value
    }

    pub fn write(&mut self, offset: u64, value: u8, interrupt: &dyn Interrupt) {
        let Ok(register) = u8::try_from(offset) else { return };
        match register {
            DATA if !self.divisor_latch() => self.transmit(value),
            INTERRUPT_ENABLE if !self.divisor_latch() => self.enable_interrupts(value),
            IDENTIFICATION => self.control_fifo(value),
            MODEM_CONTROL => self.control_modem(value & MCR_KEPT),
            _ => self.set(register, value),
        }
        self.update_line(interrupt);
    }

    /// Takes typed bytes in, as many as there is room for.
    pub fn receive(&mut self, data: &[u8], interrupt: &dyn Interrupt) -> usize {
        let taken = data.len().min(self.receive_room());
        self.received.extend(data.iter().take(taken));
        self.update_line(interrupt);
        taken
    }

    pub fn receive_room(&self) -> usize {
        RECEIVE_FIFO.saturating_sub(self.received.len())
    }

    pub fn has_output(&self) -> bool {
        !self.output.buffer.is_empty()
    }

    pub fn dropped(&self) -> u64 {
        self.output.dropped
    }

    /// Moves the output out. The guest does not see it before [`output_taken`](Self::output_taken).
    pub fn take_output(&mut self, into: &mut Vec<u8>) -> usize {
        let taken = self.output.buffer.len();
        into.extend(self.output.buffer.drain(..));
        taken
    }

    /// Lets a stalled guest go on, if there is room for a transmit FIFO.
    pub fn output_taken(&mut self, interrupt: &dyn Interrupt) {
        if self.output.stalled && (self.output.discard || self.output.room() >= TRANSMIT_FIFO) {
            self.output.stalled = false;
            self.transmitter_empty = true;
            self.update_line(interrupt);
        }
    }

    /// From now on nobody takes further output.
    pub fn discard_output(&mut self, paused: bool, interrupt: &dyn Interrupt) {
        self.output.discard = true;
        if !paused {
            self.output_taken(interrupt);
        }
    }

    pub fn save(&self) -> SerialState {
        let registers = self.registers.state();
        SerialState {
            divisor: [registers.baud_divisor_low, registers.baud_divisor_high],
            interrupt_enable: registers.interrupt_enable,
            fifo_control: self.fifo_control,
            line_control: registers.line_control,
            modem_control: registers.modem_control,
            scratch: registers.scratch,
            // Where it is restored the buffer is empty, so a stalled guest may go on there.
            transmitter_empty: self.transmitter_empty || self.output.stalled,
            request_to_send: self.rts,
            received: self.received.iter().copied().collect(),
            loopback: registers.in_buffer,
        }
    }

    pub fn restore(&mut self, state: SerialState, interrupt: &dyn Interrupt) -> Result<(), RestoreError> {
        state.check()?;
        let [baud_divisor_low, baud_divisor_high] = state.divisor;
        let ready = if state.loopback.is_empty() { 0 } else { LSR_DATA_READY };
        let registers = vm_superio::SerialState {
            baud_divisor_low,
            baud_divisor_high,
            interrupt_enable: state.interrupt_enable,
            line_control: state.line_control,
            modem_control: state.modem_control,
            line_status: LSR_EMPTY | ready,
            scratch: state.scratch,
            in_buffer: state.loopback,
            ..Default::default()
        };
        self.registers = Registers::from_state(&registers, NoLine, NoEvents, std::io::sink())
            .map_err(|e| invalid(e.to_string()))?;
        self.fifo_control = state.fifo_control & FCR_KEPT;
        self.transmitter_empty = state.transmitter_empty;
        self.rts = state.request_to_send;
        self.received = state.received.into();
        // A line that was up rises again: one interrupt too many is nothing, one too few hangs the driver.
        self.line = false;
        self.update_line(interrupt);
        Ok(())
    }

    fn read_data(&mut self) -> u8 {
        if self.registers.read(LINE_STATUS) & LSR_DATA_READY != 0 {
            return self.registers.read(DATA);
        }
        if self.receiving() { self.received.pop_front().unwrap_or_default() } else { 0 }
    }

    fn identify(&mut self) -> u8 {
        let cause = self.cause();
        if cause == IIR_TRANSMITTER_EMPTY {
            self.transmitter_empty = false;
        }
        let fifo = if self.fifo_control & FCR_ENABLE != 0 { IIR_FIFO_ENABLED } else { 0 };
        cause | fifo
    }

    fn line_status(&mut self) -> u8 {
        let ready = if self.data_ready() { LSR_DATA_READY } else { 0 };
        ready | if self.output.stalled { 0 } else { LSR_EMPTY }
    }

    fn transmit(&mut self, value: u8) {
        if self.looped() {
            self.set(DATA, value);
            self.transmitter_empty = !self.output.stalled;
            return;
        }
        self.output.put(value);
        self.transmitter_empty = !self.output.stalled;
    }

    fn enable_interrupts(&mut self, value: u8) {
        let newly = value & !self.registers.state().interrupt_enable;
        if newly & IER_TRANSMITTER_EMPTY != 0 && !self.output.stalled {
            self.transmitter_empty = true;
        }
        self.set(INTERRUPT_ENABLE, value);
    }

    fn control_fifo(&mut self, value: u8) {
        self.fifo_control = value & FCR_KEPT;
        if value & FCR_CLEAR_RECEIVER == 0 {
            return;
        }
        // vm-superio has no way to clear what came round, other than to read it, which it allows without the latch.
        let line_control = self.registers.read(LINE_CONTROL);
        self.set(LINE_CONTROL, line_control & !LCR_DIVISOR_LATCH);
        while self.registers.read(LINE_STATUS) & LSR_DATA_READY != 0 {
            self.registers.read(DATA);
        }
        self.set(LINE_CONTROL, line_control);
    }

    fn control_modem(&mut self, value: u8) {
        self.set(MODEM_CONTROL, value);
        if value & MCR_LOOP != 0 {
            return; // In loopback the outputs are cut off: it says nothing to the other side.
        }
        self.rts = match (value & MCR_RTS != 0, self.rts) {
            (true, _) => RequestToSend::Raised,
            (false, RequestToSend::Raised | RequestToSend::Lowered) => RequestToSend::Lowered,
            (false, RequestToSend::Untouched | RequestToSend::NeverRaised) => RequestToSend::NeverRaised,
        };
    }

    /// Whether the guest gets to see what was typed.
    fn receiving(&self) -> bool {
        let listens = match self.rts {
            RequestToSend::Untouched | RequestToSend::Raised => true,
            RequestToSend::NeverRaised => self.registers.state().interrupt_enable & IER_RECEIVED != 0,
            RequestToSend::Lowered => false,
        };
        listens && !self.looped()
    }

    fn data_ready(&mut self) -> bool {
        self.registers.read(LINE_STATUS) & LSR_DATA_READY != 0
            || (!self.received.is_empty() && self.receiving())
    }

    /// The interrupt with the highest priority that is both pending and enabled.
    fn cause(&mut self) -> u8 {
        let enabled = self.registers.state().interrupt_enable;
        if enabled & IER_RECEIVED != 0 && self.data_ready() {
            IIR_RECEIVED
        } else if enabled & IER_TRANSMITTER_EMPTY != 0 && self.transmitter_empty {
            IIR_TRANSMITTER_EMPTY
        } else {
            IIR_NONE
        }
    }

    fn update_line(&mut self, interrupt: &dyn Interrupt) {
        let line = self.cause() != IIR_NONE;
        if line && !self.line {
            interrupt.trigger();
        }
        self.line = line;
    }

    fn divisor_latch(&mut self) -> bool {
        self.registers.read(LINE_CONTROL) & LCR_DIVISOR_LATCH != 0
    }

    fn looped(&self) -> bool {
        self.registers.state().modem_control & MCR_LOOP != 0
    }

    /// Writes a register of vm-superio's. That cannot fail: it has no line, and its output is not used.
    fn set(&mut self, register: u8, value: u8) {
        let _ = self.registers.write(register, value);
    }
}

impl Output {
    fn room(&self) -> usize {
        self.capacity.saturating_sub(self.buffer.len())
    }

    fn put(&mut self, value: u8) {
        if self.discard {
            return;
        }
        if self.room() == 0 {
            self.dropped = self.dropped.saturating_add(1);
            return;
        }
        self.buffer.push_back(value);
        self.stalled = self.room() < TRANSMIT_FIFO;
    }
}

fn fresh_registers() -> Registers {
    Registers::new(NoLine, std::io::sink())
}
