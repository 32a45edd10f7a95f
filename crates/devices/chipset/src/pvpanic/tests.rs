use super::*;

#[test]
fn it_says_which_events_it_understands() {
    let device = PvPanic::new();
    let mut data = [0; 2];
    device.read(0, &mut data);
    assert_eq!(data, [3, 0xff]);
    device.read(u64::MAX, &mut data);
    assert_eq!(data, [0xff, 0xff]);
}

#[test]
fn a_panic_is_told_each_time() {
    let device = PvPanic::new();
    for value in 0..=0xff_u8 {
        let expected = value & 1 != 0;
        assert_eq!(device.write(0, &[value]) == Effect::Panic, expected, "{value:#x}");
    }
    for offset in [1, u64::MAX] {
        assert_eq!(device.write(offset, &[1]), Effect::None);
    }
    assert_eq!(device.write(0, &[]), Effect::None);
}

#[test]
fn a_dump_is_told_once_until_the_machine_is_reset() {
    let device = PvPanic::new();
    assert_eq!(device.write(0, &[4]), Effect::None);
    assert_eq!(device.write(0, &[2]), Effect::CrashLoaded);
    for _ in 0..3 {
        assert_eq!(device.write(0, &[2]), Effect::None);
    }
    let other = PvPanic::new();
    other.persist().unwrap().restore_blob(&device.persist().unwrap().save_blob().unwrap()).unwrap();
    assert_eq!(other.write(0, &[2]), Effect::None, "nor in a machine that goes on elsewhere");
    assert_eq!(other.write(0, &[3]), Effect::Panic, "the dump failed");
    device.reset().unwrap();
    assert_eq!(device.save().unwrap(), PvPanic::new().save().unwrap());
    assert_eq!(device.write(0, &[2]), Effect::CrashLoaded);
}
