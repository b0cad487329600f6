//! Playlists as a strict client reads them (RFC 8216bis, 4). Pure: text in, playlist or reason out.
//!
//! A tag or an attribute that is not known here is refused: what Tasuki writes is known.

use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;

/// A media playlist, a delta update included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Media {
    pub version: u64,
    pub target_s: u64,
    pub control: Control,
    pub part_target_us: u64,
    pub media_sequence: u64,
    pub discontinuity_sequence: u64,
    /// EXT-X-SKIP: so many segments in front of `segments` are left out.
    pub skipped: u64,
    pub segments: Vec<Segment>,
    /// What EXT-X-PRELOAD-HINT names.
    pub hint: Option<String>,
    pub reports: Vec<Report>,
    pub ending: Ending,
}

/// EXT-X-SERVER-CONTROL; what is not said is 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Control {
    pub reload: Reload,
    pub can_skip_until_us: u64,
    pub hold_back_us: u64,
    pub part_hold_back_us: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reload {
    #[default]
    Polled,
    Blocks,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ending {
    #[default]
    Open,
    Ended,
}

/// A segment; the last one of a playlist may have only its first parts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    pub number: u64,
    /// In force for it, if it was said in this playlist.
    pub map: Option<String>,
    pub date_unix_ms: Option<u64>,
    /// EXT-X-DISCONTINUITY tags up to and with its own, from the playlist's first line on.
    pub breaks: u64,
    pub parts: Vec<Part>,
    pub whole: Option<Whole>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole {
    pub duration_us: u64,
    pub uri: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub duration_us: u64,
    pub uri: String,
    pub independent: Independent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Independent {
    No,
    Yes,
}

/// EXT-X-RENDITION-REPORT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub uri: String,
    pub last: Place,
}

/// A part, by its segment and its index therein.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub segment: u64,
    pub part: u64,
}

/// A variant of a multivariant playlist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variant {
    pub uri: String,
    pub bandwidth_bps: u64,
    pub average_bps: Option<u64>,
    pub codecs: String,
    pub resolution: Option<(u64, u64)>,
    /// Thousandths of a frame per second.
    pub frame_rate_mhz: Option<u64>,
}

impl Place {
    /// Is one the other, or the very next?
    #[must_use]
    pub fn is_within_a_part_of(self, other: Self) -> bool {
        let (first, second) = (self.min(other), self.max(other));
        let is_next_segment = second.segment == first.segment + 1 && second.part == 0;
        is_next_segment || (second.segment == first.segment && second.part <= first.part + 1)
    }
}

impl Media {
    pub fn parse(text: &str) -> Result<Self> {
        let mut reader = Reader::default();
        let mut lines = text.lines();
        ensure!(lines.next() == Some("#EXTM3U"), "it does not begin with EXTM3U");
        for line in lines {
            reader.line(line).with_context(|| format!("{line:?}"))?;
        }
        reader.finish()
    }

    /// The newest part that is listed.
    #[must_use]
    pub fn edge(&self) -> Option<Place> {
        let last = self.segments.last()?;
        let part = u64::try_from(last.parts.len()).ok()?.checked_sub(1)?;
        Some(Place { segment: last.number, part })
    }

    /// The part that comes behind it.
    #[must_use]
    pub fn next(&self) -> Option<Place> {
        let Place { segment, part } = self.edge()?;
        Some(match self.segments.last()?.whole {
            Some(_) => Place { segment: segment + 1, part: 0 },
            None => Place { segment, part: part + 1 },
        })
    }

    /// The nearest segment that a client may not ask for: three behind the last one, of which an open
    /// one is none (6.2.5.2).
    #[must_use]
    pub fn first_beyond(&self) -> Option<u64> {
        Some(self.next()?.segment + 2)
    }

    /// A delta update, put together with the playlist that a client has, as it would do it.
    pub fn merged(&self, before: &Self) -> Result<Self> {
        let mut merged = Self { skipped: 0, segments: Vec::new(), ..self.clone() };
        for number in self.media_sequence..self.media_sequence + self.skipped {
            let known = before.segments.iter().find(|segment| segment.number == number);
            let mut known =
                known.with_context(|| format!("{number} is skipped, not known"))?.clone();
            known.parts.clear();
            known.breaks = (before.discontinuity_sequence + known.breaks)
                .checked_sub(self.discontinuity_sequence)
                .context("the discontinuity sequence passed a segment that is there")?;
            merged.segments.push(known);
        }
        let last = merged.segments.last();
        let (mut map, breaks) = last.map_or((None, 0), |last| (last.map.clone(), last.breaks));
        for segment in &self.segments {
            map = segment.map.clone().or(map);
            let breaks = breaks + segment.breaks;
            merged.segments.push(Segment { map: map.clone(), breaks, ..segment.clone() });
        }
        Ok(merged)
    }
}

