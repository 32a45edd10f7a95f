use super::*;
use drystone_bus::BusDevice;
use drystone_state::{Component, Persist, RestoreError};
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Default)]
struct Count(AtomicU64);
impl Interrupt for Count {
    fn trigger(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}
impl Count {
    fn take(&self) -> u64 {
        self.0.swap(0, Ordering::Relaxed)
    }
}

fn controller() -> Arc<I8042> {
    wired().0
}

fn wired() -> (Arc<I8042>, Arc<Count>) {
    let count = Arc::new(Count::default());
    (Arc::new(I8042::new(count.clone())), count)
}

/// As Linux leaves it: interrupt and keyboard port on.
fn driven() -> (Arc<I8042>, Arc<Count>) {
    let (c, count) = wired();
    command(&c, 0x60);
    send(&c, 0x65);
    count.take();
    (c, count)
}

/// All that there is to read.
fn drain(c: &I8042) -> Vec<u8> {
    let mut bytes = Vec::new();
    while status(c) & 0x01 != 0 {
        bytes.push(data(c));
    }
    bytes
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
fn a_probe_finds_a_controller_without_a_mouse() {
    let c = controller();
    // Opening A20, and the null command.
    command(&c, 0xd1);
    send(&c, 0xdf);
    command(&c, 0xff);
    assert_eq!(status(&c) & 0x01, 0, "nothing to flush");
    assert_eq!(ask(&c, 0xaa), 0x55);
    let command_byte = ask(&c, 0x20);
    assert_eq!(command_byte, 0x74, "translation, ports and interrupts off, self-test passed");
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
    // No mouse answers.
    command(&c, 0xd4);
    send(&c, 0xf2);
    assert_eq!((status(&c) & 0x61, data(&c)), (0x61, 0xfe));
    assert_eq!((status(&c) & 0x01, data(&c)), (0, 0));
}

#[test]
fn ports_are_enabled_and_disabled_in_the_command_byte() {
    let c = controller();
    for (order, expected) in [(0xa8, 0x54), (0xae, 0x44), (0xa7, 0x64), (0xad, 0x74)] {
        command(&c, order);
        assert_eq!(ask(&c, 0x20), expected, "{order:#x}");
    }
}

#[test]
fn an_answer_is_never_taken_for_another_commands() {
    let c = controller();
    send(&c, 0xf2);
    // What the keyboard has to say waits behind it.
    assert_eq!(ask(&c, 0xab), 0x00);
    assert_eq!(drain(&c), [0xfa, 0xab, 0x41]);
    command(&c, 0x60);
    assert_eq!(ask(&c, 0x20), 0x64, "a command in place of the awaited byte gives that up");
    send(&c, 0xee);
    assert_eq!(drain(&c), [0xee], "that byte was for the keyboard");
    assert_eq!(ask(&c, 0x20), 0x64);
    assert_eq!(ask(&c, 0xaa), 0x55);
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
    send(&c, 0xf2);
    data(&c);
    let (other, interrupt) = driven();
    other.persist().unwrap().restore_blob(&c.persist().unwrap().save_blob().unwrap()).unwrap();
    assert_eq!((status(&other), drain(&other)), (status(&c), vec![0xab, 0x41]));
    assert_eq!(interrupt.take(), 0, "it was not wanted");
    // Typed, and not read yet.
    let (typed, _) = driven();
    typed.ctrl_alt_del().unwrap();
    other.persist().unwrap().restore_blob(&typed.persist().unwrap().save_blob().unwrap()).unwrap();
    assert_eq!((interrupt.take(), drain(&other)), (1, drain(&typed)));
    // An answer that was not read yet, and a keyboard's command that waits for its parameter.
    let halves: [fn(&I8042); 2] = [|c| command(c, 0x20), |c| send(c, 0xed)];
    for half in halves {
        let (begun, other) = (controller(), controller());
        half(&begun);
        other.persist().unwrap().restore_blob(&begun.persist().unwrap().save_blob().unwrap()).unwrap();
        assert_eq!(other.save().unwrap(), begun.save().unwrap());
    }
    c.reset().unwrap();
    assert_eq!(c.save().unwrap(), controller().save().unwrap());
}

#[test]
fn impossible_states_are_refused() {
    let c = controller();
    let good = c.save().unwrap();
    let bad = [
        I8042State { pending: Some(0xaa), ..good.clone() },
        I8042State { answer: Some((0, 0x02)), ..good.clone() },
        I8042State {
            keyboard: KeyboardState { keys: vec![0; 65].into(), ..KeyboardState::default() },
            ..good.clone()
        },
        I8042State {
            keyboard: KeyboardState { answer: vec![0; 4].into(), ..KeyboardState::default() },
            ..good.clone()
        },
        I8042State {
            keyboard: KeyboardState { parameter_of: Some(0xf4), ..KeyboardState::default() },
            ..good.clone()
        },
    ];
    for state in bad {
        assert!(matches!(c.restore(state), Err(RestoreError::Invalid { kind: "i8042", .. })));
    }
    assert_eq!(c.save().unwrap(), good);
}

#[test]
fn a_driver_finds_a_keyboard_and_sets_it_up() {
    let (c, interrupt) = driven();
    let say = |bytes: &[u8]| {
        let mut answers = Vec::new();
        for byte in bytes {
            interrupt.take();
            send(&c, *byte);
            assert_eq!(interrupt.take(), 1, "an answer is told of");
            answers.extend(drain(&c));
        }
        answers
    };
    assert_eq!(say(&[0xff]), [0xfa, 0xaa]);
    assert_eq!(say(&[0xf2]), [0xfa, 0xab, 0x41]);
    assert_eq!(say(&[0xed, 0x00, 0xf3, 0x00, 0xf4]), [0xfa; 5], "lights, repeat rate, scanning");
    assert_eq!(say(&[0xf0, 0x02, 0xf0, 0x00]), [0xfa, 0xfa, 0xfa, 0xfa, 0x02], "the scan code set");
    assert_eq!(say(&[0xed, 0xee]), [0xfa, 0xee], "a command in place of a parameter");
    assert_eq!(say(&[0x02]), [0xfe]);
    // Untranslated it says what it really is.
    command(&c, 0x60);
    send(&c, 0x25);
    send(&c, 0xf2);
    assert_eq!(drain(&c), [0xfa, 0xab, 0x83]);
}

#[test]
fn ctrl_alt_del_is_typed_key_by_key() {
    let (c, interrupt) = driven();
    c.ctrl_alt_del().unwrap();
    let mut typed = Vec::new();
    while interrupt.take() == 1 {
        typed.push(data(&c));
    }
    assert_eq!(typed, [0x1d, 0x38, 0xe0, 0x53, 0xe0, 0xd3, 0xb8, 0x9d]);
    assert_eq!(status(&c) & 0x01, 0);
    command(&c, 0x60);
    send(&c, 0x25);
    c.ctrl_alt_del().unwrap();
    let untranslated = [0x14, 0x11, 0xe0, 0x71, 0xe0, 0xf0, 0x71, 0xf0, 0x11, 0xf0, 0x14];
    assert_eq!(drain(&c), untranslated);
}

#[test]
fn nothing_is_typed_to_nobody() {
    let (c, interrupt) = wired();
    assert_eq!(c.ctrl_alt_del(), Err(KeyboardError::Deaf), "no driver");
    let (c, _) = driven();
    send(&c, 0xf5);
    drain(&c);
    assert_eq!(c.ctrl_alt_del(), Err(KeyboardError::Deaf), "switched off by its driver");
    send(&c, 0xf4);
    drain(&c);
    for _ in 0..8 {
        c.ctrl_alt_del().unwrap();
    }
    assert_eq!(c.ctrl_alt_del(), Err(KeyboardError::Full));
    assert_eq!(drain(&c).len(), 64, "whole strokes");
    c.ctrl_alt_del().unwrap();
    assert_eq!(interrupt.take(), 0);
}

#[test]
fn keys_wait_while_the_port_is_off() {
    let (c, interrupt) = driven();
    c.ctrl_alt_del().unwrap();
    command(&c, 0xad);
    assert_eq!((status(&c) & 0x01, data(&c)), (0, 0));
    interrupt.take();
    command(&c, 0xae);
    assert_eq!(interrupt.take(), 1);
    assert_eq!(drain(&c).len(), 8);
}
