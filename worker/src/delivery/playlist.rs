//! Playlists as text: RFC 8216 and its second edition (draft-pantos-hls-rfc8216bis), Low-Latency HLS.
//!
//! Pure. A media playlist follows from a rendition alone, so it is the same whoever renders it.

use super::rendition::{Part, Presence, Rendition, Segment};
use crate::output::hls::place::{Independent, PartNumber, StreamFile};
use crate::package::fmp4::EMPTY_FRAGMENT_BYTES;
use crate::package::utc;
use std::fmt::Write as _;
use tasuki_shared::limits::{HLS_GAP_MS, HLS_PICTURE_AHEAD_MS};

/// Delta updates need 9 (EXT-X-SKIP).
const VERSION: u32 = 9;
/// How much of the past has its parts listed, in target durations: a client joins at the edge.
const PARTS_TARGETS: u64 = 3;
/// A client may skip what is older than this many target durations (at least 6).
const SKIP_TARGETS: u64 = 6;
/// And should stay so far behind the edge without parts (at least 3), with parts in part targets.
const HOLD_BACK_TARGETS: u64 = 3;
const PART_HOLD_BACK_TARGETS: u64 = 3;

/// Does more come?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Open,
    Ended,
}

/// How much a media playlist tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    Full,
    /// `_HLS_skip`: old segments are left out where there are any.
    Delta,
}

/// Are a whole segment's parts told of?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parts {
    Listed,
    Old,
}

/// Another rendition of the same stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sibling {
    pub label: String,
    pub edge: PartNumber,
}

/// Everything older than this is left out of a playlist, and its parts are not listed.
#[must_use]
pub const fn parts_span_ms(target_ms: u64) -> u64 {
    PARTS_TARGETS * target_ms
}

/// The multivariant playlist (EXT-X-STREAM-INF for each).
#[must_use]
pub fn multivariant<'a>(renditions: impl Iterator<Item = &'a Rendition>) -> String {
    let mut text = format!("#EXTM3U\n#EXT-X-VERSION:{VERSION}\n#EXT-X-INDEPENDENT-SEGMENTS\n");
    for rendition in renditions {
        let Some(init) = rendition.init() else { continue };
        let (peak, average) = rendition.bandwidth_bps();
        let mhz = rendition.frame_rate_mhz();
        put(
            &mut text,
            format_args!(
                "#EXT-X-STREAM-INF:BANDWIDTH={peak},AVERAGE-BANDWIDTH={average},CODECS=\"{}\"",
                init.note.codecs
            ),
        );
        if init.note.width > 0 {
            let (width, height) = (init.note.width, init.note.height);
            put(
                &mut text,
                format_args!(
                    ",RESOLUTION={width}x{height},FRAME-RATE={}.{:03}",
                    mhz / 1000,
                    mhz % 1000
                ),
            );
        }
        put(&mut text, format_args!("\n{}/index.m3u8\n", rendition.label));
    }
    text
}

/// A media playlist of the last `window_ms`.
#[must_use]
pub fn media(
    rendition: &Rendition,
    about: &StreamFile,
    siblings: &[Sibling],
    ending: Ending,
    extent: Extent,
) -> String {
    let listed = listed(rendition, about.window_ms);
    let mut text = String::with_capacity(4096);
    let with_parts_from = with_parts_from(&listed, parts_span_ms(about.target_ms));
    head(&mut text, about, &listed, with_parts_from);
    let skipped = match (extent, ending) {
        (Extent::Delta, Ending::Open) => skippable(&listed, about.target_ms),
        // Of an ended one there are no updates (RFC 8216bis, 6.2.5.1).
        (Extent::Full, Ending::Open | Ending::Ended) | (Extent::Delta, Ending::Ended) => 0,
    };
    if skipped > 0 {
        put(&mut text, format_args!("#EXT-X-SKIP:SKIPPED-SEGMENTS={skipped}\n"));
    }
    let mut before = skipped.checked_sub(1).and_then(|at| listed[at].parts.last());
    for (at, segment) in listed.iter().enumerate().skip(skipped) {
        let parts = if at >= with_parts_from { Parts::Listed } else { Parts::Old };
        put_segment(&mut text, segment, before, parts);
        before = segment.parts.last();
    }
    if ending == Ending::Ended {
        text.push_str("#EXT-X-ENDLIST\n");
        return text;
    }
    if let Some(PartNumber { segment, part }) = rendition.next() {
        put(
            &mut text,
            format_args!("#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"{segment}.{part}.m4s\"\n"),
        );
    }
    for Sibling { label, edge } in siblings {
        let PartNumber { segment, part } = edge;
        put(
            &mut text,
            format_args!(
                "#EXT-X-RENDITION-REPORT:URI=\"../{label}/index.m3u8\",LAST-MSN={segment},LAST-PART={part}\n"
            ),
        );
    }
    text
}

