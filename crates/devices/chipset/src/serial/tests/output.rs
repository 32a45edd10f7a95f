use super::super::*;
use super::driver::*;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::Duration;

const NOW: Duration = Duration::ZERO;
const FOREVER: Duration = Duration::from_secs(1_000_000);
const MIB: usize = 1 << 20;

/// A reader so slow that each time it comes the buffer is full; at the end it takes what is left.
fn slow_reader(serial: Arc<Serial>, output: SerialOutput) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut all = Vec::new();
        loop {
            while transmitter_empty(&serial) && !lock(&serial.shared.inner).finished {
                std::thread::yield_now();
            }
            match output.take(&mut all, LONG) {
                Taken::Bytes(n) => assert!(n <= 64 << 10, "the buffer is bounded"),
                Taken::TimedOut => panic!("nothing came"),
                Taken::Closed => return all,
            }
        }
    })
}

fn in_background<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> Receiver<T> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || sender.send(f()));
    receiver
}

/// Somebody who is blocked in `take`, and would be for longer than any test.
fn waiting(serial: &Serial, output: SerialOutput) -> Receiver<Taken> {
    let taker = in_background(move || output.take(&mut Vec::new(), FOREVER));
    while !lock(&serial.shared.inner).taker_waits {
        std::thread::yield_now();
    }
    taker
}

fn transmitter_empty(serial: &Serial) -> bool {
    let status = inb(serial, 5);
    assert!(matches!(status & 0x60, 0 | 0x60), "both bits or none");
    status & 0x20 != 0
}

fn take(output: &SerialOutput) -> Vec<u8> {
    let mut all = Vec::new();
    output.take(&mut all, NOW);
    all
}

#[test]
fn a_polling_driver_loses_nothing_to_a_slow_reader() {
    let Port { serial, output, .. } = port();
    let serial = Arc::new(serial);
    let reader = slow_reader(serial.clone(), output);
    for byte in pattern(MIB) {
        while !transmitter_empty(&serial) {
            std::thread::yield_now();
        }
        outb(&serial, 0, byte);
    }
    assert_eq!(serial.dropped(), 0);
    serial.finish();
    assert!(reader.join().unwrap() == pattern(MIB), "complete and in order");
}

#[test]
fn an_interrupt_driven_driver_loses_nothing_to_a_slow_reader() {
    let Port { serial, output, line, .. } = port();
    let serial = Arc::new(serial);
    let reader = slow_reader(serial.clone(), output);
    open(&serial);
    line.take();
    let data = pattern(MIB);
    let mut to_send = data.iter().copied();
    outb(&serial, 1, 0x07);
    while to_send.len() > 0 {
        line.wait();
        handle(&serial, &mut to_send);
    }
    assert_eq!(serial.dropped(), 0);
    serial.finish();
    assert!(reader.join().unwrap() == data, "complete and in order");
}

#[test]
fn a_full_transmitter_is_busy_and_interrupts_once_there_is_room() {
    let Port { serial, output, line, .. } =
        port_with(SerialConfig { output_buffer: 64, ..Default::default() });
    outb(&serial, 1, 0x02);
    inb(&serial, 2);
    for _ in 0..64 - 16 {
        assert!(transmitter_empty(&serial));
        outb(&serial, 0, b'a');
    }
    assert!(transmitter_empty(&serial), "there is room for just one more transmit FIFO");
    inb(&serial, 2);
    for _ in 0..16 {
        outb(&serial, 0, b'b');
        assert!(!transmitter_empty(&serial), "there is not room for a whole one");
    }
    assert_eq!(serial.dropped(), 0);
    assert_eq!(inb(&serial, 2) & 0x0f, 0x01, "busy is no cause for an interrupt");
    outb(&serial, 1, 0x00);
    outb(&serial, 1, 0x02);
    assert_eq!(inb(&serial, 2) & 0x0f, 0x01, "and enabling it does not make it one");
    line.take();

    outb(&serial, 0, b'c');
    outb(&serial, 0, b'd');
    assert_eq!((serial.dropped(), line.take()), (2, 0), "written against better knowledge");

    assert_eq!(take(&output), [[b'a'; 48].as_slice(), &[b'b'; 16]].concat());
    assert_eq!(line.take(), 1);
    assert!(transmitter_empty(&serial));
    assert_eq!(inb(&serial, 2) & 0x0f, 0x02);
}

