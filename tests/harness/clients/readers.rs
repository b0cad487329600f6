//! The parsers at the live edge: they read every kind of playlist that is served, round after round.

use super::controls::{self, Control};
use super::install::Installed;
use super::parser::{Kind, Parser};
use super::reading::{self, Promised, Reading};
use crate::duties::playlist::{Ending, Media, Place};
use crate::passage::BOUND;
use crate::{viewer, wait};
use anyhow::{Context, Result, ensure};
use std::path::Path;

/// What all parsers have read without an objection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Read {
    pub playlists: usize,
    /// Deltas that skipped something.
    pub deltas: usize,
    /// Answers to `_HLS_msn` and `_HLS_part`.
    pub waited: usize,
    pub reports: usize,
    /// Broken playlists that were found out, and those that hls-parser and m3u8 refused themselves.
    pub controls: usize,
    pub refused: [usize; Kind::ALL.len()],
}

#[derive(Debug)]
pub struct Readers<'a> {
    address: &'a str,
    /// Application and name.
    stream: &'a str,
    labels: &'a [&'a str],
    parsers: Vec<Parser>,
    pub read: Read,
    /// The newest that was sound, of each kind.
    multivariant: String,
    full: String,
    delta: String,
    /// What the last two promised.
    promised: Promised,
}

impl<'a> Readers<'a> {
    pub fn start(
        installed: &Installed,
        run: &Path,
        address: &'a str,
        stream: &'a str,
        labels: &'a [&'a str],
    ) -> Result<Self> {
        let start = |kind: Kind| Parser::start(kind, installed, run);
        Ok(Self {
            address,
            stream,
            labels,
            parsers: Kind::ALL.into_iter().map(start).collect::<Result<_>>()?,
            read: Read::default(),
            multivariant: String::new(),
            full: String::new(),
            delta: String::new(),
            promised: Promised { siblings: Vec::new(), asked: None },
        })
    }

    /// One round: the multivariant playlist, and of each rendition what stands now, the same as a
    /// delta, what comes next, and that as a delta.
    pub fn round(&mut self) -> Result<()> {
        self.multivariant = self.get("index.m3u8")?;
        for parser in &mut self.parsers {
            let read = parser.read(&self.multivariant)?;
            reading::check_multivariant(&read, &self.multivariant, self.labels)
                .with_context(|| format!("{}\n{}", parser.kind.name(), self.multivariant))?;
        }
        self.read.playlists += 1;
        for label in self.labels {
            let (text, media) = self.media(label, "", None)?;
            self.full = text;
            let next = media.next().context("an open playlist without an edge")?;
            let asked = format!("?_HLS_msn={}&_HLS_part={}", next.segment, next.part);
            let (_, media) = self.media(label, &asked, Some(next))?;
            self.read.waited += 1;
            self.read.reports += media.reports.len();
            let next = media.next().context("an open playlist without an edge")?;
            let asked = format!("?_HLS_msn={}&_HLS_part={}&_HLS_skip=YES", next.segment, next.part);
            self.media(label, &asked, Some(next))?;
            self.read.waited += 1;
            let (text, media) = self.media(label, "?_HLS_skip=YES", None)?;
            if media.skipped > 0 {
                self.read.deltas += 1;
                self.delta = text;
            }
        }
        Ok(())
    }

    /// Every playlist of the stream says that nothing follows, and all parsers see it.
    pub fn ended(&mut self) -> Result<()> {
        for label in self.labels {
            wait::until(&format!("the end of {label}"), BOUND, || {
                let text = self.get(&format!("{label}/index.m3u8"))?;
                Ok(text.contains("#EXT-X-ENDLIST").then_some(()))
            })?;
            let (text, media) = self.media(label, "", None)?;
            ensure!(media.ending == Ending::Ended, "{text}");
        }
        Ok(())
    }

    /// Broken copies of what was served last: each must be found out with each parser.
    pub fn check_controls(&mut self) -> Result<()> {
        ensure!(!self.delta.is_empty(), "no delta skipped anything");
        for control in controls::MEDIA {
            let (sound, promised) = (self.full.clone(), self.promised.clone());
            self.must_find(control, &sound, |read| reading::check_media(read, &sound, &promised))?;
        }
        for control in controls::DELTA {
            let (sound, promised) = (self.delta.clone(), self.promised.clone());
            self.must_find(control, &sound, |read| reading::check_media(read, &sound, &promised))?;
        }
        for control in controls::MULTIVARIANT {
            let (sound, labels) = (self.multivariant.clone(), self.labels);
            self.must_find(control, &sound, |read| {
                reading::check_multivariant(read, &sound, labels)
            })?;
        }
        for (parser, refused) in self.parsers.iter().zip(self.read.refused) {
            ensure!(refused > 0, "{} takes everything", parser.kind.name());
        }
        Ok(())
    }

    fn must_find(
        &mut self,
        control: &Control,
        sound: &str,
        check: impl Fn(&Reading) -> Result<()>,
    ) -> Result<()> {
        let broken = control.applied_to(sound)?;
        for (parser, refused) in self.parsers.iter_mut().zip(&mut self.read.refused) {
            let name = parser.kind.name();
            let read = parser.read(sound)?;
            check(&read).with_context(|| format!("{name}: the sound one of {}", control.name))?;
            let read = parser.read(&broken)?;
            let found = check(&read).is_err();
            ensure!(found, "{name}: {} was not found out in\n{broken}", control.name);
            *refused += usize::from(matches!(read, Reading::Refused(_)));
        }
        self.read.controls += 1;
        Ok(())
    }

    fn media(&mut self, label: &str, query: &str, asked: Option<Place>) -> Result<(String, Media)> {
        let text = self.get(&format!("{label}/index.m3u8{query}"))?;
        let others = self.labels.iter().filter(|other| **other != label);
        let mut siblings: Vec<String> =
            others.map(|other| format!("../{other}/index.m3u8")).collect();
        siblings.sort_unstable();
        let promised = Promised { siblings, asked };
        for parser in &mut self.parsers {
            let read = parser.read(&text)?;
            reading::check_media(&read, &text, &promised)
                .with_context(|| format!("{}: {label}{query}\n{text}", parser.kind.name()))?;
        }
        self.read.playlists += 1;
        self.promised = Promised { asked: None, ..promised };
        let media = Media::parse(&text)?;
        Ok((text, media))
    }

    fn get(&self, path: &str) -> Result<String> {
        let path = format!("/live/{}/{path}", self.stream);
        viewer::get(self.address, &path)?.text().with_context(|| path.clone())
    }
}
