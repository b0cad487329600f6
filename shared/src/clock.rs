//! The only reader of clocks and the only sleeper. Everything else gets time as an input.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Monotonic time now.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
#[must_use]
pub fn now() -> Instant {
    Instant::now()
}

/// Wall-clock milliseconds since the Unix epoch, for what people read.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
#[must_use]
pub fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Blocks this thread; for back-off in threads that have nothing to wait on.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

/// Microseconds of CLOCK_MONOTONIC (clock_gettime(2)): comparable between processes of one boot.
#[must_use]
pub fn monotonic_us() -> u64 {
    use nix::time::{ClockId, clock_gettime};
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| {
        let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
        let micros = u64::try_from(time.tv_nsec() / 1_000).unwrap_or(0);
        seconds * 1_000_000 + micros
    })
}
