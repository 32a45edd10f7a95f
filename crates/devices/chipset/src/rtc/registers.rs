use super::calendar::{self, Format, TIME_REGISTERS, TimeBytes};
use super::cmos::{CMOS_LEN, RtcConfig};
use super::state::{RtcState, invalid};
use drystone_bus::Clock;
use drystone_state::RestoreError;
use std::time::Duration;

const STATUS_A: u8 = 0x0a;
const STATUS_B: u8 = 0x0b;
const STATUS_C: u8 = 0x0c;
const STATUS_D: u8 = 0x0d;
const ALARM: [usize; 3] = [0x01, 0x03, 0x05];

/// A: update in progress.
const UPDATING: u8 = 0x80;
/// A, when built: the divider of a 32.768 kHz crystal, periodic rate 1024 Hz.
const DEFAULT_A: u8 = 0x26;
/// B: the guest sets the time, so updates are held.
const SET: u8 = 0x80;
const BINARY: u8 = 0x04;
const HOURS_24: u8 = 0x02;
/// B, when built: BCD, 24 hours, no interrupts.
const DEFAULT_B: u8 = HOURS_24;
/// C: some enabled flag is set.
const INTERRUPT: u8 = 0x80;
const PERIODIC: u8 = 0x40;
const ALARMED: u8 = 0x20;
const UPDATED: u8 = 0x10;
/// D: the battery is good.
const VALID: u8 = 0x80;
/// How long before a second ends "update in progress" shows: 244 us in which the chip promises valid registers, and
/// the 1984 us of its update, both spent before the registers change. So whoever has seen the bit clear has more
/// than 2 ms to read them all, which matters where each access is a slow exit.
const UPDATE: Duration = Duration::from_micros(244 + 1984);

/// What the guest sees behind the index and the data port.
pub(super) struct Registers {
    /// The selected register, 0 to 127.
    index: u8,
    status_a: u8,
    status_b: u8,
    /// Seconds that the guest's time is ahead of the clock's wall time.
    offset: i64,
    /// What the guest has written into the time registers, while it holds updates.
    held: Option<TimeBytes>,
    /// CMOS RAM; the time and status registers in it are not used.
    ram: [u8; CMOS_LEN],
    /// When status C was last read: guest time in seconds, and monotonic time. Its flags are about what came since.
    flags_read: (i64, Duration),
}

impl Registers {
    pub fn new(config: &RtcConfig, clock: &dyn Clock) -> Self {
        Self {
            index: 0,
            status_a: DEFAULT_A,
            status_b: DEFAULT_B,
            offset: 0,
            held: None,
            ram: config.cmos(),
            flags_read: (calendar::seconds(clock.wall(), 0), clock.monotonic()),
        }
    }

    pub fn reset(&mut self, clock: &dyn Clock) {
        // On the battery: how far the guest's time is off, and RAM.
        let Self { index, status_a, status_b, offset, held, ram: _, flags_read } = self;
        *index = 0;
        *status_a = DEFAULT_A;
        *status_b = DEFAULT_B;
        *held = None;
        *flags_read = (calendar::seconds(clock.wall(), *offset), clock.monotonic());
    }

    pub fn select(&mut self, index: u8) {
        self.index = index & 0x7f;
    }

    pub fn read(&mut self, clock: &dyn Clock) -> u8 {
        match self.index {
            STATUS_A => self.status_a | if self.updating(clock) { UPDATING } else { 0 },
            STATUS_B => self.status_b,
            STATUS_C => self.take_flags(clock),
            STATUS_D => VALID,
            index => match time_register(index) {
                Some(at) => self.time(clock).get(at).copied().unwrap_or(0xff),
                None => self.ram.get(usize::from(index)).copied().unwrap_or(0xff),
            },
        }
    }

    pub fn write(&mut self, value: u8, clock: &dyn Clock) {
        match self.index {
            STATUS_A => self.status_a = value & !UPDATING,
            STATUS_B => self.write_status_b(value, clock),
            STATUS_C | STATUS_D => {}
            index => match time_register(index) {
                Some(at) => self.write_time(at, value, clock),
                None => {
                    if let Some(byte) = self.ram.get_mut(usize::from(index)) {
                        *byte = value;
                    }
                }
            },
        }
    }

    pub fn save(&self) -> RtcState {
        RtcState {
            index: self.index,
            status_a: self.status_a,
            status_b: self.status_b,
            offset_seconds: self.offset,
            held_time: self.held,
            ram: self.ram.to_vec(),
        }
    }