fn head(text: &mut String, about: &StreamFile, listed: &[&Segment], with_parts_from: usize) {
    let target_s = about.target_ms.div_ceil(1000);
    let near = listed.iter().skip(with_parts_from).flat_map(|segment| &segment.parts);
    let part_ms = about.part_target_ms;
    // Whoever stays nearer to the edge than that runs dry between two pictures.
    let hold_back_ms = PART_HOLD_BACK_TARGETS * part_ms.max(longest_wait_ms(near));
    let first = listed.first();
    put(
        text,
        format_args!(
            "#EXTM3U\n#EXT-X-VERSION:{VERSION}\n#EXT-X-TARGETDURATION:{target_s}\n\
         #EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,CAN-SKIP-UNTIL={},HOLD-BACK={},\
         PART-HOLD-BACK={}\n#EXT-X-PART-INF:PART-TARGET={}\n",
            Seconds(SKIP_TARGETS * target_s * 1000),
            Seconds(HOLD_BACK_TARGETS * target_s * 1000),
            Seconds(hold_back_ms),
            Seconds(part_ms),
        ),
    );
    put(
        text,
        format_args!(
            "#EXT-X-MEDIA-SEQUENCE:{}\n#EXT-X-DISCONTINUITY-SEQUENCE:{}\n",
            first.map_or(0, |segment| segment.number),
            first.and_then(|s| s.parts.first()).map_or(0, |part| part.note.discontinuities),
        ),
    );
}

/// From one part that can be shown to the next. A player that has no picture waits, also where there is
/// sound; but sound waits for a picture only so long before it comes without, and a picture that stands
/// for longer than that is no frame rate. Without sound nothing comes before the next picture.
fn longest_wait_ms<'a>(parts: impl Iterator<Item = &'a Part>) -> u64 {
    let (mut longest_ms, mut wait_ms) = (0, 0);
    for part in parts {
        let duration_ms = u64::from(part.note.duration_ms);
        let has_sound = part.media_bytes > EMPTY_FRAGMENT_BYTES;
        wait_ms = match (part.note.frames, has_sound) {
            (1.., _) => duration_ms,
            (0, true) => (wait_ms + duration_ms).min(HLS_PICTURE_AHEAD_MS.unsigned_abs()),
            (0, false) => (wait_ms + duration_ms).min(HLS_GAP_MS.unsigned_abs()),
        };
        longest_ms = longest_ms.max(wait_ms);
    }
    longest_ms
}

fn put_segment(text: &mut String, segment: &Segment, before: Option<&Part>, parts: Parts) {
    let Some(first) = segment.parts.first() else { return };
    let breaks = before
        .map_or(0, |before| first.note.discontinuities.saturating_sub(before.note.discontinuities));
    // One for each, also for those that only others of the stream had: so that their counts agree.
    (0..breaks).for_each(|_| text.push_str("#EXT-X-DISCONTINUITY\n"));
    if before.is_none_or(|before| before.note.init != first.note.init) {
        put(text, format_args!("#EXT-X-MAP:URI=\"init.{}.mp4\"\n", first.note.init));
    }
    put(
        text,
        format_args!("#EXT-X-PROGRAM-DATE-TIME:{}\n", utc::extended(first.note.start_unix_ms)),
    );
    if parts == Parts::Listed || !segment.is_whole() {
        for (number, part) in segment.parts.iter().enumerate() {
            let duration = Seconds(u64::from(part.note.duration_ms));
            let uri = format_args!("{}.{number}.m4s", segment.number);
            put(text, format_args!("#EXT-X-PART:DURATION={duration},URI=\"{uri}\""));
            if part.note.independent == Independent::Yes {
                text.push_str(",INDEPENDENT=YES");
            }
            if part.presence == Presence::Missing {
                text.push_str(",GAP=YES");
            }
            text.push('\n');
        }
    }
    if segment.is_whole() {
        if segment.presence() == Presence::Missing {
            text.push_str("#EXT-X-GAP\n");
        }
        put(
            text,
            format_args!("#EXTINF:{},\n{}.m4s\n", Seconds(segment.duration_ms()), segment.number),
        );
    }
}

