//! A guest's driver, the way Linux's goes about it, and the interrupt controller that it needs.

use super::super::*;
use std::time::Duration;

pub const LONG: Duration = Duration::from_secs(120);

/// Counts edges; a driver waits for them.
#[derive(Default)]
pub struct Line {
    edges: Mutex<u64>,
    rose: Condvar,
}

impl Interrupt for Line {
    fn trigger(&self) {
        *lock(&self.edges) += 1;
        self.rose.notify_all();
    }
}

impl Line {
    /// How often it rose since this was asked last.
    pub fn take(&self) -> u64 {
        std::mem::take(&mut lock(&self.edges))
    }

    /// Waits for an edge.
    pub fn wait(&self) {
        let edges = lock(&self.edges);
        let (mut edges, time) = self.rose.wait_timeout_while(edges, LONG, |n| *n == 0).unwrap();
        assert!(!time.timed_out(), "the driver waits for an interrupt that does not come");
        *edges = 0;
    }
}

pub struct Port {
    pub serial: Serial,
    pub input: SerialInput,
    pub output: SerialOutput,
    pub line: Arc<Line>,
}

pub fn port() -> Port {
    port_with(SerialConfig::default())
}

pub fn port_with(config: SerialConfig) -> Port {
    let line = Arc::new(Line::default());
    let SerialParts { serial, input, output } = Serial::build(config, line.clone()).unwrap();
    Port { serial, input, output, line }
}

pub fn inb(serial: &Serial, register: u64) -> u8 {
    let mut data = [0xff];
    serial.read(register, &mut data);
    data[0]
}

pub fn outb(serial: &Serial, register: u64, value: u8) {
    assert_eq!(serial.write(register, &[value]), Effect::None);
}

/// What the driver does when the guest's kernel finds the port.
pub fn probe(serial: &Serial) {
    let mcr = inb(serial, 4);
    outb(serial, 4, 0x1a);
    assert_eq!(inb(serial, 6) & 0xf0, 0x90, "the loopback test");
    outb(serial, 4, mcr);
    clear_fifos(serial);
    inb(serial, 0);
    outb(serial, 1, 0);
}

/// What it does when a program opens it: clear all, read away what is there, test the transmit interrupt, listen.
pub fn open(serial: &Serial) {
    clear_fifos(serial);
    read_away(serial);
    outb(serial, 3, 0x03);
    outb(serial, 4, 0x08);
    for _ in 0..2 {
        outb(serial, 1, 0x02);
        assert_eq!(inb(serial, 2) & 0x0f, 0x02, "enabling the transmit interrupt raises it");
        outb(serial, 1, 0x00);
    }
    read_away(serial);
    outb(serial, 1, 0x05);
    outb(serial, 2, 0x81);
    outb(serial, 4, 0x0b);
}

/// What it does when the last program closes it.
pub fn close(serial: &Serial) {
    outb(serial, 4, 0x08);
    outb(serial, 1, 0x00);
    clear_fifos(serial);
    inb(serial, 0);
}

fn clear_fifos(serial: &Serial) {
    for value in [0x01, 0x07, 0x00] {
        outb(serial, 2, value);
    }
}

fn read_away(serial: &Serial) {
    for register in [5, 0, 2, 6] {
        inb(serial, register);
    }
}

/// The interrupt handler: serves the port until it names no cause, and returns what it received. Sends from `to_send`.
pub fn handle(serial: &Serial, to_send: &mut impl Iterator<Item = u8>) -> Vec<u8> {
    let mut received = Vec::new();
    while inb(serial, 2) & 0x01 == 0 {
        let mut status = inb(serial, 5);
        while status & 0x01 != 0 {
            received.push(inb(serial, 0));
            status = inb(serial, 5);
        }
        if status & 0x20 == 0 {
            continue;
        }
        for _ in 0..16 {
            match to_send.next() {
                Some(byte) => outb(serial, 0, byte),
                None => {
                    let enabled = inb(serial, 1);
                    outb(serial, 1, enabled & !0x02);
                    break;
                }
            }
        }
    }
    received
}

/// Reads as a guest without interrupts does.
pub fn poll_read(serial: &Serial) -> Vec<u8> {
    let mut received = Vec::new();
    while inb(serial, 5) & 0x01 != 0 {
        received.push(inb(serial, 0));
    }
    received
}

/// Bytes in which a lost or doubled one shows.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i ^ i >> 8 ^ i >> 16) as u8).collect()
}
