//! Any accesses to the serial port, mixed with typing, taking, pausing, resetting and moving to another machine.

use super::input::Input;
use drystone_bus::{Effect, Interrupt};
use drystone_chipset::{
    RequestToSend, Serial, SerialConfig, SerialInput, SerialOutput, SerialParts, SerialState, Taken,
};
use drystone_state::{Component, Persist};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const STEPS: usize = 4096;
const OUTPUT_BUFFER: usize = 64;
/// What a driver may write at once when it has seen an empty transmitter.
const TRANSMIT_FIFO: usize = 16;

#[derive(Default)]
struct Edges(AtomicU64);
impl Interrupt for Edges {
    fn trigger(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

struct Machine {
    serial: Serial,
    input: SerialInput,
    output: Option<SerialOutput>,
    edges: Arc<Edges>,
    paused: bool,
    /// What the guest has sent and nobody has taken.
    sent: Vec<u8>,
}

/// Runs `data` as a list of steps.
///
/// # Panics
/// If a typed byte is lost, doubled or reordered; if output is, that was written when the port was ready or is not
/// counted as dropped; if a driver that waits for an interrupt is not woken; if more is buffered than may be; if a
/// port and its restored copy differ; if an access has an effect on the machine.
pub fn serial(data: &[u8]) {
    let mut input = Input::new(data);
    let mut machine = Machine::new();
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        machine.step(&mut input);
    }
    machine.settle();
}

impl Machine {
    fn new() -> Self {
        let edges = Arc::new(Edges::default());
        let config = SerialConfig { output_buffer: OUTPUT_BUFFER, ..Default::default() };
        let SerialParts { serial, input, output } = Serial::build(config, edges.clone()).unwrap();
        Self { serial, input, output: Some(output), edges, paused: false, sent: Vec::new() }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.u8() % 16 {
            0..=3 => self.write(input.u8() % 8, input.u8()),
            4..=6 => {
                self.read(input.u8() % 8);
            }
            7 => self.wide(input),
            8 => {
                let max = input.u8();
                self.type_in(input.take(max.into()));
            }
            9 => self.take(),
            10 => {
                let max = usize::from(input.u8()) % TRANSMIT_FIFO + 1;
                self.write_when_ready(input.take(max));
            }
            11 => self.move_away(),
            12 => self.reset(),
            13 => self.pause(input.u8() & 1 == 0),
            14 => self.restore_anything(input),
            // Rarely, as there is little to see after it.
            _ if input.u8() == 0 => self.output = None,
            _ => {}
        }
        self.check();
    }

    fn state(&self) -> SerialState {
        self.serial.save().unwrap()
    }

    /// What must hold whatever was done.
    fn check(&self) {
        let state = self.state();
        assert!(state.received.len() <= Serial::RECEIVE_FIFO && state.loopback.len() <= Serial::RECEIVE_FIFO);
        assert!(self.sent.len() <= OUTPUT_BUFFER, "more output is kept than the buffer may hold");
    }

    fn read(&self, register: u8) -> u8 {
        if self.paused {
            return 0;
        }
        let before = self.state();
        let mut value = [0];
        self.serial.read(register.into(), &mut value);
        let received = self.state().received;
        let typed = register == 0 && received.len() < before.received.len();
        if typed {
            assert_eq!(([&value[..], &received].concat(), before.line_control & 0x80), (before.received, 0));
        } else {
            assert_eq!(received, before.received, "reading register {register} changed what was typed");
        }
        value[0]
    }

    fn write(&mut self, register: u8, value: u8) {
        if self.paused {
            return;
        }
        let (before, dropped) = (self.state(), self.serial.dropped());
        assert_eq!(self.serial.write(register.into(), &[value]), Effect::None);
        assert_eq!(self.state().received, before.received, "a write changed what was typed");
        let transmits = register == 0 && before.line_control & 0x80 == 0 && before.modem_control & 0x10 == 0;
        match self.serial.dropped() - dropped {
            0 if transmits && self.output.is_some() => self.sent.push(value),
            0 => {}
            1 => assert!(transmits && self.sent.len() == OUTPUT_BUFFER, "dropped though there was room"),
            more => panic!("one write dropped {more} bytes"),
        }
    }

