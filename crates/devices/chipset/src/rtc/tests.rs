use super::*;
use drystone_bus::ManualClock;
use std::time::Duration;

/// Tuesday, 2026-11-24 13:04:59.5 UTC.
const THEN: Duration = Duration::from_millis(1_795_525_499_500);

fn rtc() -> (Rtc, Arc<ManualClock>) {
    rtc_at(THEN)
}

fn rtc_at(time: Duration) -> (Rtc, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new(time));
    (Rtc::new(&RtcConfig::default(), clock.clone()), clock)
}

fn get(rtc: &Rtc, index: u8) -> u8 {
    let mut data = [0];
    assert_eq!(rtc.write(0, &[index]), Effect::None);
    rtc.read(1, &mut data);
    data[0]
}

fn set(rtc: &Rtc, index: u8, value: u8) {
    assert_eq!(rtc.write(0, &[index]), Effect::None);
    assert_eq!(rtc.write(1, &[value]), Effect::None);
}

/// Century, year, month, day, weekday, hours, minutes, seconds.
fn time(rtc: &Rtc) -> [u8; 8] {
    [0x32, 0x09, 0x08, 0x07, 0x06, 0x04, 0x02, 0x00].map(|index| get(rtc, index))
}

#[test]
fn time_is_shown_as_status_b_says() {
    let (rtc, _) = rtc();
    assert_eq!(get(&rtc, 0x0b), 0x02);
    assert_eq!(time(&rtc), [0x20, 0x26, 0x11, 0x24, 3, 0x13, 0x04, 0x59]);
    set(&rtc, 0x0b, 0x00);
    assert_eq!(get(&rtc, 0x04), 0x81);
    set(&rtc, 0x0b, 0x04);
    assert_eq!(time(&rtc), [20, 26, 11, 24, 3, 0x81, 4, 59]);
    set(&rtc, 0x0b, 0x06);
    assert_eq!(get(&rtc, 0x04), 13);
}

#[test]
fn midnight_and_noon_are_twelve_on_a_12_hour_clock() {
    for (hour, shown) in [(0, 0x12), (1, 0x01), (11, 0x11), (12, 0x92), (13, 0x81), (23, 0x91)] {
        let (rtc, clock) = rtc_at(Duration::from_secs(hour * 3600));
        set(&rtc, 0x0b, 0x00);
        assert_eq!(get(&rtc, 0x04), shown, "hour {hour}");
        // And the same back: setting what is shown changes nothing.
        set(&rtc, 0x04, shown);
        assert_eq!(rtc.save().unwrap().offset_seconds, 0, "hour {hour}");
        clock.advance(Duration::from_secs(1));
    }
}

#[test]
fn dates_are_those_of_the_gregorian_calendar() {
    let days = [
        (0, [0x19, 0x70, 0x01, 0x01, 5]),
        (951_782_400, [0x20, 0x00, 0x02, 0x29, 3]),
        (951_868_800, [0x20, 0x00, 0x03, 0x01, 4]),
        (1_709_164_800, [0x20, 0x24, 0x02, 0x29, 5]),
        (1_735_603_200, [0x20, 0x24, 0x12, 0x31, 3]),
        (4_107_542_400, [0x21, 0x00, 0x03, 0x01, 2]),
        (253_402_300_799, [0x99, 0x99, 0x12, 0x31, 6]),
        (u64::MAX, [0x99, 0x99, 0x12, 0x31, 6]),
    ];
    for (seconds, date) in days {
        let (rtc, _) = rtc_at(Duration::from_secs(seconds));
        assert_eq!(time(&rtc)[..5], date, "{seconds}");
    }
}

#[test]
fn every_day_decodes_to_what_it_was_encoded_from() {
    use calendar::{Format, decode, encode};
    for day in (-719_528_i64..2_932_897).step_by(17) {
        let time = day * 86_400 + day.rem_euclid(86_400);
        for (binary, hours_24) in [(false, false), (false, true), (true, false), (true, true)] {
            let format = Format { binary, hours_24 };
            assert_eq!(decode(encode(time, format), format), Some(time));
        }
    }
}

/// As Linux does it: hold updates, write all, let go.
#[test]
fn a_guest_sets_the_time_and_it_goes_on_from_there() {
    let (rtc, clock) = rtc();
    set(&rtc, 0x0b, 0x82);
    for (index, value) in [(9, 0x30), (8, 0x02), (7, 0x28), (4, 0x23), (2, 0x59), (0, 0x58), (0x32, 0x20)] {
        set(&rtc, index, value);
    }
    clock.advance(Duration::from_secs(100));
    assert_eq!(time(&rtc)[5..], [0x23, 0x59, 0x58], "held");
    set(&rtc, 0x0b, 0x02);
    clock.advance(Duration::from_secs(2));
    assert_eq!(time(&rtc), [0x20, 0x30, 0x03, 0x01, 6, 0x00, 0x00, 0x00]);
    // Without holding updates, register by register.
    set(&rtc, 0x07, 0x31);
    set(&rtc, 0x08, 0x12);
    assert_eq!(time(&rtc), [0x20, 0x30, 0x12, 0x31, 3, 0x00, 0x00, 0x00]);
}

