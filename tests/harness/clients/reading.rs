//! What another client's parser read in a playlist, and whether that is what stands there. Pure.
//!
//! Both parsers tell it in the same shape (tests/clients), and so does our own strict reader of
//! `duties/playlist.rs`: three programs that have no line in common must read the same.

use crate::duties::playlist::{self, Ending, Independent, Media, Reload, Variant};
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

/// One playlist as a parser read it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reading {
    Multivariant {
        variants: Vec<VariantRead>,
    },
    Media(Box<MediaRead>),
    /// In the parser's own words.
    Refused(String),
    /// It lacks what every playlist has.
    #[serde(skip)]
    Partial(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct VariantRead {
    pub uri: String,
    pub bandwidth_bps: u64,
    pub average_bps: Option<u64>,
    pub codecs: String,
    pub width: Option<u64>,
    pub height: Option<u64>,
    pub frame_rate_mhz: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct MediaRead {
    pub version: u64,
    pub target_s: u64,
    pub blocks: bool,
    pub can_skip_until_us: Option<u64>,
    pub hold_back_us: Option<u64>,
    pub part_hold_back_us: Option<u64>,
    pub part_target_us: Option<u64>,
    pub media_sequence: u64,
    pub skipped: u64,
    /// EXT-X-DISCONTINUITY tags.
    pub discontinuities: u64,
    pub segments: Vec<SegmentRead>,
    pub hints: Vec<String>,
    pub reports: Vec<ReportRead>,
    pub ended: bool,
}

/// The last one of an open playlist may have parts alone.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct SegmentRead {
    pub number: u64,
    pub uri: Option<String>,
    pub duration_us: Option<u64>,
    /// The init segment; of whole segments only.
    pub map: Option<String>,
    pub date_unix_ms: Option<u64>,
    pub parts: Vec<PartRead>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct PartRead {
    pub uri: String,
    pub duration_us: u64,
    pub independent: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ReportRead {
    pub uri: String,
    pub last_msn: u64,
    pub last_part: u64,
}

/// What is promised of every media playlist, beside what stands in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promised {
    /// Playlists of the other renditions, as they are seen from this one.
    pub siblings: Vec<String>,
    /// What was asked for with `_HLS_msn` and `_HLS_part`.
    pub asked: Option<playlist::Place>,
}

/// A parser must have read what stands in a sound multivariant playlist.
pub fn check_multivariant(read: &Reading, text: &str, labels: &[&str]) -> Result<()> {
    let variants = match read {
        Reading::Multivariant { variants } => variants,
        Reading::Media(_) => bail!("taken for a media playlist"),
        Reading::Refused(why) => bail!("refused: {why}"),
        Reading::Partial(what) => bail!("not all was read: {what}"),
    };
    let expected: Vec<VariantRead> =
        playlist::variants(text)?.into_iter().map(VariantRead::from).collect();
    ensure!(*variants == expected, "read {variants:?}, and not {expected:?}");
    let uris: Vec<String> = labels.iter().map(|label| format!("{label}/index.m3u8")).collect();
    let read: Vec<&str> = variants.iter().map(|variant| variant.uri.as_str()).collect();
    ensure!(read == uris, "variants {read:?}, and not {uris:?}");
    Ok(())
}

/// A parser must have read what stands in a sound media playlist, and that must be what we promise.
pub fn check_media(read: &Reading, text: &str, promised: &Promised) -> Result<()> {
    let media = match read {
        Reading::Media(media) => media,
        Reading::Multivariant { .. } => bail!("taken for a multivariant playlist"),
        Reading::Refused(why) => bail!("refused: {why}"),
        Reading::Partial(what) => bail!("not all was read: {what}"),
    };
    let own = Media::parse(text).context("our own reader refuses it")?;
    let expected = MediaRead::from(&own);
    ensure!(**media == expected, "read {media:?}, and not {expected:?}");
    media.check_promises(promised)
}

impl MediaRead {
    fn check_promises(&self, promised: &Promised) -> Result<()> {
        let at_least = |name: &str, value_us: Option<u64>, least_us: u64| {
            let value_us = value_us.with_context(|| format!("no {name}"))?;
            ensure!(value_us >= least_us, "{name} is {value_us} µs, under {least_us}");
            Ok(())
        };
        let target_us = self.target_s * 1_000_000;
        let part_target_us = self.part_target_us.context("no PART-TARGET")?;
        ensure!(self.blocks, "no CAN-BLOCK-RELOAD=YES");
        at_least("PART-HOLD-BACK", self.part_hold_back_us, 3 * part_target_us)?;
        at_least("HOLD-BACK", self.hold_back_us, 3 * target_us)?;
        at_least("CAN-SKIP-UNTIL", self.can_skip_until_us, 6 * target_us)?;
        let parts = self.segments.iter().flat_map(|segment| &segment.parts);
        let longest_us = parts.map(|part| part.duration_us).max().unwrap_or(0);
        ensure!(longest_us <= part_target_us, "a part of {longest_us} µs");
        let age_us = self.oldest_part_us();
        ensure!(age_us <= 3 * target_us, "a part that begins {age_us} µs from the end");
        ensure!(self.discontinuities == 0, "{} discontinuities", self.discontinuities);
        if self.ended {
            ensure!(
                self.hints.is_empty() && self.reports.is_empty(),
                "more is promised at the end"
            );
            return Ok(());
        }
        let last = self.segments.last().context("no segment")?;
        let next = match last.uri {
            Some(_) => format!("{}.0.m4s", last.number + 1),
            None => format!("{}.{}.m4s", last.number, last.parts.len()),
        };
        ensure!(self.hints == [next.as_str()], "hints at {:?}, and not {next}", self.hints);
        let mut reported: Vec<&str> = self.reports.iter().map(|it| it.uri.as_str()).collect();
        reported.sort_unstable();
        ensure!(
            reported == promised.siblings,
            "reports of {reported:?}, not {:?}",
            promised.siblings
        );
        for report in &self.reports {
            let behind = report.last_msn.abs_diff(last.number);
            ensure!(behind <= 1, "{report:?} where this one is at {}", last.number);
        }
        if let Some(asked) = promised.asked {
            let has_it = self.segments.iter().any(|segment| {
                let parts = u64::try_from(segment.parts.len()).unwrap_or(0);
                segment.number == asked.segment && parts > asked.part
            });
            ensure!(has_it, "an answer without {asked:?}, which was asked for");
        }
        Ok(())
    }
}

impl MediaRead {
    /// How far from the end the oldest listed part begins.
    fn oldest_part_us(&self) -> u64 {
        let (mut behind_us, mut oldest_us) = (0, 0);
        for segment in self.segments.iter().rev() {
            let parts_us = segment.parts.iter().map(|part| part.duration_us).sum();
            behind_us += segment.duration_us.unwrap_or(parts_us);
            if !segment.parts.is_empty() {
                oldest_us = behind_us;
            }
        }
        oldest_us
    }
}

impl From<Variant> for VariantRead {
    fn from(variant: Variant) -> Self {
        let Variant { uri, bandwidth_bps, average_bps, codecs, resolution, frame_rate_mhz } =
            variant;
        let (width, height) = resolution.unzip();
        Self { uri, bandwidth_bps, average_bps, codecs, width, height, frame_rate_mhz }
    }
}

impl From<&Media> for MediaRead {
    fn from(media: &Media) -> Self {
        let Media {
            version,
            target_s,
            control,
            part_target_us,
            media_sequence,
            discontinuity_sequence: _,
            skipped,
            segments,
            hint,
            reports,
            ending,
        } = media;
        let said = |value_us: u64| (value_us > 0).then_some(value_us);
        Self {
            version: *version,
            target_s: *target_s,
            blocks: control.reload == Reload::Blocks,
            can_skip_until_us: said(control.can_skip_until_us),
            hold_back_us: said(control.hold_back_us),
            part_hold_back_us: said(control.part_hold_back_us),
            part_target_us: said(*part_target_us),
            media_sequence: *media_sequence,
            skipped: *skipped,
            discontinuities: segments.last().map_or(0, |segment| segment.breaks),
            segments: segments.iter().map(SegmentRead::from).collect(),
            hints: hint.iter().cloned().collect(),
            reports: reports
                .iter()
                .map(|report| ReportRead {
                    uri: report.uri.clone(),
                    last_msn: report.last.segment,
                    last_part: report.last.part,
                })
                .collect(),
            ended: *ending == Ending::Ended,
        }
    }
}

impl From<&playlist::Segment> for SegmentRead {
    fn from(segment: &playlist::Segment) -> Self {
        let playlist::Segment { number, map, date_unix_ms, breaks: _, parts, whole } = segment;
        Self {
            number: *number,
            uri: whole.as_ref().map(|whole| whole.uri.clone()),
            duration_us: whole.as_ref().map(|whole| whole.duration_us),
            map: whole.as_ref().and(map.clone()),
            date_unix_ms: *date_unix_ms,
            parts: parts
                .iter()
                .map(|part| PartRead {
                    uri: part.uri.clone(),
                    duration_us: part.duration_us,
                    independent: part.independent == Independent::Yes,
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::duties::playlist::Place;

    const OPEN: &str = "#EXTM3U\n#EXT-X-VERSION:9\n#EXT-X-TARGETDURATION:4\n\
        #EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,CAN-SKIP-UNTIL=24.000,HOLD-BACK=12.000,\
        PART-HOLD-BACK=0.660\n#EXT-X-PART-INF:PART-TARGET=0.220\n#EXT-X-MEDIA-SEQUENCE:7\n\
        #EXT-X-MAP:URI=\"init.mp4\"\n#EXT-X-PROGRAM-DATE-TIME:2026-09-21T14:13:20.250Z\n\
        #EXT-X-PART:DURATION=0.200,URI=\"7.0.m4s\",INDEPENDENT=YES\n#EXTINF:0.200,\n7.m4s\n\
        #EXT-X-PART:DURATION=0.200,URI=\"8.0.m4s\"\n\
        #EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"8.1.m4s\"\n\
        #EXT-X-RENDITION-REPORT:URI=\"../a/index.m3u8\",LAST-MSN=8,LAST-PART=0\n";

    fn promised() -> Promised {
        Promised {
            siblings: vec!["../a/index.m3u8".into()],
            asked: Some(Place { segment: 8, part: 0 }),
        }
    }

    fn reading(text: &str) -> Reading {
        Reading::Media(Box::new(MediaRead::from(&Media::parse(text).unwrap())))
    }

    #[test]
    fn what_stands_there_is_what_must_be_read() {
        check_media(&reading(OPEN), OPEN, &promised()).unwrap();
        let refused = Reading::Refused("a tag".into());
        assert!(check_media(&refused, OPEN, &promised()).is_err());
        let Reading::Media(media) = reading(OPEN) else { unreachable!() };
        for change in [
            |media: &mut MediaRead| media.target_s = 5,
            |media: &mut MediaRead| media.hints.clear(),
            |media: &mut MediaRead| media.segments[0].map = None,
            |media: &mut MediaRead| media.segments[0].parts[0].independent = false,
            |media: &mut MediaRead| media.reports[0].last_part = 1,
        ] {
            let mut other = media.clone();
            change(&mut other);
            assert!(check_media(&Reading::Media(other), OPEN, &promised()).is_err());
        }
    }

    /// A parser that reads it as it stands does not make it right.
    #[test]
    fn what_is_promised_must_stand_there() {
        for (from, to) in [
            ("PART-HOLD-BACK=0.660", "PART-HOLD-BACK=0.440"),
            ("CAN-BLOCK-RELOAD=YES,", ""),
            ("HOLD-BACK=12.000", "HOLD-BACK=11.000"),
            ("CAN-SKIP-UNTIL=24.000", "CAN-SKIP-UNTIL=23.000"),
            ("#EXTINF:0.200", "#EXTINF:11.900"),
            ("8.1.m4s", "8.2.m4s"),
            ("../a/", "../b/"),
            ("LAST-MSN=8", "LAST-MSN=6"),
            ("DURATION=0.200,URI=\"8.0", "DURATION=0.240,URI=\"8.0"),
            (
                "#EXT-X-PART:DURATION=0.200,URI=\"7.0",
                "#EXT-X-DISCONTINUITY\n#EXT-X-PART:DURATION=0.200,URI=\"7.0",
            ),
        ] {
            let text = OPEN.replace(from, to);
            assert_ne!(text, OPEN, "{from}");
            assert!(check_media(&reading(&text), &text, &promised()).is_err(), "{to}");
        }
        let early = Promised { asked: Some(Place { segment: 8, part: 1 }), ..promised() };
        assert!(check_media(&reading(OPEN), OPEN, &early).is_err());
    }

    #[test]
    fn a_line_of_a_parser_is_read() {
        let refused: Reading = serde_json::from_str(r#"{"refused":"no"}"#).unwrap();
        assert_eq!(refused, Reading::Refused("no".into()));
        let line = r#"{"multivariant":{"variants":[{"uri":"a/index.m3u8","bandwidth_bps":900,
            "average_bps":null,"codecs":"avc1.64001f","width":128,"height":72,"frame_rate_mhz":29970}]}}"#;
        let text = "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=900,CODECS=\"avc1.64001f\",\
            RESOLUTION=128x72,FRAME-RATE=29.970\na/index.m3u8\n";
        let read: Reading = serde_json::from_str(line).unwrap();
        check_multivariant(&read, text, &["a"]).unwrap();
        assert!(check_multivariant(&read, text, &["a", "b"]).is_err());
        assert!(check_multivariant(&read, &text.replace("900", "901"), &["a"]).is_err());
    }
}