/// Reads a multivariant playlist.
pub fn variants(text: &str) -> Result<Vec<Variant>> {
    let mut variants = Vec::new();
    let mut open: Option<BTreeMap<String, String>> = None;
    let mut lines = text.lines();
    ensure!(lines.next() == Some("#EXTM3U"), "it does not begin with EXTM3U");
    for line in lines {
        if let Some(list) = line.strip_prefix("#EXT-X-STREAM-INF:") {
            open = Some(attributes(list)?);
        } else if line.starts_with("#EXT-X-VERSION:") || line == "#EXT-X-INDEPENDENT-SEGMENTS" {
        } else if line.starts_with('#') {
            bail!("an unknown tag: {line}");
        } else {
            let of = open.take().with_context(|| format!("{line} without EXT-X-STREAM-INF"))?;
            let resolution = match of.get("RESOLUTION").and_then(|text| text.split_once('x')) {
                Some((width, height)) => Some((width.parse()?, height.parse()?)),
                None => None,
            };
            variants.push(Variant {
                uri: line.to_owned(),
                bandwidth_bps: of.get("BANDWIDTH").context("no BANDWIDTH")?.parse()?,
                average_bps: of.get("AVERAGE-BANDWIDTH").map(|text| text.parse()).transpose()?,
                codecs: of.get("CODECS").cloned().unwrap_or_default(),
                resolution,
                frame_rate_mhz: of.get("FRAME-RATE").map(|rate| decimal(rate, 3)).transpose()?,
            });
        }
    }
    Ok(variants)
}

#[derive(Default)]
struct Reader {
    media: Media,
    open: Segment,
    map: Option<String>,
    breaks: u64,
    /// Of an EXTINF whose URI comes.
    duration_us: Option<u64>,
}

impl Reader {
    fn line(&mut self, line: &str) -> Result<()> {
        ensure!(self.media.ending == Ending::Open, "behind EXT-X-ENDLIST");
        let Some(tag) = line.strip_prefix('#') else { return self.uri(line) };
        let (tag, value) = tag.split_once(':').unwrap_or((tag, ""));
        let media = &mut self.media;
        match tag {
            "EXT-X-VERSION" => media.version = value.parse()?,
            "EXT-X-TARGETDURATION" => media.target_s = value.parse()?,
            "EXT-X-SERVER-CONTROL" => media.control = control(&attributes(value)?)?,
            "EXT-X-PART-INF" => {
                media.part_target_us = seconds(get(&attributes(value)?, "PART-TARGET")?)?;
            }
            "EXT-X-MEDIA-SEQUENCE" => media.media_sequence = value.parse()?,
            "EXT-X-DISCONTINUITY-SEQUENCE" => media.discontinuity_sequence = value.parse()?,
            "EXT-X-SKIP" => {
                ensure!(media.segments.is_empty(), "behind a segment");
                media.skipped = get(&attributes(value)?, "SKIPPED-SEGMENTS")?.parse()?;
            }
            "EXT-X-DISCONTINUITY" => self.breaks += 1,
            "EXT-X-MAP" => self.map = Some(get(&attributes(value)?, "URI")?.to_owned()),
            "EXT-X-PROGRAM-DATE-TIME" => {
                ensure!(self.open.parts.is_empty(), "in the midst of a segment");
                self.open.date_unix_ms = Some(unix_ms(value)?);
            }
            "EXT-X-PART" => self.part(&attributes(value)?)?,
            "EXTINF" => {
                let duration = value.strip_suffix(',').context("no comma behind the duration")?;
                self.duration_us = Some(seconds(duration)?);
            }
            "EXT-X-PRELOAD-HINT" => {
                let of = attributes(value)?;
                ensure!(get(&of, "TYPE")? == "PART", "only parts are hinted at");
                ensure!(media.hint.is_none(), "a second hint");
                media.hint = Some(get(&of, "URI")?.to_owned());
            }
            "EXT-X-RENDITION-REPORT" => {
                let of = attributes(value)?;
                let last = Place {
                    segment: get(&of, "LAST-MSN")?.parse()?,
                    part: get(&of, "LAST-PART")?.parse()?,
                };
                media.reports.push(Report { uri: get(&of, "URI")?.to_owned(), last });
            }
            "EXT-X-ENDLIST" => media.ending = Ending::Ended,
            _ => bail!("an unknown tag"),
        }
        Ok(())
    }

