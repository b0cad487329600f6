//! What a server owes its clients, judged by what a client saw (RFC 8216bis, 4.4 and 6.2). Pure.
//!
//! The judge is shown one rendition's playlists in their order, the bodies that were fetched, and at
//! the end is asked what was wrong. It knows nothing of how numbers and URIs are made.

use super::fragment::{self, Init};
use super::playlist::{Ending, Independent, Media, Part, Place, Reload, Segment, Variant, Whole};
use std::collections::BTreeMap;

/// Playlists have milliseconds.
const ROUNDING_US: u64 = 1_000;
const SKIP_TARGETS: u64 = 6;
const HOLD_BACK_TARGETS: u64 = 3;
const PART_HOLD_BACK_TARGETS: u64 = 3;
/// A playlist from which a segment was removed is no shorter (6.2.2).
const KEPT_TARGETS: u64 = 3;
const PART_PERCENT_MIN: u64 = 85;
/// FRAME-RATE may be so far from what is published.
const RATE_PERCENT: u64 = 3;

/// What is owed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Duty {
    BlockingIsOffered,
    SkipBoundary,
    HoldBack,
    PartHoldBack,
    TargetStays,
    PartTargetStays,
    SegmentWithinTarget,
    PartWithinTarget,
    PartLongEnough,
    PartsAddUp,
    SegmentBeginsIndependently,
    Map,
    Date,
    SequenceGoesOn,
    NothingIsRewritten,
    NothingIsTakenBack,
    EnoughIsKept,
    BreaksAreCounted,
    BreaksAgree,
    Hint,
    End,
    BodyStays,
    BodyIsThere,
    SegmentIsItsParts,
    IndependentIsTrue,
    Report,
    Delta,
    Bandwidth,
    Codecs,
    Picture,
}

/// Renditions begin a segment at the same picture, whose decode times may differ by some frames.
const SAME_PICTURE_MS: u64 = 250;

/// A duty that was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub duty: Duty,
    pub what: String,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Judge {
    last: Option<Media>,
    known: BTreeMap<u64, Known>,
    bodies: BTreeMap<String, Vec<u8>>,
    findings: Vec<Finding>,
}

/// The most that was ever told of a segment.
#[derive(Clone, Debug)]
struct Known {
    segment: Segment,
    /// Counted over the whole stream.
    breaks: u64,
}

impl Judge {
    /// Takes the next playlist; a delta update is merged before.
    pub fn playlist(&mut self, media: &Media) {
        self.head(media);
        self.durations(media);
        self.dates(media);
        self.history(media);
        self.hint(media);
        if let Some(last) = self.last.take() {
            self.against(&last, media);
        }
        for segment in &media.segments {
            let breaks = media.discontinuity_sequence + segment.breaks;
            let known = self.known.entry(segment.number);
            let known = known.or_insert_with(|| Known { segment: segment.clone(), breaks });
            if segment.parts.len() >= known.segment.parts.len() {
                known.segment = segment.clone();
            } else {
                known.segment.whole.clone_from(&segment.whole);
            }
        }
        self.last = Some(media.clone());
    }

    /// Dates of all segments that were told of, with their discontinuity sequence numbers.
    #[must_use]
    pub fn numbers(&self) -> Vec<(u64, u64)> {
        let known = self.known.values();
        known.filter_map(|it| Some((it.segment.date_unix_ms?, it.breaks))).collect()
    }

    /// Takes what was fetched of a part, a segment or an init segment.
    pub fn body(&mut self, uri: &str, body: &[u8]) {
        match self.bodies.get(uri) {
            Some(known) if known == body => {}
            Some(_) => self.found(Duty::BodyStays, format!("{uri} is another one now")),
            None => {
                self.bodies.insert(uri.to_owned(), body.to_owned());
            }
        }
    }

    /// What a sibling's report says, beside the sibling's newest part before and after.
    pub fn report(&mut self, said: Place, before: Place, after: Place) {
        let is_told = said >= before || said.is_within_a_part_of(before);
        if !is_told || said > after {
            self.found(Duty::Report, format!("{said:?}, but {before:?} to {after:?}"));
        }
    }

