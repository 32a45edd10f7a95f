//! Any accesses to the keyboard controller, and keys: only its reset line reaches the machine, what it holds is bounded, and
//! a driver that wants interrupts misses none.

use super::input::Input;
use drystone_bus::{BusDevice, Effect, Interrupt};
use drystone_chipset::{I8042, I8042State, KeyboardError, KeyboardState};
use drystone_state::{Component, Persist};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const STEPS: usize = 4096;

/// Runs `data` as a list of steps.
///
/// # Panics
/// If anything but its reset line resets the machine, if it ever says that it is busy or holds more than a driver could
/// read in a moment, if a byte comes without an interrupt, or if a controller and its restored copy differ.
pub fn i8042(data: &[u8]) {
    let mut input = Input::new(data);
    let wire = Arc::new(Wire::default());
    let mut controller = Arc::new(I8042::new(wire.clone()));
    // Whether the next data byte is for the output port, which has the reset line.
    let mut output_port = false;
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        wire.0.store(false, Ordering::Relaxed);
        let mut changed = true;
        match input.u8() % 9 {
            0 | 1 => {
                let command = input.u8();
                let reset = (0xf0..=0xff).contains(&command) && command & 1 == 0;
                assert_eq!(controller.command_port().write(0, &[command]) == Effect::Reset, reset);
                output_port = command == 0xd1;
            }
            2 | 3 => {
                let byte = input.u8();
                let reset = std::mem::take(&mut output_port) && byte & 1 == 0;
                assert_eq!(controller.data_port().write(0, &[byte]) == Effect::Reset, reset);
            }
            4 => controller.data_port().read(0, &mut [0]),
            5 => {
                wide(&controller, &mut input);
                output_port = controller.save().unwrap().pending == Some(0xd1);
            }
            6 => {
                controller = restored(&controller, &wire, &mut input, &mut output_port);
                // A state that was refused leaves the old controller as it was.
                changed = false;
            }
            8 => changed = type_keys(&controller),
            _ => {
                controller.reset().unwrap();
                assert_eq!(controller.save().unwrap(), I8042::new(wire.clone()).save().unwrap());
                output_port = false;
            }
        }
        let wanted = controller.save().unwrap().ram[0] & 0x01 != 0 && status(&controller) & 0x01 != 0;
        if wanted && changed {
            assert!(wire.0.load(Ordering::Relaxed), "a byte is there, and nobody is told");
        }
        assert_eq!(status(&controller) & 0x12, 0x10, "never busy, never locked");
    }
}

#[derive(Default)]
struct Wire(AtomicBool);
impl Interrupt for Wire {
    fn trigger(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Whether anything was typed.
fn type_keys(controller: &I8042) -> bool {
    let before = controller.save().unwrap();
    let typed = controller.ctrl_alt_del();
    let after = controller.save().unwrap();
    assert!(after.keyboard.keys.len() <= 64 && after.keyboard.answer.len() <= 3);
    match typed {
        Ok(()) => assert!(after.keyboard.keys.len() > before.keyboard.keys.len()),
        Err(KeyboardError::Full) => assert!(before == after && before.keyboard.keys.len() > 64 - 16),
        Err(_) => assert!(before == after && (before.ram[0] & 0x10 != 0 || !before.keyboard.scanning)),
    }
    typed.is_ok()
}

fn status(controller: &Arc<I8042>) -> u8 {
    let mut status = [0];
    controller.command_port().read(0, &mut status);
    status[0]
}

fn wide(controller: &I8042, input: &mut Input<'_>) {
    let offset = if input.u8() & 1 == 0 { u64::from(input.u8() % 8) } else { input.u64() };
    let mut bytes = input.take(8).to_vec();
    assert_ne!(controller.write(offset, &bytes), Effect::PowerOff);
    controller.read(offset, &mut bytes);
}

/// Goes on in a copy; or, if it can, from a state out of nowhere.
fn restored(old: &Arc<I8042>, wire: &Arc<Wire>, input: &mut Input<'_>, output_port: &mut bool) -> Arc<I8042> {
    let new = Arc::new(I8042::new(wire.clone()));
    let state = old.save().unwrap();
    let state = match input.u8() & 1 {
        0 => state,
        _ => I8042State {
            ram: [input.u8(); 32],
            output_port: input.u8(),
            answer: Some((input.u8(), input.u8())),
            pending: Some(input.u8()),
            last_was_command: input.u8() & 1 == 0,
            keyboard: KeyboardState {
                answer: input.take(4).to_vec().into(),
                keys: vec![input.u8(); usize::from(input.u8())].into(),
                scanning: input.u8() & 1 == 0,
                parameter_of: Some(input.u8()).filter(|c| *c != 0),
            },
        },
    };
    match new.restore(state.clone()) {
        Ok(()) => {
            assert_eq!(new.save().unwrap(), state);
            *output_port = state.pending == Some(0xd1);
            new
        }
        Err(_) => {
            assert_eq!(new.save().unwrap(), I8042::new(wire.clone()).save().unwrap(), "refused whole");
            old.clone()
        }
    }
}
