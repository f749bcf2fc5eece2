//! Timestamps of log lines, written without allocation and without a time zone database.

use std::time::{SystemTime, UNIX_EPOCH};

/// A point in time, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamp {
    /// Seconds since 1970-01-01T00:00:00Z; never negative (a clock before 1970 reads as 1970).
    pub seconds: u64,
    /// 0..=999_999_999.
    pub nanoseconds: u32,
}

impl Timestamp {
    /// The wall clock's time now.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            seconds: since.as_secs(),
            nanoseconds: since.subsec_nanos(),
        }
    }

    /// RFC 3339 with nine digits after the point, e.g. `2026-11-24T00:00:00.123456789Z`. All stamps have one width, so
    /// that lines sort as text.
    pub fn rfc3339(self) -> [u8; 30] {
        let mut text = *b"0000-00-00T00:00:00.000000000Z";
        let (year, month, day) = civil_date(self.seconds / 86_400);
        let second_of_day = self.seconds % 86_400;
        digits(&mut text[0..4], year);
        digits(&mut text[5..7], month);
        digits(&mut text[8..10], day);
        digits(&mut text[11..13], second_of_day / 3600);
        digits(&mut text[14..16], second_of_day / 60 % 60);
        digits(&mut text[17..19], second_of_day % 60);
        digits(&mut text[20..29], u64::from(self.nanoseconds));
        text
    }
}

fn digits(field: &mut [u8], mut value: u64) {
    for place in field.iter_mut().rev() {
        *place = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// Gregorian date of a day number counted from 1970-01-01.
fn civil_date(day: u64) -> (u64, u64, u64) {
    // 400 Gregorian years are 146,097 days. Counting years from 1 March puts the leap day last, so that the lengths of
    // the months before it follow the fixed pattern of 153 days per five months.
    let from_march_0000 = day + 719_468;
    let era = from_march_0000 / 146_097;
    let day_of_era = from_march_0000 % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day_of_month)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(seconds: u64, nanoseconds: u32) -> String {
        let stamp = Timestamp { seconds, nanoseconds };
        String::from_utf8(stamp.rfc3339().to_vec()).unwrap()
    }

    #[test]
    fn writes_known_dates() {
        assert_eq!(text(0, 0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(text(951_782_399, 5), "2000-02-28T23:59:59.000000005Z");
        assert_eq!(text(951_782_400, 0), "2000-02-29T00:00:00.000000000Z");
        assert_eq!(text(1_709_251_200, 999_999_999), "2024-03-01T00:00:00.999999999Z");
        assert_eq!(text(1_795_478_400, 0), "2026-11-24T00:00:00.000000000Z");
        assert_eq!(text(4_102_444_799, 0), "2099-12-31T23:59:59.000000000Z");
    }

    #[test]
    fn every_day_of_four_centuries_follows_the_one_before() {
        let mut previous = civil_date(0);
        for day in 1..146_097 {
            let date = civil_date(day);
            let same_month = (previous.0, previous.1, previous.2 + 1) == date;
            let next_month = date.2 == 1
                && previous.2 >= 28
                && ((previous.0, previous.1 + 1) == (date.0, date.1)
                    || (previous.0 + 1, 1, 12) == (date.0, date.1, previous.1));
            assert!(same_month || next_month, "{previous:?} then {date:?}");
            previous = date;
        }
        assert_eq!(previous, (2369, 12, 31));
    }
}
