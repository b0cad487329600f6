//! Quantities for people, short enough for a column.

use tasuki_shared::status::RecycleStatus;

/// Cut to a tenth: `12.3M` is 12.3 MiB.
pub(super) fn bytes(bytes: u64) -> String {
    for (shift, unit) in [(40, "T"), (30, "G"), (20, "M"), (10, "K")] {
        if bytes >= 1 << shift {
            return tenths((u128::from(bytes) * 10) >> shift, unit);
        }
    }
    bytes.to_string()
}

/// `4.9M` is 4.9 Mb/s.
pub(super) fn bitrate(bps: u64) -> String {
    if bps >= 1_000_000 {
        tenths(u128::from(bps) / 100_000, "M")
    } else if bps >= 1000 {
        format!("{}k", bps / 1000)
    } else {
        bps.to_string()
    }
}

/// The two largest units: `3d04h`, `1h02m`, `5m09s`, `12s`.
pub(super) fn age(ms: u64) -> String {
    let (s, m, h) = (ms / 1000, ms / 60_000, ms / 3_600_000);
    match (s, h) {
        (0..60, _) => format!("{s}s"),
        (60..3600, _) => format!("{m}m{:02}s", s % 60),
        (_, 0..24) => format!("{h}h{:02}m", m % 60),
        (_, 24..) => format!("{}d{:02}h", h / 24, h % 24),
    }
}

/// `w0/g7`, or `w4/g9 delivery` of what is no worker.
pub(super) fn replaced(recycle: &RecycleStatus) -> String {
    let RecycleStatus { worker, generation, role, .. } = recycle;
    let process = format!("{worker}/g{generation}");
    if is_service(role) { format!("{process} {role}") } else { process }
}

/// Has a process of this role no session? Old servers told no role, and replaced workers only.
pub(super) fn is_service(role: &str) -> bool {
    !matches!(role, "" | "worker")
}

/// `120ms`, `4.1s`.
pub(super) fn lag(ms: u64) -> String {
    if ms < 1000 { format!("{ms}ms") } else { tenths(u128::from(ms / 100), "s") }
}

/// `0.7ms`, `12.0ms`.
pub(super) fn pause(us: u64) -> String {
    tenths(u128::from(us / 100), "ms")
}

/// RFC 3339, in UTC.
pub(super) fn utc(unix_ms: u64) -> String {
    let (days, ms) = (unix_ms / 86_400_000, unix_ms % 86_400_000);
    let (year, month, day) = date(days);
    let (s, ms) = (ms / 1000, ms % 1000);
    let (h, m, s) = (s / 3600, s / 60 % 60, s % 60);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{ms:03}Z")
}

/// Without control characters: what others said must not steer the terminal, nor turn the order of
/// what stands beside it (Unicode's Bidi_Control).
pub(super) fn printable(text: &str) -> String {
    let turns = |c| matches!(c, '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|c| if c.is_control() || turns(c) { '?' } else { c }).collect()
}

fn tenths(tenths: u128, unit: &str) -> String {
    format!("{}.{}{unit}", tenths / 10, tenths % 10)
}

/// Year, month and day of a number of days since 1970-01-01 in the Gregorian calendar, by
/// counting in eras of 400 years that begin on 1 March.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_short_and_cut_not_rounded() {
        assert_eq!(bytes(0), "0");
        assert_eq!(bytes(1023), "1023");
        assert_eq!(bytes(12 << 20), "12.0M");
        assert_eq!(bytes(u64::MAX), "16777215.9T");
        assert_eq!(bitrate(4_980_000), "4.9M");
        assert_eq!(bitrate(600_000), "600k");
        assert_eq!(lag(120), "120ms");
        assert_eq!(lag(4199), "4.1s");
        assert_eq!(pause(740), "0.7ms");
    }

    #[test]
    fn an_age_shows_its_two_largest_units() {
        assert_eq!(age(12_999), "12s");
        assert_eq!(age(309_000), "5m09s");
        assert_eq!(age(3_720_000), "1h02m");
        assert_eq!(age(100 * 3_600_000), "4d04h");
    }

    #[test]
    fn a_time_is_shown_in_utc_leap_days_included() {
        assert_eq!(utc(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(utc(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(utc(1_709_251_199_999), "2024-02-29T23:59:59.999Z");
        assert_eq!(utc(1_709_251_200_000), "2024-03-01T00:00:00.000Z");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\u{9b}c"), "a?[2Jb?c");
        assert_eq!(printable("a\u{202e}b\u{2066}é襷"), "a?b?é襷");
    }
}