    fn part(&mut self, of: &BTreeMap<String, String>) -> Result<()> {
        let independent = match of.get("INDEPENDENT").map(String::as_str) {
            None => Independent::No,
            Some("YES") => Independent::Yes,
            Some(other) => bail!("INDEPENDENT={other}"),
        };
        let duration_us = seconds(get(of, "DURATION")?)?;
        let uri = get(of, "URI")?.to_owned();
        self.open.parts.push(Part { duration_us, uri, independent });
        Ok(())
    }

    fn uri(&mut self, line: &str) -> Result<()> {
        let duration_us = self.duration_us.take().context("a URI without EXTINF")?;
        self.open.whole = Some(Whole { duration_us, uri: line.to_owned() });
        self.end_segment();
        Ok(())
    }

    fn end_segment(&mut self) {
        let mut segment = std::mem::take(&mut self.open);
        let before = u64::try_from(self.media.segments.len()).unwrap_or(u64::MAX);
        segment.number = self.media.media_sequence + self.media.skipped + before;
        segment.map.clone_from(&self.map);
        segment.breaks = self.breaks;
        self.media.segments.push(segment);
    }

    fn finish(mut self) -> Result<Media> {
        ensure!(self.duration_us.is_none(), "an EXTINF without a URI");
        if !self.open.parts.is_empty() {
            self.end_segment();
        }
        ensure!(self.media.target_s > 0, "no EXT-X-TARGETDURATION");
        Ok(self.media)
    }
}

fn control(of: &BTreeMap<String, String>) -> Result<Control> {
    let time = |name: &str| of.get(name).map_or(Ok(0), |text| seconds(text));
    let reload = match of.get("CAN-BLOCK-RELOAD").map(String::as_str) {
        Some("YES") => Reload::Blocks,
        Some(_) | None => Reload::Polled,
    };
    Ok(Control {
        reload,
        can_skip_until_us: time("CAN-SKIP-UNTIL")?,
        hold_back_us: time("HOLD-BACK")?,
        part_hold_back_us: time("PART-HOLD-BACK")?,
    })
}

fn get<'a>(of: &'a BTreeMap<String, String>, name: &str) -> Result<&'a str> {
    of.get(name).map(String::as_str).with_context(|| format!("no {name}"))
}

/// An attribute list (4.2); quotes are taken off.
fn attributes(list: &str) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    let mut rest = list;
    while !rest.is_empty() {
        let (name, behind) = rest.split_once('=').context("an attribute without a value")?;
        let (value, behind) = match behind.strip_prefix('"') {
            Some(quoted) => {
                let (value, behind) = quoted.split_once('"').context("quotes that do not end")?;
                (value, behind.strip_prefix(',').unwrap_or(behind))
            }
            None => behind.split_once(',').unwrap_or((behind, "")),
        };
        ensure!(found.insert(name.to_owned(), value.to_owned()).is_none(), "{name} twice");
        rest = behind;
    }
    Ok(found)
}

/// Decimal seconds in microseconds.
fn seconds(text: &str) -> Result<u64> {
    decimal(text, 6)
}

/// A decimal number in units of its last place.
fn decimal(text: &str, places: usize) -> Result<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    ensure!(fraction.len() <= places, "{text} has more places than are read");
    Ok(format!("{whole}{fraction:0<places$}").parse()?)
}