/// The segments of the last `window_ms`, at least the newest.
fn listed(rendition: &Rendition, window_ms: u64) -> Vec<&Segment> {
    let mut behind_ms = 0;
    let mut listed: Vec<&Segment> = rendition
        .segments
        .iter()
        .rev()
        .take_while(|segment| {
            let within = behind_ms <= window_ms;
            behind_ms += segment.duration_ms();
            within
        })
        .collect();
    listed.reverse();
    listed
}

/// The first segment whose parts are listed: none of them is older than the span, but for those of the
/// newest.
fn with_parts_from(listed: &[&Segment], span_ms: u64) -> usize {
    let mut behind_ms = 0;
    let near = listed.iter().rev().take_while(|segment| {
        let is_newest = behind_ms == 0;
        behind_ms += segment.duration_ms();
        is_newest || behind_ms <= span_ms
    });
    listed.len() - near.count()
}

/// Segments that lie wholly before the skip boundary.
fn skippable(listed: &[&Segment], target_ms: u64) -> usize {
    let boundary_ms = SKIP_TARGETS * target_ms.div_ceil(1000) * 1000;
    let mut behind_ms = 0;
    let near = listed.iter().rev().take_while(|segment| {
        let near = behind_ms < boundary_ms;
        behind_ms += segment.duration_ms();
        near
    });
    listed.len() - near.count()
}

fn put(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = text.write_fmt(arguments);
}

