//! How large a stream's logs are: powers of two, from bitrate and time.

use crate::limits::{
    AUDIO_LOG_BYTES_MIN, LOG_SPAN, RUNG_LOG_BYTES_MIN, SOURCE_LOG_BYTES_MAX, SOURCE_LOG_BYTES_MIN,
    SOURCE_LOG_RESERVE_BYTES,
};
use crate::plan::LogSize;
use std::time::Duration;

/// AAC at 48 kHz is 46.9 packets a second.
const AUDIO_PACKETS_PER_SECOND: u64 = 50;
const INDEX_ENTRIES_MIN: u64 = 1024;
const INDEX_ENTRIES_MAX: u64 = 65_536;

/// The source log: one GOP at the bitrate cap, and a reserve. `Err` is the size it would need,
/// where that is more than a log may have.
pub(super) fn source_log(bitrate_bps: u64, gop: Duration, fps: u32) -> Result<LogSize, u64> {
    let payload_bytes = bytes_in(bitrate_bps, gop)
        .saturating_add(SOURCE_LOG_RESERVE_BYTES)
        .checked_next_power_of_two()
        .unwrap_or(u64::MAX)
        .max(SOURCE_LOG_BYTES_MIN);
    if payload_bytes > SOURCE_LOG_BYTES_MAX {
        return Err(payload_bytes);
    }
    // Sources run well below their cap: the index covers four times the time at the cap.
    let span = gop.max(LOG_SPAN).saturating_mul(4);
    let entries = packets_in(u64::from(fps) + AUDIO_PACKETS_PER_SECOND, span);
    Ok(LogSize { payload_bytes, index_entries: index_entries(entries) })
}

/// The log of an encoded rung: `LOG_SPAN` at its bitrate.
pub(super) fn rung_log(bitrate_bps: u64, fps: u32) -> LogSize {
    sized(bitrate_bps, RUNG_LOG_BYTES_MIN, u64::from(fps))
}

/// The log of transcoded audio.
pub(super) fn audio_log(bitrate_bps: u64) -> LogSize {
    sized(bitrate_bps, AUDIO_LOG_BYTES_MIN, AUDIO_PACKETS_PER_SECOND)
}

fn sized(bitrate_bps: u64, bytes_min: u64, packets_per_second: u64) -> LogSize {
    let payload_bytes = bytes_in(bitrate_bps, LOG_SPAN)
        .checked_next_power_of_two()
        .unwrap_or(u64::MAX)
        .max(bytes_min);
    // The rounded-up payload may hold up to twice the time; so may the index.
    let entries = packets_in(packets_per_second, LOG_SPAN * 2);
    LogSize { payload_bytes, index_entries: index_entries(entries) }
}

fn bytes_in(bitrate_bps: u64, span: Duration) -> u64 {
    let bytes = u128::from(bitrate_bps).saturating_mul(span.as_millis()) / 8000;
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

fn packets_in(packets_per_second: u64, span: Duration) -> u64 {
    packets_per_second.saturating_mul(span.as_secs().saturating_add(1))
}

fn index_entries(packets: u64) -> u32 {
    let entries = packets.clamp(INDEX_ENTRIES_MIN, INDEX_ENTRIES_MAX).next_power_of_two();
    u32::try_from(entries).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_source_log_holds_eight_seconds_at_eight_megabits_in_eight_mebibytes() {
        let log = source_log(8_000_000, Duration::from_secs(8), 60).unwrap();
        assert_eq!(log, LogSize { payload_bytes: 8 << 20, index_entries: 4096 });
    }

    #[test]
    fn a_source_log_over_the_bound_is_refused_with_its_size() {
        assert_eq!(source_log(200_000_000, Duration::from_secs(8), 60), Err(256 << 20));
        assert!(source_log(u64::MAX, Duration::MAX, u32::MAX).is_err());
    }

    #[test]
    fn rung_logs_follow_their_bitrate_and_never_fall_below_the_minimum() {
        assert_eq!(rung_log(2_500_000, 60).payload_bytes, 4 << 20);
        assert_eq!(rung_log(600_000, 60).payload_bytes, 1 << 20);
        assert_eq!(rung_log(50_000, 60).payload_bytes, 512 << 10);
        assert!(rung_log(2_500_000, 60).index_entries >= 60 * 16);
        assert_eq!(audio_log(128_000), LogSize { payload_bytes: 256 << 10, index_entries: 1024 });
    }
}