/// `2026-09-21T14:13:20.000Z`, as a count of milliseconds.
fn unix_ms(text: &str) -> Result<u64> {
    let numbers = text.strip_suffix('Z').context("not UTC")?;
    let numbers: Vec<&str> = numbers.split(['-', 'T', ':']).collect();
    let [year, month, day, hour, minute, second] = numbers.as_slice() else {
        bail!("not a date: {text}")
    };
    let (year, month, day): (u64, u64, u64) = (year.parse()?, month.parse()?, day.parse()?);
    ensure!((1970..=9999).contains(&year) && (1..=12).contains(&month) && day >= 1, "{text}");
    // Years that begin in March end with the day that leap years have more.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    let days = days.checked_sub(719_468).context("before 1970")?;
    let seconds = (days * 24 + hour.parse::<u64>()?) * 60 + minute.parse::<u64>()?;
    Ok(seconds * 60_000 + decimal(second, 3)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const YOUNG: &str = "#EXTM3U\n#EXT-X-VERSION:9\n#EXT-X-TARGETDURATION:4\n\
        #EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,CAN-SKIP-UNTIL=24.000,PART-HOLD-BACK=0.660\n\
        #EXT-X-PART-INF:PART-TARGET=0.220\n#EXT-X-MEDIA-SEQUENCE:7\n\
        #EXT-X-MAP:URI=\"init.mp4\"\n#EXT-X-PROGRAM-DATE-TIME:2026-09-21T14:13:20.250Z\n\
        #EXT-X-PART:DURATION=0.200,URI=\"7.0.m4s\",INDEPENDENT=YES\n#EXTINF:0.200,\n7.m4s\n\
        #EXT-X-PART:DURATION=0.200,URI=\"8.0.m4s\"\n\
        #EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"8.1.m4s\"\n\
        #EXT-X-RENDITION-REPORT:URI=\"../a/index.m3u8\",LAST-MSN=8,LAST-PART=0\n";

    #[test]
    fn everything_that_is_said_is_read() {
        let media = Media::parse(YOUNG).unwrap();
        assert_eq!(media.control.reload, Reload::Blocks);
        assert_eq!((media.control.can_skip_until_us, media.part_target_us), (24_000_000, 220_000));
        assert_eq!(media.edge(), Some(Place { segment: 8, part: 0 }));
        assert_eq!(media.next(), Some(Place { segment: 8, part: 1 }));
        // The last segment is 7.
        assert_eq!(media.first_beyond(), Some(10));
        let [first, second] = media.segments.as_slice() else { panic!("{media:?}") };
        assert_eq!((first.number, first.date_unix_ms), (7, Some(1_790_000_000_250)));
        assert_eq!(second.map.as_deref(), Some("init.mp4"));
        assert_eq!(media.hint.as_deref(), Some("8.1.m4s"));
        assert_eq!(media.reports[0].last, Place { segment: 8, part: 0 });
        assert!(Media::parse(&YOUNG.replace("EXTINF", "EXTOUTF")).is_err());
        assert!(Media::parse(&YOUNG.replace("7.m4s\n", "")).is_err());
    }

    #[test]
    fn a_delta_takes_what_it_skips_from_what_is_known() {
        let full = Media::parse(YOUNG).unwrap();
        let from = YOUNG.find("#EXT-X-MAP").unwrap();
        let to = YOUNG.find("#EXT-X-PART:DURATION=0.200,URI=\"8.0").unwrap();
        let mut text = YOUNG.to_owned();
        text.replace_range(from..to, "#EXT-X-SKIP:SKIPPED-SEGMENTS=1\n");
        let merged = Media::parse(&text).unwrap().merged(&full).unwrap();
        let mut expected = full.clone();
        expected.segments[0].parts.clear();
        assert_eq!(merged, expected);
        assert!(Media::parse(&text).unwrap().merged(&Media::default()).is_err());
    }

    #[test]
    fn places_are_near_each_other_across_segments() {
        let place = |segment, part| Place { segment, part };
        assert!(place(7, 3).is_within_a_part_of(place(7, 4)));
        assert!(place(8, 0).is_within_a_part_of(place(7, 9)));
        assert!(!place(8, 1).is_within_a_part_of(place(7, 9)));
        assert!(!place(7, 3).is_within_a_part_of(place(7, 5)));
    }

    #[test]
    fn a_multivariant_playlist_is_read() {
        let text = "#EXTM3U\n#EXT-X-VERSION:9\n#EXT-X-INDEPENDENT-SEGMENTS\n\
            #EXT-X-STREAM-INF:BANDWIDTH=900,CODECS=\"avc1.64001f,mp4a.40.2\",\
            RESOLUTION=128x72,FRAME-RATE=29.970\n72p/index.m3u8\n";
        let found = variants(text).unwrap();
        assert_eq!(found[0].resolution, Some((128, 72)));
        assert_eq!((found[0].frame_rate_mhz, found[0].bandwidth_bps), (Some(29_970), 900));
        assert_eq!(found[0].codecs, "avc1.64001f,mp4a.40.2");
    }
}