/// Milliseconds as a decimal number of seconds.
struct Seconds(u64);

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1000, self.0 % 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::super::rendition::tests::{filled, part};
    use super::*;
    use crate::output::hls::place::{Ends, InitHash, RenditionFile, RenditionKind};
    use proptest::prelude::*;
    use tasuki_shared::id::PublicName;

    fn about() -> StreamFile {
        let label = PublicName::parse("720p").unwrap();
        let renditions = vec![RenditionFile { label, kind: RenditionKind::Encoded }];
        StreamFile { target_ms: 4000, part_target_ms: 220, window_ms: 60_000, renditions }
    }

    fn of(rendition: &Rendition, ending: Ending, extent: Extent) -> String {
        let edge = PartNumber { segment: 9, part: 4 };
        let siblings = [Sibling { label: "480p".into(), edge }];
        media(rendition, &about(), &siblings, ending, extent)
    }

    /// Everything that a client reads of a stream that has just begun.
    #[test]
    fn a_young_stream_is_told_whole() {
        let text = of(&filled("720p", 7, 1, 2), Ending::Open, Extent::Full);
        let parts: String =
            (1..10).map(|n| format!("#EXT-X-PART:DURATION=0.200,URI=\"7.{n}.m4s\"\n")).collect();
        let expected = format!(
            "#EXTM3U\n#EXT-X-VERSION:9\n#EXT-X-TARGETDURATION:4\n\
             #EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,CAN-SKIP-UNTIL=24.000,HOLD-BACK=12.000,\
             PART-HOLD-BACK=0.660\n#EXT-X-PART-INF:PART-TARGET=0.220\n#EXT-X-MEDIA-SEQUENCE:7\n\
             #EXT-X-DISCONTINUITY-SEQUENCE:0\n#EXT-X-MAP:URI=\"init.0000000000000001.mp4\"\n\
             #EXT-X-PROGRAM-DATE-TIME:2026-09-21T14:13:20.000Z\n\
             #EXT-X-PART:DURATION=0.200,URI=\"7.0.m4s\",INDEPENDENT=YES\n{parts}\
             #EXTINF:2.000,\n7.m4s\n#EXT-X-PROGRAM-DATE-TIME:2026-09-21T14:13:22.000Z\n\
             #EXT-X-PART:DURATION=0.200,URI=\"8.0.m4s\",INDEPENDENT=YES\n\
             #EXT-X-PART:DURATION=0.200,URI=\"8.1.m4s\"\n\
             #EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"8.2.m4s\"\n\
             #EXT-X-RENDITION-REPORT:URI=\"../480p/index.m3u8\",LAST-MSN=9,LAST-PART=4\n"
        );
        assert_eq!(text, expected);
    }

    /// Behind a segment's last part the next segment is hinted at; at the end nothing is.
    #[test]
    fn the_hint_goes_on_to_the_next_segment_and_ends_with_the_stream() {
        let whole = filled("720p", 7, 2, 0);
        assert!(of(&whole, Ending::Open, Extent::Full).contains("HINT:TYPE=PART,URI=\"9.0.m4s\""));
        let ended = of(&whole, Ending::Ended, Extent::Full);
        assert!(ended.ends_with("8.m4s\n#EXT-X-ENDLIST\n"), "{ended}");
    }

    /// Whoever asks for an update of what is over gets all of it.
    #[test]
    fn nothing_is_skipped_at_the_end() {
        let rendition = filled("720p", 7, 40, 3);
        let full = of(&rendition, Ending::Ended, Extent::Full);
        assert_eq!(of(&rendition, Ending::Ended, Extent::Delta), full);
        assert!(of(&rendition, Ending::Open, Extent::Delta).contains("#EXT-X-SKIP"));
    }

    /// PART-TARGET is the stream's, whatever its parts are; who plays a stream of few pictures is told to
    /// stay far enough from the edge.
    #[test]
    fn the_part_target_stays_and_the_distance_follows_what_comes() {
        let mut rendition = filled("720p", 7, 1, 2);
        let inf = "PART-HOLD-BACK=0.660\n#EXT-X-PART-INF:PART-TARGET=0.220\n";
        assert!(of(&rendition, Ending::Open, Extent::Full).contains(inf));
        for at in 0..4 {
            let number = rendition.next().unwrap();
            let mut empty = part(2_400 + at * 220, 220, Ends::Part);
            (empty.note.frames, empty.media_bytes) = (0, EMPTY_FRAGMENT_BYTES);
            rendition.add(number, empty);
        }
        let text = of(&rendition, Ending::Open, Extent::Full);
        assert!(
            text.contains("PART-HOLD-BACK=3.240\n#EXT-X-PART-INF:PART-TARGET=0.220\n"),
            "{text}"
        );
    }

    /// A slow screen share with sound: each part has something, and a picture comes with every other one.
    /// A picture that stands for good asks for no more than the longest step between two.
    #[test]
    fn the_distance_follows_the_pictures_also_where_there_is_sound() {
        let mut rendition = filled("720p", 7, 1, 0);
        let mut sound = |at: i64, frames| {
            let number = rendition.next().unwrap();
            let mut part = part(2_000 + at * 200, 200, Ends::Part);
            part.note.frames = frames;
            rendition.add(number, part);
            of(&rendition, Ending::Open, Extent::Full)
        };
        let texts: Vec<_> = (0..4).map(|at| sound(at, u32::from(at % 2 == 0))).collect();
        assert!(texts[0].contains("PART-HOLD-BACK=0.660\n"), "{}", texts[0]);
        assert!(texts[3].contains("PART-HOLD-BACK=1.200\n"), "{}", texts[3]);
        let standing: Vec<_> = (4..40).map(|at| sound(at, 0)).collect();
        assert!(standing[35].contains("PART-HOLD-BACK=1.500\n"), "{}", standing[35]);
    }

    /// Where the configuration changes a client is told, and the count goes on when the place itself
    /// is out of sight.
    #[test]
    fn a_change_is_a_discontinuity_with_a_map() {
        let mut rendition = filled("720p", 7, 1, 0);
        for (number, ends) in [(0, Ends::Part), (1, Ends::Segment)] {
            let mut part = part(2000, 1000, ends);
            (part.note.init, part.note.discontinuities) = (InitHash(2), 1);
            rendition.add(PartNumber { segment: 8, part: number }, part);
        }
        let text = of(&rendition, Ending::Open, Extent::Full);
        let change = "7.m4s\n#EXT-X-DISCONTINUITY\n#EXT-X-MAP:URI=\"init.0000000000000002.mp4\"\n";
        assert!(text.contains(change), "{text}");
        rendition.segments.pop_front();
        let later = of(&rendition, Ending::Open, Extent::Full);
        assert!(later.contains("#EXT-X-DISCONTINUITY-SEQUENCE:1\n#EXT-X-MAP"), "{later}");
    }

    /// RFC 8216bis, 4.4.4.9: parts that are farther from the end than three target durations are removed.
    #[test]
    fn no_part_is_listed_that_is_older_than_three_target_durations() {
        let parts = |open| {
            let text = of(&filled("720p", 7, 40, open), Ending::Open, Extent::Full);
            lines(&text, "#EXT-X-PART:").len()
        };
        // Segments of two seconds, ten parts each, and 12 s.
        assert_eq!((parts(0), parts(1), parts(9)), (60, 51, 59));
    }

    /// Two breaks at once are two lines, so that the next segment's number is that of other renditions.
    #[test]
    fn breaks_that_others_had_are_counted_with_the_own() {
        let mut rendition = filled("720p", 7, 0, 10);
        let mut next = part(2_000, 200, Ends::Part);
        next.note.discontinuities = 2;
        rendition.add(PartNumber { segment: 8, part: 0 }, next);
        let text = of(&rendition, Ending::Open, Extent::Full);
        let twice = "7.m4s\n#EXT-X-DISCONTINUITY\n#EXT-X-DISCONTINUITY\n#EXT-X-PROGRAM";
        assert!(text.contains(twice), "{text}");
    }

    /// Who cannot have a part is told so, and its segment is none to be fetched whole.
    #[test]
    fn what_is_missing_is_told_as_a_gap() {
        let mut rendition = filled("720p", 7, 0, 9);
        let next = part(2_000, 200, Ends::Part);
        let number = PartNumber { segment: 8, part: 0 };
        rendition.add_missing(number, &next.note);
        rendition.add(number, next);
        let text = of(&rendition, Ending::Open, Extent::Full);
        let gap = "#EXT-X-PART:DURATION=0.200,URI=\"7.9.m4s\",GAP=YES\n\
                   #EXT-X-GAP\n#EXTINF:2.000,\n7.m4s\n";
        assert!(text.contains(gap), "{text}");
        assert_eq!(lines(&text, "#EXT-X-GAP").len(), 1);
    }

    fn lines<'a>(text: &'a str, tag: &str) -> Vec<&'a str> {
        text.lines().filter(|line| line.starts_with(tag)).collect()
    }

    proptest! {
        /// What a delta leaves out and what it tells are the full playlist, and the boundary is kept.
        #[test]
        fn a_delta_and_what_it_skips_are_the_whole(segments in 1_u64..60, open in 0_u32..10) {
            let rendition = filled("720p", 3, segments, open);
            let full = of(&rendition, Ending::Open, Extent::Full);
            let delta = of(&rendition, Ending::Open, Extent::Delta);
            let skipped: usize = lines(&delta, "#EXT-X-SKIP").first().map_or(0, |line| {
                line.rsplit('=').next().unwrap().parse().unwrap()
            });
            let (whole, told) = (lines(&full, "#EXTINF").len(), lines(&delta, "#EXTINF").len());
            prop_assert_eq!(whole, skipped + told);
            prop_assert!(skipped == 0 || told as u64 * 2000 >= 24_000);
            prop_assert!(skipped == 0 || !delta.contains("#EXT-X-MAP"));
            prop_assert_eq!(lines(&full, "#EXT-X-PART:"), lines(&delta, "#EXT-X-PART:"));
            prop_assert_eq!(lines(&full, "#EXT-X-MEDIA-SEQ"), lines(&delta, "#EXT-X-MEDIA-SEQ"));
            prop_assert!(whole as u64 * 2000 <= 60_000 + 4000);
        }
    }
}
