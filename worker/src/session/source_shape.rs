//! What the newest packets of the source log tell of its publisher. Looked at when somebody asks,
//! kept nowhere.

use tasuki_shared::memory::log::{EntryKind, LogWriter};

/// Packets that are looked at, from the newest back: more than ten seconds of most sources.
const PACKETS_MAX: u64 = 2048;

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceShape {
    /// Between the last two keyframes; 0 before there are two.
    pub keyframe_interval_ms: u64,
    /// Newest sound minus newest picture; 0 without one of them.
    pub av_skew_ms: i64,
}

impl SourceShape {
    pub fn of(source: &LogWriter) -> Self {
        let head = source.heads().index_head;
        let indices = (head.saturating_sub(PACKETS_MAX)..head).rev();
        Self::of_packets(
            indices.map_while(|index| source.entry(index)).map(|it| (it.kind, it.dts_ms)),
        )
    }

    /// Kinds and times, newest first.
    fn of_packets(packets: impl Iterator<Item = (EntryKind, i64)>) -> Self {
        let (mut picture, mut sound, mut keyframe) = (None, None, None);
        let mut shape = Self::default();
        for (kind, dts_ms) in packets {
            let of = match kind {
                EntryKind::Audio => &mut sound,
                EntryKind::VideoIdr | EntryKind::VideoInter | EntryKind::VideoDisposable => {
                    &mut picture
                }
                EntryKind::VideoHeader
                | EntryKind::AudioHeader
                | EntryKind::Metadata
                | EntryKind::VideoOther
                | EntryKind::AudioOther => continue,
            };
            of.get_or_insert(dts_ms);
            if kind != EntryKind::VideoIdr {
                continue;
            }
            if let Some(newer) = keyframe {
                shape.keyframe_interval_ms = u64::try_from(newer - dts_ms).unwrap_or(0);
                break;
            }
            keyframe = Some(dts_ms);
        }
        if let (Some(picture), Some(sound)) = (picture, sound) {
            shape.av_skew_ms = sound - picture;
        }
        shape
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the newest packets back to the last keyframe but one.
    #[test]
    fn keyframes_and_skew_are_read_from_the_newest_packets() {
        let packets = [
            (EntryKind::Audio, 5_020),
            (EntryKind::VideoInter, 5_000),
            (EntryKind::VideoIdr, 4_000),
            (EntryKind::Audio, 3_990),
            (EntryKind::VideoIdr, 1_900),
            (EntryKind::VideoIdr, 100),
        ];
        let shape = SourceShape::of_packets(packets.into_iter());
        assert_eq!(shape, SourceShape { keyframe_interval_ms: 2_100, av_skew_ms: 20 });
        let first = SourceShape::of_packets(packets[1..3].iter().copied());
        assert_eq!(first, SourceShape::default());
    }
}
