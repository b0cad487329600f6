//! What delivery knows of one rendition: its segments and parts, in order, as their notes say.
//!
//! Pure. Parts come in the order of their numbers. Of one that cannot be read a gap is told in its
//! place; where more is gone than can be placed, what lies before it is forgotten, for a playlist has
//! no holes.

use crate::output::hls::place::{
    Ends, Independent, InitHash, InitNote, PartNote, PartNumber, RenditionKind,
};
use bytes::Bytes;
use std::cell::OnceCell;
use std::collections::{BTreeMap, VecDeque};
use tasuki_shared::id::PublicName;

/// Discontinuities in front of one segment: others of its stream had those that it had not.
const BREAKS_MAX: u64 = 64;

/// One part.
#[derive(Clone, Debug)]
pub struct Part {
    pub note: PartNote,
    pub presence: Presence,
    pub media_bytes: u64,
    /// While it is new; older ones are read from their files.
    pub media: Option<Bytes>,
}

/// Can it be had?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    Here,
    /// Its file cannot be read; its note is what its neighbours say of it.
    Missing,
}

/// A segment, whole when its last part says so.
#[derive(Clone, Debug)]
pub struct Segment {
    pub number: u64,
    pub parts: Vec<Part>,
    /// All its parts in one piece, once somebody asked for it: the same for all, while it is new.
    whole: OnceCell<Bytes>,
}

/// An init segment.
#[derive(Clone, Debug)]
pub struct Init {
    pub note: InitNote,
    pub media: Bytes,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Rendition {
    pub label: PublicName,
    pub kind: RenditionKind,
    pub segments: VecDeque<Segment>,
    pub inits: BTreeMap<InitHash, Init>,
    pub standing: Standing,
    /// Of all its segments.
    span_ms: u64,
    /// What the bodies of its parts take in memory.
    kept_bytes: u64,
    /// Segments in front of this one keep no bodies.
    first_kept: u64,
}

/// Is it part of its stream?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Here,
    Left,
}

/// What a part was worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    New,
    /// Known, or older than what is known.
    Known,
}

impl Segment {
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.parts.last().is_some_and(|part| part.note.ends == Ends::Segment)
    }

    #[must_use]
    pub fn duration_ms(&self) -> u64 {
        self.parts.iter().map(|part| u64::from(part.note.duration_ms)).sum()
    }

    #[must_use]
    pub fn media_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.media_bytes).sum()
    }

    #[must_use]
    pub fn presence(&self) -> Presence {
        let is_missing = |part: &Part| part.presence == Presence::Missing;
        if self.parts.iter().any(is_missing) { Presence::Missing } else { Presence::Here }
    }

    /// Its parts in one piece, which `join` gives when nobody asked for it yet; kept while they are.
    pub fn whole<E>(&self, join: impl FnOnce() -> Result<Bytes, E>) -> Result<Bytes, E> {
        if let Some(whole) = self.whole.get() {
            return Ok(whole.clone());
        }
        let whole = join()?;
        if self.kept_bytes() > 0 {
            return Ok(self.whole.get_or_init(|| whole).clone());
        }
        Ok(whole)
    }

    fn kept_bytes(&self) -> u64 {
        self.parts.iter().map(Part::kept_bytes).sum()
    }

    fn forget_bodies(&mut self) {
        self.parts.iter_mut().for_each(|part| part.media = None);
        self.whole = OnceCell::new();
    }

    fn frames(&self) -> u64 {
        self.parts.iter().map(|part| u64::from(part.note.frames)).sum()
    }
}

impl Part {
    fn kept_bytes(&self) -> u64 {
        if self.media.is_some() { self.media_bytes } else { 0 }
    }
}

impl Rendition {
    #[must_use]
    pub fn new(label: PublicName, kind: RenditionKind) -> Self {
        Self {
            label,
            kind,
            segments: VecDeque::new(),
            inits: BTreeMap::new(),
            standing: Standing::Here,
            span_ms: 0,
            kept_bytes: 0,
            first_kept: 0,
        }
    }

