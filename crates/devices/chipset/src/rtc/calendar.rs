//! Dates, and their form in the clock's registers.

use std::time::Duration;

const DAY: i64 = 86_400;
/// 0000-01-01 00:00:00 and 9999-12-31 23:59:59, in seconds since 1970: what four digits of year can show.
const FIRST: i64 = -62_167_219_200;
const LAST: i64 = 253_402_300_799;

/// The registers that show the time, in the order in which this file uses them.
pub(super) const TIME_REGISTERS: [u8; 8] =
    [0x00, 0x02, 0x04, 0x06, 0x07, 0x08, 0x09, super::RTC_CENTURY_REGISTER];

/// Their contents.
pub(super) type TimeBytes = [u8; TIME_REGISTERS.len()];

/// How numbers are written in the registers; bits of status B.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Format {
    pub binary: bool,
    pub hours_24: bool,
}

/// Whole seconds of `time`, kept to the years that can be shown.
pub(super) fn seconds(time: Duration, offset: i64) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX).saturating_add(offset).clamp(FIRST, LAST)
}

/// The register contents for `time`, in seconds since 1970.
pub(super) fn encode(time: i64, format: Format) -> TimeBytes {
    let time = time.clamp(FIRST, LAST);
    let (days, second) = (time.div_euclid(DAY), time.rem_euclid(DAY));
    let (year, month, day) = civil_from_days(days);
    let weekday = (days + 4).rem_euclid(7) + 1; // 1970-01-01 was a Thursday, and Sunday is 1.
    let number = |n: i64| format.number(n);
    [
        number(second % 60),
        number(second / 60 % 60),
        format.hour(second / 3600),
        number(weekday),
        number(day),
        number(month),
        number(year.rem_euclid(100)),
        number(year.div_euclid(100)),
    ]
}

/// The time that register contents stand for, if they do: a number out of range stands for none. A day past the
/// month's end (which is there for a moment when a guest sets one register after the other) is one of the next.
pub(super) fn decode(bytes: TimeBytes, format: Format) -> Option<i64> {
    let [second, minute, hour, _weekday, day, month, year, century] = bytes;
    let number = |byte, low, high| format.parse(byte).filter(|n| (low..=high).contains(n));
    let hour = format.parse_hour(hour)?;
    let (second, minute) = (number(second, 0, 59)?, number(minute, 0, 59)?);
    let (day, month) = (number(day, 1, 31)?, number(month, 1, 12)?);
    let year = number(century, 0, 99)? * 100 + number(year, 0, 99)?;
    Some((days_from_civil(year, month) + day - 1) * DAY + hour * 3600 + minute * 60 + second)
}

impl Format {
    fn number(self, n: i64) -> u8 {
        let n = u8::try_from(n).unwrap_or(0);
        if self.binary { n } else { ((n / 10 % 10) << 4) | (n % 10) }
    }

    fn hour(self, hour: i64) -> u8 {
        if self.hours_24 {
            return self.number(hour);
        }
        let afternoon = if hour >= 12 { 0x80 } else { 0 };
        self.number((hour + 11) % 12 + 1) | afternoon
    }

    fn parse(self, byte: u8) -> Option<i64> {
        let (tens, ones) = (byte >> 4, byte & 0xf);
        match self.binary {
            true => Some(byte.into()),
            false => (tens < 10 && ones < 10).then(|| i64::from(tens * 10 + ones)),
        }
    }

    /// An hour, from 0 to 23.
    pub fn parse_hour(self, byte: u8) -> Option<i64> {
        if self.hours_24 {
            return self.parse(byte).filter(|h| *h < 24);
        }
        let hour = self.parse(byte & 0x7f).filter(|h| (1..=12).contains(h))?;
        Some(hour % 12 + if byte & 0x80 != 0 { 12 } else { 0 })
    }

    /// A minute or a second.
    pub fn parse_sixty(self, byte: u8) -> Option<i64> {
        self.parse(byte).filter(|n| *n < 60)
    }
}

/// Days from 1970-01-01 to the first of a month, in the proleptic Gregorian calendar. Years are counted from March,
/// so that the leap day is a year's last.
fn days_from_civil(year: i64, month: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The year, month and day of month of a day counted from 1970-01-01.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}
