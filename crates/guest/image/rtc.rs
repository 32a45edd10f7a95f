//! The real-time clock (MC146818), through its port pair.

use core::fmt::{self, Display};

/// Date and time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Time {
    pub year: u32,
    pub month: u8,
    pub day: u8,
    pub hour: u8,
    pub minute: u8,
    pub second: u8,
}

impl Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { year, month, day, hour, minute, second } = self;
        write!(f, "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
    }
}

const BINARY: u8 = 1 << 2;
const HOURS_24: u8 = 1 << 1;
const PM: u8 = 1 << 7;
const UPDATING: u8 = 1 << 7;

/// Reads it with `read`, which answers a register's number; twice, until both agree. `None` if there is no clock.
pub fn read(read: impl Fn(u8) -> u8) -> Option<Time> {
    let once = || {
        // An update takes two milliseconds.
        (0..10_000).find(|_| read(0x0a) & UPDATING == 0)?;
        Some([0, 2, 4, 7, 8, 9, 0x32].map(&read))
    };
    let mut before = once()?;
    for _ in 0..10 {
        let now = once()?;
        if now == before {
            return decode(now, read(0x0b));
        }
        before = now;
    }
    None
}

fn decode(registers: [u8; 7], mode: u8) -> Option<Time> {
    let number = |raw: u8| if mode & BINARY != 0 { raw } else { (raw >> 4) * 10 + (raw & 0xf) };
    let [second, minute, raw_hour, day, month, year, century] = registers;
    let hour = number(raw_hour & !PM);
    let hour = match (mode & HOURS_24 != 0, raw_hour & PM != 0) {
        (true, _) => number(raw_hour),
        (false, pm) => hour % 12 + if pm { 12 } else { 0 },
    };
    let [second, minute, day, month, year, century] = [second, minute, day, month, year, century].map(number);
    let sane = month != 0 && month <= 12 && day != 0 && day <= 31 && hour < 24;
    let century = if century == 0 { 20 } else { century };
    let year = u32::from(century) * 100 + u32::from(year);
    sane.then_some(Time { year, month, day, hour, minute, second })
}
