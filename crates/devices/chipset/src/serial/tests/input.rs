use super::super::*;
use super::driver::*;
use std::io::ErrorKind;
use std::time::Duration;

fn event_is_set(input: &SerialInput) -> bool {
    match input.room_event().read() {
        Ok(_) => input.room_event().write(1).is_ok(),
        Err(e) => {
            assert_eq!(e.kind(), ErrorKind::WouldBlock);
            false
        }
    }
}

#[test]
fn pasted_text_reaches_a_guest_that_reads_slowly() {
    let Port { serial, input, line, .. } = port();
    probe(&serial);
    const LEN: usize = 100_000;
    let typist = std::thread::spawn(move || {
        let data = pattern(LEN);
        let mut rest = data.as_slice();
        while !rest.is_empty() {
            let n = input.push(rest);
            assert!(n <= Serial::RECEIVE_FIFO, "nothing is buffered beyond the FIFO");
            rest = &rest[n..];
            if !rest.is_empty() {
                assert!(input.wait(LONG), "the guest reads, but nobody says so");
            }
        }
    });
    open(&serial);
    let mut received = Vec::new();
    while received.len() < LEN {
        line.wait();
        received.extend(handle(&serial, &mut std::iter::empty()));
        std::thread::yield_now();
    }
    typist.join().unwrap();
    assert!(received == pattern(LEN), "complete and in order");
}

#[test]
fn what_is_typed_early_survives_the_probe_and_the_opening_of_the_port() {
    let Port { serial, input, line, .. } = port();
    assert_eq!(input.push(b"root\n"), 5);
    probe(&serial);
    assert_eq!(poll_read(&serial), b"", "the driver has set the port up, but does not listen yet");
    open(&serial);
    line.wait();
    assert_eq!(handle(&serial, &mut std::iter::empty()), b"root\n");
}

#[test]
fn what_is_typed_while_the_port_is_closed_waits_for_the_next_opening() {
    let Port { serial, input, line, .. } = port();
    probe(&serial);
    open(&serial);
    input.push(b"first");
    handle(&serial, &mut std::iter::empty());
    close(&serial);
    line.take();
    input.push(b"second");
    assert_eq!((line.take(), inb(&serial, 5) & 0x01), (0, 0));
    open(&serial);
    line.wait();
    assert_eq!(handle(&serial, &mut std::iter::empty()), b"second");
}

#[test]
fn a_driver_lowers_rts_to_hold_the_sender() {
    let Port { serial, input, line, .. } = port();
    open(&serial);
    line.take();
    outb(&serial, 4, 0x09);
    assert_eq!(input.push(&pattern(100)), 64);
    assert_eq!((line.take(), inb(&serial, 5) & 0x01), (0, 0));
    outb(&serial, 4, 0x0b);
    assert_eq!(line.take(), 1);
    assert_eq!(poll_read(&serial), pattern(64));
}

#[test]
fn a_driver_that_knows_neither_interrupts_nor_rts_is_served() {
    let Port { serial, input, .. } = port();
    outb(&serial, 3, 0x03);
    input.push(b"x");
    assert_eq!(poll_read(&serial), b"x");
    // One that does not raise RTS but enables the interrupt.
    outb(&serial, 4, 0x08);
    outb(&serial, 1, 0x01);
    input.push(b"y");
    assert_eq!(poll_read(&serial), b"y");
}

#[test]
fn room_is_announced_to_a_push_that_came_short() {
    let Port { serial, input, .. } = port();
    assert!(input.wait(Duration::ZERO) && !event_is_set(&input), "no push came short");
    assert_eq!(input.push(&[7; 65]), 64);
    assert!(!input.wait(Duration::ZERO) && !event_is_set(&input));
    for _ in 0..31 {
        inb(&serial, 0);
    }
    assert!(!event_is_set(&input), "not for every byte");
    inb(&serial, 0);
    assert!(input.wait(Duration::ZERO) && event_is_set(&input));
    assert_eq!(input.push(&[7; 33]), 32);
    assert!(!event_is_set(&input), "cleared by the next push that comes short");
}

#[test]
fn a_paused_port_takes_nothing_and_asks_again_when_resumed() {
    let Port { serial, input, .. } = port();
    serial.pause().unwrap();
    let before = serial.save().unwrap();
    assert_eq!(input.push(b"x"), 0);
    assert_eq!(serial.save().unwrap(), before);
    assert!(!input.wait(Duration::ZERO));
    serial.resume().unwrap();
    assert!(input.wait(Duration::ZERO));
    assert_eq!(input.push(b"x"), 1);
}