    /// What the bodies of its parts take in memory; segments in one piece take as much at most again.
    #[must_use]
    pub fn kept_bytes(&self) -> u64 {
        self.kept_bytes
    }

    /// The newest part.
    #[must_use]
    pub fn edge(&self) -> Option<PartNumber> {
        let segment = self.segments.back()?;
        let part = u32::try_from(segment.parts.len()).ok()?.checked_sub(1)?;
        Some(PartNumber { segment: segment.number, part })
    }

    /// The number that the next part will have.
    #[must_use]
    pub fn next(&self) -> Option<PartNumber> {
        let segment = self.segments.back()?;
        if segment.is_whole() {
            return Some(PartNumber { segment: segment.number + 1, part: 0 });
        }
        let part = u32::try_from(segment.parts.len()).ok()?;
        Some(PartNumber { segment: segment.number, part })
    }

    pub fn add(&mut self, number: PartNumber, part: Part) -> Added {
        match self.next() {
            Some(next) if number < next => return Added::Known,
            Some(next) if number == next => {}
            // The last part did not know that it was its segment's last.
            Some(next) if number == (PartNumber { segment: next.segment + 1, part: 0 }) => {
                self.end_segment();
            }
            // A hole: nothing continues from before it.
            Some(_) if number.part == 0 => self.clear(),
            None if number.part == 0 => {}
            // The rest of a segment whose beginning is gone.
            Some(_) | None => return Added::Known,
        }
        self.forget_before_breaks(part.note.discontinuities);
        self.span_ms += u64::from(part.note.duration_ms);
        self.kept_bytes += part.kept_bytes();
        match self.segments.back_mut() {
            Some(segment) if segment.number == number.segment => segment.parts.push(part),
            Some(_) | None => {
                let (number, parts) = (number.segment, vec![part]);
                self.segments.push_back(Segment { number, parts, whole: OnceCell::new() });
            }
        }
        Added::New
    }

    /// Parts in front of `until` that cannot be read, told as gaps: `following` is what that one says.
    /// Only where it is clear how many they are.
    pub fn add_missing(&mut self, until: PartNumber, following: &PartNote) {
        let (Some(next), Some(last)) = (self.next(), self.parts().last()) else { return };
        let last = last.note;
        let is_last = until == PartNumber { segment: next.segment + 1, part: 0 } && next.part > 0;
        let count = if is_last {
            1
        } else if until.segment == next.segment {
            until.part.saturating_sub(next.part)
        } else {
            return;
        };
        let mut start_ms = last.start_ms.saturating_add(i64::from(last.duration_ms));
        let mut start_unix_ms = last.start_unix_ms.saturating_add(u64::from(last.duration_ms));
        let between_ms = following.start_ms.saturating_sub(start_ms);
        let duration_ms = match u32::try_from(between_ms / i64::from(count.max(1))) {
            Ok(between_ms @ 1..) if last.discontinuities == following.discontinuities => between_ms,
            // Nothing is between them, or time goes on elsewhere.
            Ok(_) | Err(_) => last.duration_ms,
        };
        let of = if next.part == 0 { *following } else { last };
        for part in next.part..next.part + count {
            let note = PartNote {
                start_ms,
                duration_ms,
                start_unix_ms,
                frames: 0,
                independent: Independent::No,
                ends: if is_last { Ends::Segment } else { Ends::Part },
                ..of
            };
            let number = PartNumber { segment: next.segment, part };
            let part = Part { note, presence: Presence::Missing, media_bytes: 0, media: None };
            self.add(number, part);
            start_ms += i64::from(duration_ms);
            start_unix_ms += u64::from(duration_ms);
        }
    }

    /// A playlist says each break by a line; what lies before many, or before none that can be, is not
    /// told.
    fn forget_before_breaks(&mut self, discontinuities: u64) {
        let Some(last) = self.parts().last().map(|last| last.note.discontinuities) else { return };
        let is_told = discontinuities.checked_sub(last).is_some_and(|more| more <= BREAKS_MAX);
        if !is_told {
            self.clear();
        }
    }

