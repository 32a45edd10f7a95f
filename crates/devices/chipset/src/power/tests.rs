use super::*;

fn power() -> AcpiPower {
    AcpiPower::new(AcpiPowerConfig::default())
}

#[test]
fn only_s5_switches_off() {
    for value in 0..=0xff {
        let s5 = value & 0x3c == 0x34;
        let expected = if s5 { Effect::PowerOff } else { Effect::None };
        assert_eq!(power().write(0, &[value]), expected, "{value:#x}");
    }
}

#[test]
fn only_the_reset_value_resets() {
    let power = power();
    let AcpiRegisters { reset, reset_value, sleep_control, sleep_status } = power.registers();
    assert_eq!((sleep_control, sleep_status, reset), (0x600, 0x601, 0x602));
    for value in 0..=0xff {
        let expected = if value == reset_value { Effect::Reset } else { Effect::None };
        assert_eq!(power.write(u64::from(reset - 0x600), &[value]), expected, "{value:#x}");
    }
}

#[test]
fn accesses_of_any_width_at_any_offset_are_sound() {
    let power = power();
    let mut data = [0x77; 8];
    power.read(0, &mut data);
    assert_eq!(data, [0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff]);
    power.read(u64::MAX, &mut data);
    assert_eq!(data, [0xff; 8]);
    assert_eq!(power.write(0, &[0x34, 0, 1]), Effect::PowerOff);
    assert_eq!(power.write(0, &[0, 0, 1]), Effect::Reset);
    assert_eq!(power.write(u64::MAX, &[0x34; 8]), Effect::None);
}