    pub fn restore(&mut self, state: &RtcState, clock: &dyn Clock) -> Result<(), RestoreError> {
        let ram = state.ram.as_slice().try_into();
        let ram = ram.map_err(|_| invalid(format!("{} bytes of CMOS RAM, not 128", state.ram.len())))?;
        if state.held_time.is_some() != (state.status_b & SET != 0) {
            return Err(invalid("held time and the SET bit of status B contradict each other".into()));
        }
        *self = Self {
            index: state.index & 0x7f,
            status_a: state.status_a & !UPDATING,
            status_b: state.status_b,
            offset: state.offset_seconds,
            held: state.held_time,
            ram,
            flags_read: (calendar::seconds(clock.wall(), state.offset_seconds), clock.monotonic()),
        };
        Ok(())
    }

    fn format(&self) -> Format {
        Format { binary: self.status_b & BINARY != 0, hours_24: self.status_b & HOURS_24 != 0 }
    }

    fn now(&self, clock: &dyn Clock) -> i64 {
        calendar::seconds(clock.wall(), self.offset)
    }

    fn time(&self, clock: &dyn Clock) -> TimeBytes {
        self.held.unwrap_or_else(|| calendar::encode(self.now(clock), self.format()))
    }

    fn updating(&self, clock: &dyn Clock) -> bool {
        let rest = Duration::from_nanos(1_000_000_000 - u64::from(clock.wall().subsec_nanos()));
        self.held.is_none() && rest <= UPDATE
    }

    fn write_status_b(&mut self, value: u8, clock: &dyn Clock) {
        // What is in the registers is in the old format, what comes out of them in the new one: as on the chip,
        // which keeps the bytes.
        match (self.held, value & SET != 0) {
            (None, true) => self.held = Some(self.time(clock)),
            (Some(held), false) => {
                self.status_b = value;
                self.held = None;
                self.set_time(held, clock);
            }
            _ => {}
        }
        self.status_b = value;
    }

    fn write_time(&mut self, at: usize, value: u8, clock: &dyn Clock) {
        let mut bytes = self.time(clock);
        if let Some(byte) = bytes.get_mut(at) {
            *byte = value;
        }
        match self.held {
            Some(_) => self.held = Some(bytes),
            None => self.set_time(bytes, clock),
        }
    }

    /// Sets the guest's time. Bytes that are no time leave it as it is.
    fn set_time(&mut self, bytes: TimeBytes, clock: &dyn Clock) {
        if let Some(time) = calendar::decode(bytes, self.format()) {
            self.offset = time.saturating_sub(calendar::seconds(clock.wall(), 0));
            self.flags_read.0 = time;
        }
    }

    /// Status C: what has happened since it was read last.
    fn take_flags(&mut self, clock: &dyn Clock) -> u8 {
        let (now, monotonic) = (self.now(clock), clock.monotonic());
        let (last, last_monotonic) = std::mem::replace(&mut self.flags_read, (now, monotonic));
        let mut flags = 0;
        if self.held.is_none() && now > last {
            flags |= UPDATED;
            if self.next_alarm(last).is_some_and(|alarm| alarm <= now) {
                flags |= ALARMED;
            }
        }
        if let Some(period) = self.period()
            && monotonic.as_nanos() / period != last_monotonic.as_nanos() / period
        {
            flags |= PERIODIC;
        }
        // The enable bits of B are where the flags of C are.
        flags | if flags & self.status_b != 0 { INTERRUPT } else { 0 }
    }

    /// The first second after `time` that the alarm registers match; a value of 0xc0 or more matches all.
    fn next_alarm(&self, time: i64) -> Option<i64> {
        let format = self.format();
        let [second, minute, hour] = ALARM.map(|at| self.ram.get(at).copied().unwrap_or(0));
        let wanted = |byte: u8, parsed: Option<i64>| if byte >= 0xc0 { Some(None) } else { parsed.map(Some) };
        let second = wanted(second, format.parse_sixty(second))?;
        let minute = wanted(minute, format.parse_sixty(minute))?;
        let hour = wanted(hour, format.parse_hour(hour))?;
        let mut at = time.saturating_add(1);
        // At most a day of hours, an hour of minutes and a minute of seconds.
        for _ in 0..(24 + 60 + 60) {
            let step = if hour.is_some_and(|h| h != at.rem_euclid(86_400) / 3600) {
                3600
            } else if minute.is_some_and(|m| m != at.rem_euclid(3600) / 60) {
                60
            } else if second.is_some_and(|s| s != at.rem_euclid(60)) {
                1
            } else {
                return Some(at);
            };
            at += step - at.rem_euclid(step);
        }
        None
    }

    /// The period of the periodic flag in nanoseconds, if status A selects one.
    fn period(&self) -> Option<u128> {
        // The two fastest rates of the divider are those of two slower ones.
        let shift = match self.status_a & 0x0f {
            0 => return None,
            rate @ (1 | 2) => rate + 6,
            rate => rate - 1,
        };
        Some((1_000_000_000 << shift) / 32_768)
    }
}

fn time_register(index: u8) -> Option<usize> {
    TIME_REGISTERS.iter().position(|r| *r == index)
}