    /// A next segment is there, or is all that may come.
    pub fn end_segment(&mut self) {
        if let Some(last) = self.segments.back_mut().and_then(|segment| segment.parts.last_mut()) {
            last.note.ends = Ends::Segment;
        }
    }

    /// Forgets what is farther behind the edge than this, and the bodies of what is not near it. After
    /// each part, so it looks at what is near alone.
    pub fn age(&mut self, window_ms: u64, near_ms: u64) {
        let mut behind_ms = 0;
        let mut first_kept = None;
        for segment in self.segments.iter_mut().rev() {
            if segment.number < self.first_kept {
                break;
            }
            if behind_ms > near_ms {
                first_kept = first_kept.max(Some(segment.number + 1));
                self.kept_bytes -= segment.kept_bytes();
                segment.forget_bodies();
            }
            behind_ms += segment.duration_ms();
        }
        self.first_kept = first_kept.unwrap_or(self.first_kept);
        while let Some(first) = self.segments.front()
            && self.span_ms - first.duration_ms() > window_ms
        {
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        if let Some(first) = self.segments.pop_front() {
            self.span_ms -= first.duration_ms();
            self.kept_bytes -= first.kept_bytes();
        }
    }

    fn clear(&mut self) {
        self.segments.clear();
        self.span_ms = 0;
        self.kept_bytes = 0;
    }

    pub fn parts(&self) -> impl Iterator<Item = &Part> {
        self.segments.iter().flat_map(|segment| &segment.parts)
    }

    pub fn forget_bodies(&mut self) {
        self.segments.iter_mut().for_each(Segment::forget_bodies);
        self.kept_bytes = 0;
    }

    /// A part's file is gone: so are those in front of it.
    pub fn removed(&mut self, number: PartNumber) {
        while self.segments.front().is_some_and(|first| first.number <= number.segment) {
            self.drop_first();
        }
    }

    #[must_use]
    pub fn segment(&self, number: u64) -> Option<&Segment> {
        let first = self.segments.front()?.number;
        self.segments.get(usize::try_from(number.checked_sub(first)?).ok()?)
    }

    #[must_use]
    pub fn part(&self, number: PartNumber) -> Option<&Part> {
        self.segment(number.segment)?.parts.get(usize::try_from(number.part).ok()?)
    }

    /// Of the newest part.
    #[must_use]
    pub fn init(&self) -> Option<&Init> {
        self.inits.get(&self.parts().last()?.note.init)
    }

    /// Can it be told of in a multivariant playlist? Its first segment is whole then, so that its bit
    /// rate is known, and of pass-through that its keyframes are close enough.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.segments.iter().any(Segment::is_whole) && self.init().is_some()
    }

    /// Highest bit rate of a segment, and of all.
    #[must_use]
    pub fn bandwidth_bps(&self) -> (u64, u64) {
        let rate = |bytes: u64, ms: u64| bytes * 8 * 1000 / ms.max(1);
        let whole: Vec<&Segment> = self.segments.iter().filter(|s| s.is_whole()).collect();
        // Before the first is whole, what there is must do.
        let of: Vec<&Segment> =
            if whole.is_empty() { self.segments.iter().collect() } else { whole };
        let peak = of.iter().map(|s| rate(s.media_bytes(), s.duration_ms())).max().unwrap_or(0);
        let bytes = of.iter().map(|s| s.media_bytes()).sum();
        let ms = of.iter().map(|s| s.duration_ms()).sum();
        (peak, rate(bytes, ms))
    }