#[test]
fn what_is_no_time_is_not_set() {
    let (rtc, _) = rtc();
    let before = time(&rtc);
    for (index, value) in [(0x00, 0x60), (0x02, 0x1a), (0x04, 0x24), (0x07, 0x00), (0x08, 0x13), (0x09, 0xff)]
    {
        set(&rtc, index, value);
        assert_eq!(time(&rtc), before, "register {index:#x}");
    }
    set(&rtc, 0x0b, 0x82);
    set(&rtc, 0x32, 0xff);
    set(&rtc, 0x0b, 0x02);
    assert_eq!(time(&rtc), before);
}

#[test]
fn update_in_progress_shows_before_each_second_and_passes() {
    let (rtc, clock) = rtc();
    assert_eq!(get(&rtc, 0x0a), 0x26);
    clock.advance(Duration::from_micros(500_000 - 2229));
    assert_eq!(get(&rtc, 0x0a), 0x26);
    clock.advance(Duration::from_micros(1));
    assert_eq!(get(&rtc, 0x0a), 0xa6);
    assert_eq!(get(&rtc, 0x00), 0x59);
    set(&rtc, 0x0b, 0x82);
    assert_eq!(get(&rtc, 0x0a), 0x26, "no update while they are held");
    set(&rtc, 0x0b, 0x02);
    clock.advance(Duration::from_micros(2228));
    assert_eq!((get(&rtc, 0x0a), get(&rtc, 0x00)), (0x26, 0x00));
    set(&rtc, 0x0a, 0xff);
    assert_eq!(get(&rtc, 0x0a), 0x7f, "the guest cannot set it");
}

#[test]
fn flags_tell_a_polling_guest_what_came() {
    let (rtc, clock) = rtc();
    set(&rtc, 0x0a, 0x20);
    // An alarm at 13:05:01.
    for (index, value) in [(0x05, 0x13), (0x03, 0x05), (0x01, 0x01)] {
        set(&rtc, index, value);
    }
    assert_eq!(get(&rtc, 0x0c), 0);
    clock.advance(Duration::from_secs(1));
    assert_eq!((get(&rtc, 0x0c), get(&rtc, 0x0c)), (0x10, 0));
    clock.advance(Duration::from_secs(1));
    assert_eq!(get(&rtc, 0x0c), 0x30);
    clock.advance(Duration::from_secs(86_399));
    assert_eq!(get(&rtc, 0x0c), 0x10);
    set(&rtc, 0x0b, 0x22);
    clock.advance(Duration::from_secs(1));
    assert_eq!(get(&rtc, 0x0c), 0xb0, "an enabled flag asks for an interrupt");
    // Any hour, any minute.
    set(&rtc, 0x05, 0xff);
    set(&rtc, 0x03, 0xc0);
    clock.advance(Duration::from_secs(60));
    assert_eq!(get(&rtc, 0x0c), 0xb0);
    // Never.
    set(&rtc, 0x03, 0x60);
    clock.advance(Duration::from_secs(1_000_000));
    assert_eq!(get(&rtc, 0x0c), 0x10);
    // 2 Hz.
    set(&rtc, 0x0a, 0x2f);
    clock.advance(Duration::from_millis(499));
    assert_eq!(get(&rtc, 0x0c) & 0x40, 0);
    clock.advance(Duration::from_millis(1));
    assert_eq!(get(&rtc, 0x0c) & 0x40, 0x40);
}

#[test]
fn flags_follow_a_time_that_is_set() {
    let (rtc, clock) = rtc();
    set(&rtc, 0x09, 0x20);
    assert_eq!(get(&rtc, 0x0c) & 0x10, 0, "setting the time is not an update");
    clock.advance(Duration::from_secs(1));
    assert_eq!(get(&rtc, 0x0c) & 0x10, 0x10);
    set(&rtc, 0x09, 0x40);
    assert_eq!(get(&rtc, 0x0c) & 0x10, 0);
}

#[test]
fn the_periodic_flag_comes_at_the_selected_rate() {
    // In microseconds, rounded down.
    let periods = [(1, 3906), (2, 7812), (3, 122), (6, 976), (8, 3906), (9, 7812), (15, 500_000 - 1)];
    for (rate, period) in periods {
        let (rtc, clock) = rtc();
        set(&rtc, 0x0a, 0x20 | rate);
        clock.advance(Duration::from_micros(period));
        assert_eq!(get(&rtc, 0x0c) & 0x40, 0, "rate {rate}");
        clock.advance(Duration::from_micros(1));
        assert_eq!(get(&rtc, 0x0c) & 0x40, 0x40, "rate {rate}");
    }
}

