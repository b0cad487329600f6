//! What the renditions of a stream have in common while it is packaged: the wall clock of its
//! timeline, the number of a first segment, and the discontinuities. Pure.

use super::breaks::Breaks;
use super::place::PartNumber;
use tasuki_shared::limits::HLS_BURST_MS_MAX;

/// The wall clock is set by the first part of any rendition, and knows nothing of later steps of the
/// clock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Epoch {
    /// Wall clock minus timeline.
    pub offset_ms: Option<i64>,
    /// The least of those of what was received so far, and that of what was received first.
    pub(super) received: Option<Received>,
    pub first_segment: Option<u64>,
    pub breaks: Breaks,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Received {
    first_ms: i64,
    least_ms: i64,
}

impl Epoch {
    /// A packet of this time is here. Of a publisher that was late several seconds come at once: then
    /// the newest of them is of now, for nothing is received before it is made.
    pub fn received(&mut self, at_ms: i64, now_unix_ms: u64) {
        if self.offset_ms.is_some() {
            return;
        }
        let offset_ms = millis(now_unix_ms).saturating_sub(at_ms);
        let first = Received { first_ms: offset_ms, least_ms: offset_ms };
        let Received { first_ms, least_ms } = self.received.get_or_insert(first);
        // A stamp that is absurdly late is no burst.
        if offset_ms >= first_ms.saturating_sub(HLS_BURST_MS_MAX) {
            *least_ms = offset_ms.min(*least_ms);
        }
    }

    /// Of a part, which says it for all that follow.
    pub fn unix_ms(&mut self, at_ms: i64, now_unix_ms: u64) -> u64 {
        let of_now = millis(now_unix_ms).saturating_sub(at_ms);
        let offset_ms = self.received.map_or(of_now, |received| received.least_ms);
        let offset_ms = *self.offset_ms.get_or_insert(offset_ms);
        u64::try_from(offset_ms.saturating_add(at_ms)).unwrap_or(0)
    }

    /// Larger than any number of a directory that was there before: seconds, for segments are longer.
    pub fn first(&mut self, now_unix_ms: u64) -> PartNumber {
        let segment = *self.first_segment.get_or_insert(now_unix_ms / 1000);
        PartNumber { segment, part: 0 }
    }
}

fn millis(unix_ms: u64) -> i64 {
    i64::try_from(unix_ms).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_790_000_000_000;

    /// What was held up in front of us is dated by its newest, so that no part is of the future; what
    /// comes later changes nothing.
    #[test]
    fn a_burst_is_dated_by_its_newest_packet() {
        let mut epoch = Epoch::default();
        for at_ms in [0, 40, 1_200] {
            epoch.received(at_ms, NOW_MS);
        }
        assert_eq!(epoch.unix_ms(0, NOW_MS + 3), NOW_MS - 1_200);
        epoch.received(9_000, NOW_MS + 10);
        assert_eq!(epoch.unix_ms(1_200, NOW_MS + 9_999), NOW_MS);
    }

    #[test]
    fn an_absurd_stamp_dates_nothing() {
        let mut epoch = Epoch::default();
        epoch.received(0, NOW_MS);
        epoch.received(3_600_000, NOW_MS + 40);
        assert_eq!(epoch.unix_ms(0, NOW_MS + 40), NOW_MS);
        assert_eq!(Epoch::default().unix_ms(500, NOW_MS), NOW_MS);
    }
}