    /// Several bytes at once, anywhere but at the data register.
    fn wide(&self, input: &mut Input<'_>) {
        if self.paused {
            return;
        }
        let before = self.state().received;
        let offset = match input.u8() {
            0 => input.u64().max(1),
            near => u64::from(near),
        };
        let mut bytes = input.take(8).to_vec();
        assert_eq!(self.serial.write(offset, &bytes), Effect::None);
        self.serial.read(offset, &mut bytes);
        assert_eq!(self.state().received, before, "only the data register takes what was typed");
    }

    fn type_in(&self, data: &[u8]) {
        let before = self.state().received;
        let taken = self.input.push(data);
        let room = if self.paused { 0 } else { Serial::RECEIVE_FIFO - before.len() };
        assert_eq!(taken, data.len().min(room));
        assert_eq!(self.state().received, [before.as_slice(), &data[..taken]].concat());
        if taken < data.len() {
            assert!(!self.input.wait(Duration::ZERO), "there is no room");
        }
    }

    fn take(&mut self) {
        let Some(output) = &self.output else { return };
        let mut taken = Vec::new();
        let said = output.take(&mut taken, Duration::ZERO);
        assert_eq!(said == Taken::TimedOut, taken.is_empty());
        assert_eq!(taken, std::mem::take(&mut self.sent), "output is complete and in order");
    }

    fn write_when_ready(&mut self, data: &[u8]) {
        if self.paused || self.read(5) & 0x20 == 0 {
            return;
        }
        let dropped = self.serial.dropped();
        for byte in data {
            self.write(0, *byte);
        }
        assert_eq!(self.serial.dropped(), dropped, "dropped though the transmitter was empty");
    }

    /// Goes on in a restored copy.
    fn move_away(&mut self) {
        self.pause(true);
        self.take();
        let state = self.state();
        let new = Self::new();
        new.serial.restore(state.clone()).unwrap();
        assert_eq!(new.state(), state);
        let open = self.output.is_some();
        *self = new;
        if !open {
            self.output = None;
        }
    }

    fn reset(&mut self) {
        self.pause(true);
        self.serial.reset().unwrap();
        assert_eq!(SerialState { transmitter_empty: false, ..self.state() }, Self::new().state());
        self.pause(false);
    }

    fn pause(&mut self, paused: bool) {
        let done = if paused { self.serial.pause() } else { self.serial.resume() };
        done.unwrap();
        self.paused = paused;
    }

    /// A state out of nowhere is refused whole, or taken.
    fn restore_anything(&mut self, input: &mut Input<'_>) {
        let rts = [
            RequestToSend::Untouched,
            RequestToSend::NeverRaised,
            RequestToSend::Raised,
            RequestToSend::Lowered,
        ];
        let state = SerialState {
            divisor: [input.u8(), input.u8()],
            interrupt_enable: input.u8(),
            fifo_control: input.u8(),
            line_control: input.u8(),
            modem_control: input.u8(),
            scratch: input.u8(),
            transmitter_empty: input.u8() & 1 == 0,
            request_to_send: rts[usize::from(input.u8() % 4)],
            received: vec![input.u8(); input.u8().into()],
            loopback: vec![input.u8(); input.u8().into()],
        };
        let new = Self::new();
        let before = new.state();
        match new.serial.restore(state) {
            Ok(()) => *self = new,
            Err(_) => assert_eq!(new.state(), before),
        }
    }

    /// Whatever came before, a driver that now takes the port over gets all that was typed, and may send.
    fn settle(&mut self) {
        self.pause(false);
        self.take();
        self.write(3, 0x03);
        self.write(4, 0x0b);
        self.write(2, 0x03);
        self.write(1, 0x00);
        let typed = self.state().received;
        self.edges.0.store(0, Ordering::Relaxed);
        self.write(1, 0x01);
        assert_eq!(
            self.edges.0.load(Ordering::Relaxed) > 0,
            !typed.is_empty(),
            "an interrupt for what was typed"
        );
        let mut read = Vec::new();
        while self.read(5) & 0x01 != 0 {
            read.push(self.read(0));
        }
        assert_eq!(read, typed);
        assert!(self.input.wait(Duration::ZERO), "all is read, so there is room");
        self.edges.0.store(0, Ordering::Relaxed);
        self.write(1, 0x03);
        assert_eq!((self.edges.0.load(Ordering::Relaxed), self.read(2)), (1, 0xc2), "an interrupt to send");
    }
}