#[test]
fn sixteen_bytes_at_once_cost_one_interrupt() {
    let Port { serial, line, .. } = port();
    outb(&serial, 1, 0x02);
    assert_eq!(line.take(), 1);
    inb(&serial, 2);
    for byte in pattern(16) {
        outb(&serial, 0, byte);
    }
    assert_eq!(line.take(), 1);
}

#[test]
fn a_closed_sink_frees_a_driver_that_waits_and_discards() {
    let Port { serial, output, line, .. } =
        port_with(SerialConfig { output_buffer: 32, ..Default::default() });
    outb(&serial, 1, 0x02);
    inb(&serial, 2);
    for byte in pattern(32) {
        outb(&serial, 0, byte);
    }
    inb(&serial, 2);
    line.take();
    drop(output);
    assert_eq!(line.take(), 1);
    for byte in pattern(100_000) {
        assert!(transmitter_empty(&serial));
        outb(&serial, 0, byte);
    }
    assert_eq!(serial.dropped(), 0, "nobody wanted it");
    assert!(!lock(&serial.shared.inner).uart.has_output());
}

#[test]
fn what_was_written_before_the_end_is_still_taken() {
    let Port { serial, output, .. } = port();
    outb(&serial, 0, b'x');
    serial.finish();
    outb(&serial, 0, b'y');
    assert_eq!(take(&output), b"x");
    assert_eq!(output.take(&mut Vec::new(), LONG), Taken::Closed);
    drop(serial);
    assert_eq!(output.take(&mut Vec::new(), LONG), Taken::Closed);
}

#[test]
fn the_first_byte_wakes_who_waits() {
    let Port { serial, output, .. } = port();
    let taker = waiting(&serial, output);
    outb(&serial, 0, b'x');
    assert_eq!(taker.recv_timeout(LONG), Ok(Taken::Bytes(1)));
}

#[test]
fn the_end_wakes_who_waits() {
    let Port { serial, output, input, .. } = port();
    assert_eq!(input.push(&[0; 100]), Serial::RECEIVE_FIFO);
    let taker = waiting(&serial, output);
    let pusher = in_background({
        let input = input.clone();
        move || input.wait(FOREVER)
    });
    drop(serial);
    assert_eq!(taker.recv_timeout(LONG), Ok(Taken::Closed));
    assert_eq!(pusher.recv_timeout(LONG), Ok(true));
    assert!(input.is_closed());
    assert_eq!(input.push(b"x"), 0);
}

#[test]
fn while_paused_output_may_be_taken_but_the_guest_sees_it_only_on_resume() {
    let Port { serial, output, line, .. } =
        port_with(SerialConfig { output_buffer: 32, ..Default::default() });
    outb(&serial, 1, 0x02);
    for byte in pattern(32) {
        outb(&serial, 0, byte);
    }
    line.take();
    serial.pause().unwrap();
    let before = serial.save().unwrap();
    assert_eq!(take(&output), pattern(32));
    assert_eq!((serial.save().unwrap(), line.take()), (before, 0));
    serial.resume().unwrap();
    assert_eq!(line.take(), 1);
    assert!(transmitter_empty(&serial));
}

#[test]
fn a_taker_that_waits_can_be_woken_and_a_wake_counts_once() {
    let Port { serial, output, .. } = port();
    let waker = output.waker();
    waker.wake();
    assert_eq!(output.take(&mut Vec::new(), FOREVER), Taken::TimedOut, "before it waits");
    assert_eq!(output.take(&mut Vec::new(), NOW), Taken::TimedOut);
    assert!(!lock(&serial.shared.inner).woken, "that wake was used up");
    let taken = waiting(&serial, output);
    waker.wake();
    assert_eq!(taken.recv_timeout(LONG), Ok(Taken::TimedOut));
}
