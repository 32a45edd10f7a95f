use super::*;
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

fn power() -> (AcpiPower, Arc<Count>) {
    let count = Arc::new(Count::default());
    (AcpiPower::new(AcpiPowerConfig::default(), count.clone()), count)
}

fn get(power: &AcpiPower, offset: u64) -> u8 {
    let mut data = [0x77];
    power.read(offset, &mut data);
    data[0]
}

#[test]
fn only_s5_switches_off() {
    let (power, _) = power();
    for value in 0..=0xff {
        let s5 = value & 0x3c == 0x34;
        let expected = if s5 { Effect::PowerOff } else { Effect::None };
        assert_eq!(power.write(0, &[value]), expected, "{value:#x}");
    }
}

#[test]
fn only_the_reset_value_resets() {
    let (power, _) = power();
    let AcpiRegisters { reset, reset_value, sleep_control, sleep_status } = power.registers();
    assert_eq!((sleep_control, sleep_status, reset), (0x600, 0x601, 0x602));
    for value in 0..=0xff {
        let expected = if value == reset_value { Effect::Reset } else { Effect::None };
        assert_eq!(power.write(u64::from(reset - 0x600), &[value]), expected, "{value:#x}");
    }
}

#[test]
fn the_button_is_reported_once() {
    let (power, interrupt) = power();
    assert_eq!(get(&power, 3), 0);
    power.press_power_button();
    power.press_power_button();
    assert_eq!(interrupt.take(), 2);
    assert_eq!((get(&power, 3), get(&power, 3)), (1, 0));
    assert_eq!(power.write(3, &[0xff]), Effect::None);
    assert_eq!(get(&power, 3), 0, "the guest cannot press it");
}

#[test]
fn accesses_of_any_width_at_any_offset_are_sound() {
    let (power, _) = power();
    power.press_power_button();
    let mut data = [0; 8];
    power.read(0, &mut data);
    assert_eq!(data, [0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]);
    power.read(u64::MAX, &mut data);
    assert_eq!(data, [0xff; 8]);
    assert_eq!(power.write(0, &[0x34, 0, 1]), Effect::PowerOff);
    assert_eq!(power.write(0, &[0, 0, 1]), Effect::Reset);
    assert_eq!(power.write(u64::MAX, &[0x34; 8]), Effect::None);
}

#[test]
fn a_pressed_button_survives_saving_and_not_a_reset() {
    let (old, _) = power();
    old.press_power_button();
    let (power, interrupt) = power();
    power.persist().unwrap().restore_blob(&old.persist().unwrap().save_blob().unwrap()).unwrap();
    assert_eq!(interrupt.take(), 1);
    assert_eq!(get(&power, 3), 1);
    assert!(power.restore(AcpiPowerState { events: 2 }).is_err());
    old.reset().unwrap();
    assert_eq!(old.save().unwrap(), AcpiPowerState { events: 0 });
    power.restore(AcpiPowerState { events: 0 }).unwrap();
    assert_eq!(interrupt.take(), 0);
}