#[test]
fn the_index_ports_nmi_bit_is_ignored_and_ram_keeps_what_is_written() {
    let (rtc, _) = rtc();
    for index in (0x0e..0x80).filter(|i| *i != 0x32) {
        assert_eq!(get(&rtc, index), 0, "register {index:#x}");
        set(&rtc, index | 0x80, index ^ 0x55);
    }
    for index in (0x0e..0x80).filter(|i| *i != 0x32) {
        assert_eq!(get(&rtc, index), index ^ 0x55, "register {index:#x}");
    }
    assert_eq!(get(&rtc, 0x8d), 0x80, "the battery is good");
    set(&rtc, 0x0d, 0);
    assert_eq!(get(&rtc, 0x0d), 0x80);
    let mut index_port = [0];
    rtc.read(0, &mut index_port);
    assert_eq!(index_port, [0xff]);
}

#[test]
fn wide_accesses_are_consecutive_byte_accesses() {
    let (rtc, _) = rtc();
    assert_eq!(rtc.write(0, &[0x40, 0x12, 0x99]), Effect::None);
    let mut data = [0; 3];
    rtc.read(0, &mut data);
    assert_eq!(data, [0xff, 0x12, 0xff]);
}

#[test]
fn memory_sizes_are_given_in_the_fields_of_a_pc() {
    let fields = |below, above| {
        let config = RtcConfig { memory_below_4g: below, memory_above_4g: above };
        let rtc = Rtc::new(&config, Arc::new(ManualClock::new(THEN)));
        let word = |at| u32::from(get(&rtc, at)) | u32::from(get(&rtc, at + 1)) << 8;
        [word(0x15), word(0x17), word(0x30), word(0x34), word(0x5b) | u32::from(get(&rtc, 0x5d)) << 16]
    };
    assert_eq!(fields(None, None), [0; 5]);
    assert_eq!(fields(Some(8 << 20), None), [640, 7168, 7168, 0, 0]);
    assert_eq!(fields(Some(3 << 30), Some(5 << 30)), [640, 0xffff, 0xffff, 0xbf00, 0x14000]);
    assert_eq!(fields(Some(0), Some(0)), [0; 5]);
    assert_eq!(fields(Some(u64::MAX), Some(u64::MAX)), [640, 0xffff, 0xffff, 0xffff, 0xff_ffff]);
}

#[test]
fn reset_keeps_what_is_on_the_battery() {
    let (rtc, _) = rtc();
    set(&rtc, 0x09, 0x30);
    set(&rtc, 0x0f, 0x0a);
    set(&rtc, 0x0a, 0x00);
    set(&rtc, 0x0b, 0xfe);
    rtc.reset().unwrap();
    let built = Rtc::new(&RtcConfig::default(), Arc::new(ManualClock::new(THEN))).save().unwrap();
    let state = rtc.save().unwrap();
    let on_battery = RtcState { offset_seconds: state.offset_seconds, ram: state.ram.clone(), ..built };
    assert_eq!(state, on_battery);
    assert_eq!((get(&rtc, 0x09), get(&rtc, 0x0f)), (0x30, 0x0a));
}

#[test]
fn a_restored_clock_shows_the_time_that_it_is_then() {
    let (old, _) = rtc();
    set(&old, 0x09, 0x30);
    set(&old, 0x70, 0x07);
    set(&old, 0x0b, 0x82);
    set(&old, 0x00, 0x01);
    // The register that stays selected.
    get(&old, 0x0d);
    let blob = old.persist().unwrap().save_blob().unwrap();
    let (rtc, _) = rtc_at(THEN + Duration::from_secs(10));
    rtc.persist().unwrap().restore_blob(&blob).unwrap();
    assert_eq!(rtc.save().unwrap(), old.save().unwrap());
    assert_eq!((get(&rtc, 0x00), get(&rtc, 0x70)), (0x01, 0x07));
    set(&rtc, 0x0b, 0x02);
    assert_eq!(time(&rtc)[..2], [0x20, 0x30]);
}

#[test]
fn impossible_states_are_refused_and_extreme_ones_are_shown() {
    let (rtc, _) = rtc();
    let good = rtc.save().unwrap();
    let bad = [
        RtcState { ram: vec![0; 127], ..good.clone() },
        RtcState { held_time: Some([0; 8]), ..good.clone() },
        RtcState { status_b: 0x82, ..good.clone() },
    ];
    for state in bad {
        assert!(matches!(rtc.restore(state), Err(RestoreError::Invalid { kind: "rtc", .. })));
    }
    assert_eq!(rtc.save().unwrap(), good);
    for (offset_seconds, date) in [(i64::MAX, [0x99, 0x99, 0x12, 0x31]), (i64::MIN, [0, 0, 1, 1])] {
        rtc.restore(RtcState { offset_seconds, ..good.clone() }).unwrap();
        assert_eq!(time(&rtc)[..4], date);
        set(&rtc, 0x00, 0x00);
        get(&rtc, 0x0c);
    }
}
