//! Times of the wall clock as text, by the proleptic Gregorian calendar.

/// `yyyymmddThhmmssZ`, for names of files.
#[must_use]
pub fn compact(unix_seconds: u64) -> String {
    let Utc { year, month, day, hour, minute, second } = Utc::of(unix_seconds);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

/// `yyyy-mm-ddThh:mm:ss.mmmZ` (ISO/IEC 8601), as EXT-X-PROGRAM-DATE-TIME wants it.
#[must_use]
pub fn extended(unix_ms: u64) -> String {
    let Utc { year, month, day, hour, minute, second } = Utc::of(unix_ms / 1000);
    let ms = unix_ms % 1000;
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

struct Utc {
    year: u64,
    month: u64,
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
}

impl Utc {
    fn of(unix_seconds: u64) -> Self {
        let (days, seconds) = (unix_seconds / 86_400, unix_seconds % 86_400);
        // Years counted from March, so that a leap day is a year's last (400 years are 146097 days).
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = era * 400 + year_of_era + u64::from(month <= 2);
        let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
        Self { year, month, day, hour, minute, second }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let all = [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_790_000_000_001, "2026-09-21T14:13:20.001Z"),
            (4_102_444_800_000, "2100-01-01T00:00:00.000Z"),
        ];
        for (ms, text) in all {
            assert_eq!(extended(ms), text);
        }
        assert_eq!(compact(1_790_000_000), "20260921T141320Z");
    }
}
