use super::super::*;
use super::driver::*;

/// Into bytes and back, as the orchestrator does it.
fn restore_into(fresh: &Serial, old: &Serial) {
    let blob = old.persist().unwrap().save_blob().unwrap();
    fresh.persist().unwrap().restore_blob(&blob).unwrap();
}

#[test]
fn a_driver_goes_on_in_a_restored_port_where_it_was() {
    let small = SerialConfig { output_buffer: 32, ..Default::default() };
    let Port { serial: old, input, line: old_line, output: _untaken } = port_with(small.clone());
    open(&old);
    outb(&old, 7, 0x42);
    outb(&old, 3, 0x1b);
    // Busy: the driver waits for the transmit interrupt. And something was typed.
    outb(&old, 1, 0x07);
    let data = pattern(200);
    let mut to_send = data.iter().copied();
    handle(&old, &mut to_send);
    handle(&old, &mut to_send);
    assert_eq!(inb(&old, 5) & 0x20, 0);
    let sent = 200 - to_send.len();
    old_line.take();
    assert_eq!(input.push(b"typed"), 5);
    old.pause().unwrap();

    let Port { serial, output, line, .. } = port_with(small);
    restore_into(&serial, &old);
    assert_eq!(
        (inb(&serial, 7), inb(&serial, 3), inb(&serial, 4), inb(&serial, 1)),
        (0x42, 0x1b, 0x0b, 0x07)
    );
    let mut out = Vec::new();
    let mut typed = Vec::new();
    while to_send.len() > 0 {
        line.wait();
        typed.extend(handle(&serial, &mut to_send));
        output.take(&mut out, std::time::Duration::ZERO);
    }
    output.take(&mut out, std::time::Duration::ZERO);
    assert_eq!(typed, b"typed");
    assert_eq!(out, data[sent..]);
}

#[test]
fn a_restored_port_raises_what_was_pending_again() {
    let stalled = |serial: &Serial| {
        for byte in pattern(32) {
            outb(serial, 0, byte);
        }
        assert_eq!(inb(serial, 2) & 0x0f, 0x01);
    };
    let typed = |serial: &Serial, input: &SerialInput| {
        outb(serial, 1, 0x01);
        assert_eq!((input.push(b"x"), inb(serial, 2) & 0x0f), (1, 0x04));
    };
    for cause in [0x02, 0x04] {
        let small = SerialConfig { output_buffer: 32, ..Default::default() };
        let Port { serial: old, input, output: _untaken, .. } = port_with(small);
        outb(&old, 1, 0x02);
        inb(&old, 2);
        if cause == 0x02 {
            stalled(&old)
        } else {
            typed(&old, &input)
        }
        let Port { serial, line, .. } = port();
        restore_into(&serial, &old);
        assert_eq!((line.take(), inb(&serial, 2) & 0x0f), (1, cause));
    }
}

#[test]
fn every_register_is_saved() {
    let Port { serial: old, input, .. } = port();
    outb(&old, 4, 0x1b);
    outb(&old, 0, b'r');
    input.push(b"t");
    outb(&old, 3, 0x80);
    outb(&old, 0, 0x01);
    outb(&old, 1, 0x02);
    outb(&old, 3, 0x07);
    outb(&old, 1, 0x0d);
    outb(&old, 2, 0xc1);
    outb(&old, 7, 0x99);
    let state = old.save().unwrap();
    let expected = SerialState {
        divisor: [1, 2],
        interrupt_enable: 0x0d,
        fifo_control: 0xc1,
        line_control: 0x07,
        modem_control: 0x1b,
        scratch: 0x99,
        transmitter_empty: true,
        request_to_send: RequestToSend::Untouched,
        received: b"t".to_vec(),
        loopback: b"r".to_vec(),
    };
    assert_eq!(state, expected);
    let Port { serial, .. } = port();
    restore_into(&serial, &old);
    assert_eq!(serial.save().unwrap(), expected);
    assert_eq!(poll_read(&serial), b"r");
}

#[test]
fn impossible_states_are_refused() {
    let Port { serial, .. } = port();
    let good = serial.save().unwrap();
    let bad = [
        SerialState { interrupt_enable: 0x10, ..good.clone() },
        SerialState { modem_control: 0x20, ..good.clone() },
        SerialState { received: vec![0; 65], ..good.clone() },
        SerialState { loopback: vec![0; 65], ..good.clone() },
    ];
    for state in bad {
        assert!(matches!(serial.restore(state), Err(RestoreError::Invalid { kind: "serial", .. })));
    }
    assert_eq!(serial.save().unwrap(), good, "a refused state leaves nothing behind");
}

#[test]
fn reset_is_as_built_and_what_was_sent_is_still_taken() {
    let Port { serial, input, output, line } = port();
    let built = serial.save().unwrap();
    open(&serial);
    outb(&serial, 0, b'x');
    outb(&serial, 3, 0x9b);
    outb(&serial, 4, 0x1b);
    outb(&serial, 7, 1);
    assert_eq!(input.push(&[1; 100]), 64);
    serial.pause().unwrap();
    serial.reset().unwrap();
    assert_eq!(serial.save().unwrap(), built);
    assert!(!input.wait(std::time::Duration::ZERO), "not yet: it takes nothing");
    serial.resume().unwrap();
    assert!(input.wait(std::time::Duration::ZERO), "there is room again");
    line.take();
    let mut out = Vec::new();
    assert_eq!(output.take(&mut out, std::time::Duration::ZERO), Taken::Bytes(1));
    probe(&serial);
    open(&serial);
    input.push(b"again");
    line.wait();
    assert_eq!(handle(&serial, &mut std::iter::empty()), b"again");
}
