use super::driver::*;

/// The questions by which Linux tells a 16550A from its relatives.
#[test]
fn linux_finds_a_16550a() {
    let Port { serial, .. } = port();
    outb(&serial, 1, 0);
    assert_eq!(inb(&serial, 1) & 0x0f, 0);
    outb(&serial, 1, 0x0f);
    assert_eq!(inb(&serial, 1), 0x0f, "four interrupts, and no sleep mode");
    outb(&serial, 1, 0);
    probe(&serial);
    // FIFOs that work.
    outb(&serial, 2, 0x01);
    assert_eq!(inb(&serial, 2) >> 6, 3);
    // No extended feature register of a 16650, neither with the latch nor with the key 0xbf.
    for line_control in [0x80, 0xbf] {
        outb(&serial, 3, line_control);
        assert_ne!(inb(&serial, 2), 0);
    }
    outb(&serial, 3, 0);
    // No 64 byte FIFO of a 16750.
    outb(&serial, 2, 0x21);
    assert_eq!(inb(&serial, 2) & 0xe0, 0xc0);
    // Without FIFOs it is a 16450.
    outb(&serial, 2, 0x00);
    assert_eq!(inb(&serial, 2) >> 6, 0);
    // The scratch register that an 8250 has not.
    for value in [0xa5, 0x5a] {
        outb(&serial, 7, value);
        assert_eq!(inb(&serial, 7), value);
    }
}

#[test]
fn the_divisor_latch_hides_data_and_interrupt_enable() {
    let Port { serial, output, .. } = port();
    outb(&serial, 1, 0x05);
    outb(&serial, 3, 0x83);
    outb(&serial, 0, 0x12);
    outb(&serial, 1, 0x34);
    assert_eq!((inb(&serial, 0), inb(&serial, 1)), (0x12, 0x34));
    outb(&serial, 3, 0x03);
    assert_eq!(inb(&serial, 1), 0x05);
    assert_eq!(output.take(&mut Vec::new(), std::time::Duration::ZERO), crate::Taken::TimedOut);
}

#[test]
fn loopback_returns_what_is_sent_and_holds_what_is_typed() {
    let Port { serial, input, output, line } = port();
    assert_eq!(input.push(b"typed"), 5);
    outb(&serial, 1, 0x01);
    outb(&serial, 4, 0x1b);
    line.take();
    assert_eq!(inb(&serial, 5) & 0x01, 0, "what is typed does not mix with the test");
    for byte in b"test" {
        outb(&serial, 0, *byte);
    }
    assert_eq!(line.take(), 1);
    assert_eq!(inb(&serial, 2) & 0x0f, 0x04);
    assert_eq!(poll_read(&serial), b"test");
    outb(&serial, 0, b'x');
    outb(&serial, 3, 0x83);
    outb(&serial, 2, 0x02);
    assert_eq!(inb(&serial, 5) & 0x01, 0, "clearing the receive FIFO clears what came round");
    assert_eq!(inb(&serial, 3), 0x83);
    outb(&serial, 3, 0x03);
    outb(&serial, 4, 0x0b);
    assert_eq!(poll_read(&serial), b"typed");
    assert_eq!(output.take(&mut Vec::new(), std::time::Duration::ZERO), crate::Taken::TimedOut);
}

#[test]
fn loopback_takes_no_more_than_its_fifo() {
    let Port { serial, .. } = port();
    outb(&serial, 4, 0x10);
    for byte in pattern(1000) {
        outb(&serial, 0, byte);
    }
    assert_eq!(poll_read(&serial), pattern(64));
}

#[test]
fn causes_are_reported_one_by_one_received_data_first() {
    let Port { serial, input, line, .. } = port();
    outb(&serial, 1, 0x03);
    assert_eq!(line.take(), 1);
    input.push(b"a");
    assert_eq!(line.take(), 0, "the line is up already");
    assert_eq!(inb(&serial, 2) & 0x0f, 0x04);
    assert_eq!(inb(&serial, 2) & 0x0f, 0x04, "only reading the byte clears it");
    inb(&serial, 0);
    assert_eq!(inb(&serial, 2) & 0x0f, 0x02);
    assert_eq!(inb(&serial, 2) & 0x0f, 0x01, "reporting it clears it");
    outb(&serial, 0, b'x');
    assert_eq!(line.take(), 1);
    assert_eq!(inb(&serial, 2) & 0x0f, 0x02);
}

#[test]
fn masking_and_unmasking_raises_what_is_pending_again() {
    let Port { serial, input, line, .. } = port();
    outb(&serial, 1, 0x01);
    input.push(b"a");
    assert_eq!(line.take(), 1);
    outb(&serial, 1, 0x00);
    outb(&serial, 1, 0x01);
    assert_eq!(line.take(), 1);
}

#[test]
fn wide_accesses_are_consecutive_byte_accesses() {
    let Port { serial, .. } = port();
    assert_eq!(serial.write(6, &[1, 0x77, 3]), drystone_bus::Effect::None);
    let mut data = [0; 4];
    serial.read(5, &mut data);
    assert_eq!(data, [0x60, 0xb0, 0x77, 0xff]);
    serial.read(u64::MAX, &mut data);
    assert_eq!(data, [0xff; 4]);
}

#[test]
fn settings_out_of_range_are_refused_by_name() {
    use super::super::{SerialConfig, SerialError};
    let defaults = SerialConfig::default();
    let wrong = [
        ("base", SerialConfig { base: 0xfff9, ..defaults.clone() }),
        ("index", SerialConfig { index: 4, ..defaults.clone() }),
        ("output_buffer", SerialConfig { output_buffer: 31, ..defaults.clone() }),
        ("output_buffer", SerialConfig { output_buffer: usize::MAX, ..defaults }),
    ];
    for (name, config) in wrong {
        let Err(SerialError::Config(cause)) = config.check() else { panic!("{config:?} was accepted") };
        assert!(cause.starts_with(name), "{cause}");
    }
}
