use super::*;

fn controller() -> Arc<I8042> {
    Arc::new(I8042::new())
}

fn status(c: &I8042) -> u8 {
    let mut data = [0];
    c.read(4, &mut data);
    data[0]
}

fn data(c: &I8042) -> u8 {
    let mut data = [0];
    c.read(0, &mut data);
    data[0]
}

fn command(c: &I8042, value: u8) {
    assert_eq!(c.write(4, &[value]), Effect::None, "command {value:#x}");
}

fn send(c: &I8042, value: u8) {
    assert_eq!(c.write(0, &[value]), Effect::None);
}

/// What a command answers; it must answer at once.
fn ask(c: &I8042, value: u8) -> u8 {
    command(c, value);
    assert_eq!(status(c) & 0x03, 0x01, "an answer, and ready for the next");
    data(c)
}

#[test]
fn the_reset_line_resets() {
    let c = controller();
    assert_eq!(status(&c) & 0x02, 0, "Linux waits for this bit to clear before it resets");
    assert_eq!(c.write(4, &[0xfe]), Effect::Reset);
    for pulse in 0xf0..=0xff_u8 {
        let expected = if pulse & 1 == 0 { Effect::Reset } else { Effect::None };
        assert_eq!(c.write(4, &[pulse]), expected, "{pulse:#x}");
    }
    command(&c, 0xd1);
    assert_eq!(c.write(0, &[0xde]), Effect::Reset);
    assert_eq!(c.write(0, &[0xfe]), Effect::None, "as data it means nothing");
}

#[test]
fn a_probe_finds_a_controller_with_nothing_plugged_in() {
    let c = controller();
    // Opening A20, and the null command.
    command(&c, 0xd1);
    send(&c, 0xdf);
    command(&c, 0xff);
    assert_eq!(status(&c) & 0x01, 0, "nothing to flush");
    assert_eq!(ask(&c, 0xaa), 0x55);
    let command_byte = ask(&c, 0x20);
    assert_eq!(command_byte & 0x37, 0x34, "ports and interrupts off, self-test passed");
    assert_eq!(status(&c) & 0x14, 0x14, "not locked, self-test passed");
    command(&c, 0x60);
    send(&c, 0x14);
    assert_eq!(ask(&c, 0x20), 0x14);
    assert_eq!((ask(&c, 0xa9), ask(&c, 0xab)), (0x01, 0x00));
    // The auxiliary port's loop does not come from the auxiliary port.
    command(&c, 0xd3);
    send(&c, 0x5a);
    assert_eq!(status(&c) & 0x21, 0x01);
    assert_eq!(data(&c), 0x5a);
    // No device answers.
    send(&c, 0xf2);
    assert_eq!((status(&c) & 0x61, data(&c)), (0x41, 0xfe));
    command(&c, 0xd4);
    send(&c, 0xf2);
    assert_eq!((status(&c) & 0x61, data(&c)), (0x61, 0xfe));
    assert_eq!((status(&c) & 0x01, data(&c)), (0, 0));
}

#[test]
fn ports_are_enabled_and_disabled_in_the_command_byte() {
    let c = controller();
    for (order, expected) in [(0xa8, 0x14), (0xae, 0x04), (0xa7, 0x24), (0xad, 0x34)] {
        command(&c, order);
        assert_eq!(ask(&c, 0x20), expected, "{order:#x}");
    }
}

#[test]
fn an_answer_is_never_taken_for_another_commands() {
    let c = controller();
    send(&c, 0xf2);
    assert_eq!(ask(&c, 0xaa), 0x55);
    command(&c, 0x60);
    assert_eq!(ask(&c, 0x20), 0x34, "a command in place of the awaited byte gives that up");
    send(&c, 0x12);
    assert_eq!(data(&c), 0xfe);
    assert_eq!(ask(&c, 0x20), 0x34);
}

#[test]
fn ram_and_output_port_keep_what_is_written() {
    let c = controller();
    for i in 1..32 {
        command(&c, 0x60 + i);
        send(&c, i ^ 0x55);
    }
    for i in 1..32 {
        assert_eq!(ask(&c, 0x20 + i), i ^ 0x55);
    }
    command(&c, 0xd1);
    send(&c, 0xcd);
    assert_eq!(ask(&c, 0xd0), 0xcd);
}

#[test]
fn the_ports_are_devices_of_one_byte() {
    let c = controller();
    let (data_port, command_port) = (c.data_port(), c.command_port());
    assert_eq!(command_port.write(0, &[0xaa]), Effect::None);
    let mut byte = [0];
    command_port.read(0, &mut byte);
    assert_eq!(byte[0] & 0x01, 0x01);
    data_port.read(0, &mut byte);
    assert_eq!(byte, [0x55]);
    assert_eq!(command_port.write(0, &[0xfe]), Effect::Reset);
    assert_eq!(data_port.write(0, &[0xfe]), Effect::None);
    assert_eq!((command_port.write(1, &[0xfe]), command_port.write(0, &[])), (Effect::None, Effect::None));
    data_port.read(0, &mut []);
}

#[test]
fn what_is_between_the_ports_is_not_ours() {
    let c = controller();
    for offset in [1, 2, 3, 5, u64::MAX] {
        let mut byte = [0];
        c.read(offset, &mut byte);
        assert_eq!((byte, c.write(offset, &[0xfe])), ([0xff], Effect::None));
    }
    assert_eq!(c.write(2, &[0, 0, 0xfe, 0]), Effect::Reset, "a wide access touches what it covers");
}

#[test]
fn saved_in_the_middle_it_goes_on_elsewhere() {
    let old = controller();
    command(&old, 0x65);
    let c = controller();
    c.persist().unwrap().restore_blob(&old.persist().unwrap().save_blob().unwrap()).unwrap();
    assert_eq!(c.save().unwrap(), old.save().unwrap());
    send(&c, 0x77);
    assert_eq!(ask(&c, 0x25), 0x77);
    send(&c, 0x00);
    let other = controller();
    other.persist().unwrap().restore_blob(&c.persist().unwrap().save_blob().unwrap()).unwrap();
    assert_eq!((status(&other), data(&other)), (status(&c), 0xfe));
    c.reset().unwrap();
    assert_eq!(c.save().unwrap(), controller().save().unwrap());
}

#[test]
fn impossible_states_are_refused() {
    let c = controller();
    let good = c.save().unwrap();
    let bad = [
        I8042State { pending: Some(0xaa), ..good.clone() },
        I8042State { output: Some((0, 0x02)), ..good.clone() },
    ];
    for state in bad {
        assert!(matches!(c.restore(state), Err(RestoreError::Invalid { kind: "i8042", .. })));
    }
    assert_eq!(c.save().unwrap(), good);
}