    /// Thousandths of a frame per second.
    #[must_use]
    pub fn frame_rate_mhz(&self) -> u64 {
        let frames: u64 = self.segments.iter().map(Segment::frames).sum();
        let ms: u64 = self.segments.iter().map(Segment::duration_ms).sum();
        frames * 1_000_000 / ms.max(1)
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::output::cursor::Place;
    use crate::output::record::SeriesId;
    use crate::package::fmp4::FragmentClock;

    pub fn part(start_ms: i64, duration_ms: u32, ends: Ends) -> Part {
        let note = PartNote {
            series: SeriesId([1; 16]),
            init: InitHash(1),
            discontinuities: 0,
            start_ms,
            duration_ms,
            start_unix_ms: 1_790_000_000_000 + start_ms.unsigned_abs(),
            frames: duration_ms / 33,
            independent: Independent::No,
            ends,
            segment_start_ms: 0,
            source_keyframe_ms: None,
            clock: FragmentClock::new(0),
            place: Place::default(),
        };
        let media = Some(Bytes::from_static(b"media"));
        Part { note, presence: Presence::Here, media_bytes: 1000, media }
    }

    /// Segments of two seconds in ten parts, from a number on.
    pub fn filled(label: &str, first: u64, segments: u64, open_parts: u32) -> Rendition {
        let label = PublicName::parse(label).unwrap();
        let mut rendition = Rendition::new(label, RenditionKind::Encoded);
        let note = InitNote { codecs: "avc1.64001f,mp4a.40.2".into(), width: 1280, height: 720 };
        let init = Init { note, media: Bytes::from_static(b"init") };
        rendition.inits.insert(InitHash(1), init);
        let mut start_ms = 0;
        for segment in first..=first + segments {
            let parts = if segment == first + segments { open_parts } else { 10 };
            for number in 0..parts {
                let ends = if number == 9 { Ends::Segment } else { Ends::Part };
                let mut part = part(start_ms, 200, ends);
                if number == 0 {
                    part.note.independent = Independent::Yes;
                }
                let number = PartNumber { segment, part: number };
                assert_eq!(rendition.add(number, part), Added::New);
                start_ms += 200;
            }
        }
        rendition
    }

    /// Parts that are known, or whose beginning is gone, change nothing; a hole begins anew.
    #[test]
    fn parts_are_taken_in_order_and_a_hole_begins_anew() {
        let mut rendition = filled("720p", 7, 2, 3);
        assert_eq!(rendition.edge(), Some(PartNumber { segment: 9, part: 2 }));
        let again = PartNumber { segment: 9, part: 2 };
        assert_eq!(rendition.add(again, part(0, 200, Ends::Part)), Added::Known);
        let torn = PartNumber { segment: 12, part: 4 };
        assert_eq!(rendition.add(torn, part(0, 200, Ends::Part)), Added::Known);
        let anew = PartNumber { segment: 12, part: 0 };
        assert_eq!(rendition.add(anew, part(0, 200, Ends::Segment)), Added::New);
        assert_eq!(rendition.segments.len(), 1);
        assert_eq!(rendition.next(), Some(PartNumber { segment: 13, part: 0 }));
    }

    /// What cannot be read costs its own time and nothing else, wherever in a segment it was.
    #[test]
    fn a_missing_part_is_a_gap_of_its_length() {
        let gap = |open_parts, until: (u64, u32), start_ms| {
            let mut rendition = filled("720p", 7, 1, open_parts);
            let until = PartNumber { segment: until.0, part: until.1 };
            let following = part(start_ms, 200, Ends::Part);
            rendition.add_missing(until, &following.note);
            assert_eq!(rendition.next(), Some(until), "{open_parts}");
            assert_eq!(rendition.add(until, following), Added::New);
            assert_eq!(rendition.segments.front().map(|first| first.number), Some(7));
            let durations: Vec<_> = rendition.parts().map(|part| part.note.duration_ms).collect();
            assert!(durations.iter().all(|ms| *ms == 200), "{durations:?}");
            rendition.parts().filter(|part| part.presence == Presence::Missing).count()
        };
        assert_eq!(gap(3, (8, 4), 2_800), 1);
        assert_eq!(gap(3, (8, 6), 3_200), 3);
        assert_eq!(gap(9, (9, 0), 4_000), 1);
        assert_eq!(gap(10, (9, 2), 4_400), 2);
    }

    /// Several breaks at once are those that others of the stream had; a number that goes back is none.
    #[test]
    fn what_cannot_be_counted_as_breaks_begins_anew() {
        for (breaks, kept) in [(0, 2), (3, 2), (65, 1)] {
            let mut rendition = filled("720p", 7, 0, 10);
            let mut next = part(2_000, 200, Ends::Part);
            next.note.discontinuities = breaks;
            rendition.add(PartNumber { segment: 8, part: 0 }, next);
            assert_eq!(rendition.segments.len(), kept, "{breaks}");
        }
    }

    /// Before a gap, and where a segment had to end, its last part is not marked.
    #[test]
    fn a_next_segment_ends_the_one_before() {
        let mut rendition = filled("720p", 7, 1, 3);
        let next = PartNumber { segment: 9, part: 0 };
        assert_eq!(rendition.add(next, part(0, 200, Ends::Part)), Added::New);
        assert_eq!(rendition.segments.len(), 3);
        assert!(rendition.segment(8).is_some_and(Segment::is_whole));
        assert_eq!(rendition.next(), Some(PartNumber { segment: 9, part: 1 }));
    }

    /// What is near the edge keeps its bodies, what is in the window its notes.
    #[test]
    fn the_past_is_forgotten_in_two_steps() {
        let mut rendition = filled("720p", 1, 30, 5);
        rendition.age(20_000, 4_000);
        let kept: u64 = rendition.segments.iter().map(Segment::duration_ms).sum();
        assert!((20_000..=24_000).contains(&kept), "{kept}");
        let with_bodies = rendition.parts().filter(|part| part.media.is_some()).count();
        assert!((20..=35).contains(&with_bodies), "{with_bodies}");
        assert_eq!(rendition.inits.len(), 1);
        assert!(rendition.segment(5).is_none() && rendition.segment(30).is_some());
    }

    /// What is counted is what is there, whatever comes, ages, is removed or begins anew.
    #[test]
    fn bodies_and_lengths_are_counted() {
        let is_right = |rendition: &Rendition| {
            let kept: u64 = rendition.parts().map(Part::kept_bytes).sum();
            let span: u64 = rendition.segments.iter().map(Segment::duration_ms).sum();
            assert_eq!((rendition.kept_bytes, rendition.span_ms), (kept, span));
        };
        let mut rendition = filled("720p", 1, 30, 5);
        is_right(&rendition);
        for window_ms in [50_000, 20_000] {
            rendition.age(window_ms, 4_000);
            is_right(&rendition);
        }
        assert!(rendition.kept_bytes > 0);
        let next = PartNumber { segment: 31, part: 5 };
        rendition.add(next, part(0, 200, Ends::Segment));
        rendition.age(20_000, 4_000);
        is_right(&rendition);
        rendition.removed(PartNumber { segment: 25, part: 3 });
        is_right(&rendition);
        rendition.add(PartNumber { segment: 40, part: 0 }, part(0, 200, Ends::Part));
        assert_eq!(rendition.parts().count(), 1);
        is_right(&rendition);
        rendition.forget_bodies();
        is_right(&rendition);
    }

    /// A segment in one piece stays in memory as long as its parts do, and no longer.
    #[test]
    fn old_segments_are_joined_for_each_who_asks() {
        let mut rendition = filled("720p", 1, 30, 5);
        let joins = std::cell::Cell::new(0);
        let join = || -> Result<Bytes, ()> {
            joins.set(joins.get() + 1);
            Ok(Bytes::from_static(b"whole"))
        };
        let ask = |rendition: &Rendition| rendition.segment(29).unwrap().whole(join).unwrap();
        assert_eq!(
            (ask(&rendition), ask(&rendition), joins.get()),
            (ask(&rendition), ask(&rendition), 1)
        );
        rendition.age(60_000, 1_000);
        ask(&rendition);
        ask(&rendition);
        assert_eq!(joins.get(), 3);
    }

    #[test]
    fn rates_are_measured() {
        let rendition = filled("720p", 1, 3, 1);
        assert_eq!(rendition.bandwidth_bps(), (40_000, 40_000));
        assert_eq!(rendition.frame_rate_mhz(), 30_000);
    }
}