    /// A full playlist, beside a delta update of the same moment and what was known before.
    pub fn delta(&mut self, delta: &Media, before: &Media, full: &Media) {
        let merged = match delta.merged(before) {
            Ok(merged) => merged,
            Err(error) => return self.found(Duty::Delta, format!("{error:#}")),
        };
        let mut full = full.clone();
        let skipped = usize::try_from(delta.skipped).unwrap_or(usize::MAX);
        full.segments.iter_mut().take(skipped).for_each(|segment| segment.parts.clear());
        if merged != full {
            let differs = merged.segments.iter().zip(&full.segments).find(|(one, two)| one != two);
            let (one, two) = (merged.edge(), full.edge());
            self.found(Duty::Delta, format!("it merges up to {one:?}, not {two:?}: {differs:?}"));
        }
        let kept = delta.segments.iter().filter_map(|segment| segment.whole.as_ref());
        let kept_us: u64 = kept.map(|whole| whole.duration_us).sum();
        let is_short = kept_us + ROUNDING_US < delta.control.can_skip_until_us;
        if delta.skipped > 0 && is_short {
            self.found(Duty::Delta, format!("it tells only of the last {kept_us} µs"));
        }
    }

    /// What the multivariant playlist says of this rendition; `frame_rate_mhz` and `resolution` are
    /// those of what is published.
    pub fn variant(
        &mut self,
        variant: &Variant,
        init: &Init,
        resolution: (u64, u64),
        frame_rate_mhz: u64,
    ) {
        let Variant { bandwidth_bps, average_bps, codecs, .. } = variant;
        if average_bps.is_some_and(|average| average > *bandwidth_bps) {
            self.found(Duty::Bandwidth, format!("{average_bps:?} on average, {bandwidth_bps}"));
        }
        for (uri, bps) in self.rates_bps() {
            if bps > *bandwidth_bps {
                self.found(Duty::Bandwidth, format!("{uri} has {bps} b/s, above {bandwidth_bps}"));
            }
        }
        if codecs.split(',').next() != Some(init.codec.as_str()) {
            self.found(Duty::Codecs, format!("{codecs}, but the init segment has {}", init.codec));
        }
        if variant.resolution != Some(resolution) {
            self.found(Duty::Picture, format!("{:?}, not {resolution:?}", variant.resolution));
        }
        let rate = variant.frame_rate_mhz.unwrap_or(0);
        if rate.abs_diff(frame_rate_mhz) * 100 > frame_rate_mhz * RATE_PERCENT {
            self.found(Duty::Picture, format!("{rate} mHz, not {frame_rate_mhz}"));
        }
    }

    /// What follows from all bodies together, and everything that was found.
    #[must_use]
    pub fn finish(mut self, init: &Init) -> Vec<Finding> {
        if self.last.as_ref().is_none_or(|last| last.ending == Ending::Open) {
            self.found(Duty::End, "the last playlist has no EXT-X-ENDLIST".into());
        }
        for Known { segment, .. } in std::mem::take(&mut self.known).values() {
            self.bodies_of(segment, init);
        }
        self.findings
    }

    /// Everything found so far.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    fn found(&mut self, duty: Duty, what: String) {
        self.findings.push(Finding { duty, what });
    }

    fn head(&mut self, media: &Media) {
        let control = &media.control;
        let target_us = media.target_s * 1_000_000;
        if control.reload != Reload::Blocks {
            self.found(Duty::BlockingIsOffered, "no CAN-BLOCK-RELOAD".into());
        }
        if control.can_skip_until_us < SKIP_TARGETS * target_us {
            self.found(Duty::SkipBoundary, format!("{} µs", control.can_skip_until_us));
        }
        if control.hold_back_us < HOLD_BACK_TARGETS * target_us {
            self.found(Duty::HoldBack, format!("{} µs", control.hold_back_us));
        }
        if control.part_hold_back_us < PART_HOLD_BACK_TARGETS * media.part_target_us {
            self.found(Duty::PartHoldBack, format!("{} µs", control.part_hold_back_us));
        }
    }

    fn durations(&mut self, media: &Media) {
        let floor_us = media.part_target_us * PART_PERCENT_MIN / 100;
        for segment in &media.segments {
            let number = segment.number;
            if let Some(Whole { duration_us, uri }) = &segment.whole {
                if (duration_us + 500_000) / 1_000_000 > media.target_s {
                    self.found(Duty::SegmentWithinTarget, format!("{uri}: {duration_us} µs"));
                }
                let sum_us: u64 = segment.parts.iter().map(|part| part.duration_us).sum();
                if !segment.parts.is_empty() && sum_us.abs_diff(*duration_us) > ROUNDING_US {
                    self.found(Duty::PartsAddUp, format!("{uri}: {sum_us}, not {duration_us} µs"));
                }
            }
            if segment.map.is_none() {
                self.found(Duty::Map, format!("none for {number}"));
            }
            let is_first_dependent =
                segment.parts.first().is_some_and(|first| first.independent == Independent::No);
            if is_first_dependent {
                self.found(Duty::SegmentBeginsIndependently, format!("{number} does not"));
            }
            for part in &segment.parts {
                if part.duration_us > media.part_target_us {
                    let what = format!("{}: {} µs", part.uri, part.duration_us);
                    self.found(Duty::PartWithinTarget, what);
                }
            }
            // Of an open segment's last part it is not known yet whether it is the last.
            let but_last = segment.parts.split_last().map_or(&[][..], |(_, others)| others);
            for part in but_last.iter().filter(|part| part.duration_us < floor_us) {
                let what = format!("{}: {} µs", part.uri, part.duration_us);
                self.found(Duty::PartLongEnough, what);
            }
        }
    }

    fn dates(&mut self, media: &Media) {
        for segment in &media.segments {
            if segment.date_unix_ms.is_none() {
                self.found(Duty::Date, format!("none for {}", segment.number));
            }
        }
        for pair in media.segments.windows(2) {
            let [before, after] = pair else { continue };
            let (Some(from), Some(to), Some(whole)) =
                (before.date_unix_ms, after.date_unix_ms, &before.whole)
            else {
                continue;
            };
            let told_us = to.saturating_sub(from) * 1_000;
            let is_broken = before.breaks != after.breaks;
            if !is_broken && told_us.abs_diff(whole.duration_us) > ROUNDING_US {
                let what =
                    format!("{told_us} µs after {}, not {}", before.number, whole.duration_us);
                self.found(Duty::Date, what);
            }
        }
    }

    /// Nothing that was told before may have changed.
    fn history(&mut self, media: &Media) {
        let mut findings = Vec::new();
        for segment in &media.segments {
            let Some(Known { segment: known, breaks }) = self.known.get(&segment.number) else {
                continue;
            };
            let mut differs = |what: &str| findings.push(format!("{}: {what}", segment.number));
            if known.date_unix_ms != segment.date_unix_ms {
                differs("its date");
            }
            if known.map != segment.map {
                differs("its init segment");
            }
            if *breaks != media.discontinuity_sequence + segment.breaks {
                differs("its discontinuity");
            }
            if known.whole.is_some() && known.whole != segment.whole {
                differs("its duration or URI");
            }
            // The parts of old segments are no longer listed.
            let is_listed = segment.whole.is_none() || !segment.parts.is_empty();
            let both = known.parts.iter().zip(&segment.parts);
            if is_listed && both.clone().any(|(before, now)| before != now) {
                differs("a part");
            }
            if is_listed && segment.parts.len() < known.parts.len() {
                differs("a part is gone");
            }
            if known.whole.is_some() && segment.parts.len() > known.parts.len() {
                let is_later = !known.parts.is_empty();
                if is_later {
                    differs("a part behind its end");
                }
            }
        }
        for what in findings {
            self.found(Duty::NothingIsRewritten, what);
        }
    }

    fn hint(&mut self, media: &Media) {
        match (media.ending, &media.hint) {
            (Ending::Open, None) => self.found(Duty::Hint, "there is none".into()),
            (Ending::Ended, Some(uri)) => self.found(Duty::Hint, format!("{uri} at the end")),
            (Ending::Open, Some(_)) | (Ending::Ended, None) => {}
        }
    }

    fn against(&mut self, last: &Media, media: &Media) {
        if last.target_s != media.target_s {
            let what = format!("{} s, then {}", last.target_s, media.target_s);
            self.found(Duty::TargetStays, what);
        }
        if last.part_target_us != media.part_target_us {
            let what = format!("{} µs, then {}", last.part_target_us, media.part_target_us);
            self.found(Duty::PartTargetStays, what);
        }
        if media.media_sequence < last.media_sequence
            || media.discontinuity_sequence < last.discontinuity_sequence
        {
            let what = format!("{} after {}", media.media_sequence, last.media_sequence);
            self.found(Duty::SequenceGoesOn, what);
        }
        if media.next() < last.next() {
            let what = format!("{:?} after {:?}", media.edge(), last.edge());
            self.found(Duty::NothingIsTakenBack, what);
        }
        let wholes = media.segments.iter().filter_map(|segment| segment.whole.as_ref());
        let kept_us: u64 = wholes.map(|whole| whole.duration_us).sum();
        let least_us = KEPT_TARGETS * media.target_s * 1_000_000;
        if media.media_sequence > last.media_sequence && kept_us < least_us {
            self.found(Duty::EnoughIsKept, format!("{kept_us} µs are left"));
        }
        let breaks = |media: &Media| {
            media.discontinuity_sequence + media.segments.last().map_or(0, |last| last.breaks)
        };
        if breaks(media) < breaks(last) {
            self.found(Duty::BreaksAreCounted, format!("{} after {}", breaks(media), breaks(last)));
        }
        if last.ending == Ending::Ended && last != media {
            self.found(Duty::End, "something follows EXT-X-ENDLIST".into());
        }
        self.hint_came_true(last, media);
    }

    fn hint_came_true(&mut self, last: &Media, media: &Media) {
        let (Some(hint), Some(next)) = (&last.hint, last.next()) else { return };
        let listed = part_at(media, next).or_else(|| {
            // The segment ended after all where it was; then the next one's first part is next.
            part_at(media, Place { segment: next.segment + 1, part: 0 })
        });
        if let Some(part) = listed
            && part.uri != *hint
        {
            self.found(Duty::Hint, format!("{hint}, but {} came", part.uri));
        }
    }

    fn bodies_of(&mut self, segment: &Segment, init: &Init) {
        let mut together = Vec::new();
        let mut is_complete = true;
        for part in &segment.parts {
            let Some(body) = self.bodies.get(&part.uri) else {
                is_complete = false;
                self.found(Duty::BodyIsThere, format!("{} was not fetched", part.uri));
                continue;
            };
            together.extend_from_slice(body);
            match fragment::begins_with_idr(body, init.track) {
                Ok(begins) if begins == (part.independent == Independent::Yes) => {}
                Ok(begins) => {
                    let what = format!("{} begins with an IDR: {begins}", part.uri);
                    self.found(Duty::IndependentIsTrue, what);
                }
                Err(error) => {
                    let what = format!("{}: {error:#}", part.uri);
                    self.found(Duty::IndependentIsTrue, what);
                }
            }
        }
        if let Some(whole) = &segment.whole
            && is_complete
            && !segment.parts.is_empty()
            && self.bodies.get(&whole.uri).is_some_and(|body| *body != together)
        {
            self.found(Duty::SegmentIsItsParts, format!("{} is not", whole.uri));
        }
    }

    /// Bit rate of each segment that is listed whole and was fetched.
    fn rates_bps(&self) -> Vec<(String, u64)> {
        let listed = self.last.iter().flat_map(|last| &last.segments);
        let wholes = listed.filter_map(|segment| segment.whole.as_ref());
        let rates = wholes.filter_map(|Whole { duration_us, uri }| {
            let bytes = u64::try_from(self.bodies.get(uri)?.len()).ok()?;
            Some((uri.clone(), bytes * 8_000_000 / (*duration_us).max(1)))
        });
        rates.collect()
    }
}

/// What two renditions' numbers say of the same pictures (4.4.3.3).
#[must_use]
pub fn between(one: &[(u64, u64)], two: &[(u64, u64)]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (date_ms, breaks) in one {
        let same = two.iter().find(|(other_ms, _)| other_ms.abs_diff(*date_ms) <= SAME_PICTURE_MS);
        if let Some((_, other)) = same
            && other != breaks
        {
            let what = format!("at {date_ms}: {breaks} and {other} discontinuities");
            findings.push(Finding { duty: Duty::BreaksAgree, what });
        }
    }
    findings
}

fn part_at(media: &Media, place: Place) -> Option<&Part> {
    let segment = media.segments.iter().find(|segment| segment.number == place.segment)?;
    segment.parts.get(usize::try_from(place.part).ok()?)
}

#[cfg(test)]
mod tests;
