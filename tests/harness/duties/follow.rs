//! A client that follows one rendition at the live edge until it ends, and judges its server.

use super::exchange;
use super::fragment::Init;
use super::judge::{Finding, Judge};
use super::playlist::{self, Ending, Media, Place};
use crate::viewer::{self, Response};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use tasuki_shared::clock;

/// The kernel stamps files by its tick.
const TICK_MS: u64 = 10;
/// Beside other tests on a small machine; what is usual is the middle's business.
const PROMPT_MS_MAX: u64 = 1_500;
const PROMPT_MS_MIDDLE: u64 = 100;
/// So far ahead of the edge that no race with it matters.
const SEGMENTS_FAR: u64 = 4;
const PARTS_FAR: u64 = 60;
/// What is asked beside, at every so many playlists.
const ROUND: usize = 12;

/// What is followed.
#[derive(Clone, Copy, Debug)]
pub struct Watched<'a> {
    pub address: &'a str,
    /// Application and name.
    pub stream: &'a str,
    pub label: &'a str,
    pub sibling: &'a str,
    /// Where the stream's files are: when one appeared says when it could be served.
    pub directory: &'a Path,
    pub resolution: (u64, u64),
    pub frame_rate_mhz: u64,
}

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub playlists: usize,
    pub parts: usize,
    pub segments: usize,
    pub deltas: usize,
    pub skipped_most: u64,
    pub reports: usize,
    pub refusals: usize,
    /// From a part's appearance to the answer of a playlist that waited for it.
    pub reload_ms: Vec<u64>,
    /// And to the end of the body that waited for it.
    pub hint_ms: Vec<u64>,
    /// Of requests that have nothing to wait for.
    pub plain_ms: Vec<u64>,
    pub findings: Vec<String>,
    /// Dates of segments with their discontinuity sequence numbers.
    pub numbers: Vec<(u64, u64)>,
}

/// Follows until EXT-X-ENDLIST.
pub fn follow(watched: &Watched<'_>) -> Result<Seen> {
    let base = format!("/live/{}", watched.stream);
    let client = Client {
        watched: *watched,
        base,
        judge: Judge::default(),
        fetched: BTreeSet::new(),
        seen: Seen::default(),
    };
    client.follow()
}

struct Client<'a> {
    watched: Watched<'a>,
    base: String,
    judge: Judge,
    fetched: BTreeSet<String>,
    seen: Seen,
}

/// A response, and when it was whole.
struct Answered {
    response: Response,
    at_ms: u64,
    took_ms: u64,
}

impl Answered {
    /// Since what it waited for was there, or it was asked if that was later.
    fn waited_ms(&self, appeared_ms: u64) -> u64 {
        self.at_ms.saturating_sub(appeared_ms).min(self.took_ms)
    }

    /// Then directives mean nothing.
    fn says_the_end(&self) -> bool {
        self.response.text().is_ok_and(|text| text.contains("#EXT-X-ENDLIST"))
    }
}

impl Client<'_> {
    fn follow(mut self) -> Result<Seen> {
        // It comes when each rendition has a whole segment.
        self.multivariant()?;
        let mut media = self.media("")?.0;
        self.take(&media)?;
        let map =
            media.segments.last().and_then(|last| last.map.clone()).context("no EXT-X-MAP")?;
        let init = Init::parse(&self.fetch(&map)?)?;
        while media.ending == Ending::Open {
            let next = media.next().context("a playlist without parts")?;
            media = self.reload(&media, next)?;
            self.take(&media)?;
            self.beside(&media, &init)?;
        }
        self.ended(&media, &init)?;
        ensure!(self.seen.playlists > ROUND, "only {} playlists", self.seen.playlists);
        self.seen.numbers = self.judge.numbers();
        let findings = std::mem::take(&mut self.judge).finish(&init);
        let findings =
            findings.into_iter().map(|Finding { duty, what }| format!("{duty:?}: {what}"));
        self.seen.findings.extend(findings);
        self.prompt();
        Ok(self.seen)
    }

    /// Waits for the next part in both ways: with the playlist, and with what it hints at.
    fn reload(&mut self, before: &Media, next: Place) -> Result<Media> {
        let hint = before.hint.clone();
        let query = format!("?_HLS_msn={}&_HLS_part={}", next.segment, next.part);
        let (address, path) = (self.watched.address, self.playlist_path(&query));
        let hinted = hint.as_ref().map(|uri| self.path(uri));
        let (answered, hinted) = thread::scope(|scope| {
            let hinted = hinted.map(|path| scope.spawn(move || ask(address, &path)));
            let answered = ask(address, &path);
            let hinted = hinted.map(|it| it.join().map_err(|_| anyhow::anyhow!("it panicked")));
            (answered, hinted)
        });
        let answered = answered?;
        let media = Media::parse(&answered.response.text()?)?;
        let has_it = media.next() > Some(next) || media.ending == Ending::Ended;
        if !has_it {
            self.found(format!("a reload for {next:?} ends at {:?}", media.edge()));
        }
        let keep = answered.response.header("cache-control").unwrap_or_default().to_owned();
        if media.ending == Ending::Open && !keep.contains("max-age=") {
            self.found(format!("a playlist that was waited for may be kept: {keep}"));
        }
        if let Some(Ok(appeared_ms)) = hint.as_ref().map(|uri| self.appeared_ms(uri)) {
            if answered.at_ms + TICK_MS < appeared_ms {
                self.found(format!("{hint:?} is told of before it is there"));
            }
            self.seen.reload_ms.push(answered.waited_ms(appeared_ms));
        }
        if let (Some(hinted), Some(uri)) = (hinted, hint) {
            self.take_hinted(&uri, hinted??, &media);
        }
        Ok(media)
    }

    fn take_hinted(&mut self, uri: &str, hinted: Answered, media: &Media) {
        match hinted.response.status {
            200 => {
                if let Ok(appeared_ms) = self.appeared_ms(uri) {
                    if hinted.at_ms + TICK_MS < appeared_ms {
                        self.found(format!("{uri} is served before it is there"));
                    }
                    self.seen.hint_ms.push(hinted.waited_ms(appeared_ms));
                }
                self.judge.body(uri, &hinted.response.body);
                self.fetched.insert(uri.to_owned());
            }
            404 if media.ending == Ending::Ended => {}
            status => self.found(format!("{uri} was hinted at: HTTP {status}")),
        }
    }

    /// Judges a playlist and fetches what is new in it: all that is listed can be had at once.
    fn take(&mut self, media: &Media) -> Result<()> {
        self.seen.playlists += 1;
        self.judge.playlist(media);
        for segment in &media.segments {
            for part in &segment.parts {
                if self.fetched.insert(part.uri.clone()) {
                    self.fetch(&part.uri)?;
                }
            }
            self.seen.parts = self.seen.parts.max(self.fetched.len());
            if let Some(whole) = &segment.whole
                && self.fetched.insert(whole.uri.clone())
            {
                self.fetch(&whole.uri)?;
                self.seen.segments += 1;
            }
        }
        Ok(())
    }

    fn fetch(&mut self, uri: &str) -> Result<Vec<u8>> {
        let answered = self.at_once(&self.path(uri))?;
        if answered.response.status == 200 {
            self.judge.body(uri, &answered.response.body);
        } else {
            self.found(format!("{uri} is listed: HTTP {}", answered.response.status));
        }
        Ok(answered.response.body)
    }

    /// One of the questions that are not asked at every playlist.
    fn beside(&mut self, media: &Media, init: &Init) -> Result<()> {
        match self.seen.playlists % ROUND {
            1 | 5 => self.delta(media)?,
            2 | 8 => self.report()?,
            3 => self.refusals(media)?,
            4 => self.whole_segment(media)?,
            6 => self.long_past(media)?,
            7 => self.variant(init)?,
            9 => {
                let part = media.segments.iter().rev().find_map(|it| it.parts.first());
                let uri = part.context("no part is listed")?.uri.clone();
                let findings = exchange::media(self.watched.address, &self.path(&uri))?;
                self.seen.findings.extend(findings);
            }
            _ => {}
        }
        Ok(())
    }

    /// A delta update between two full playlists that are the same.
    fn delta(&mut self, known: &Media) -> Result<()> {
        let full = self.at_once(&self.playlist_path(""))?.response.text()?;
        let delta = self.at_once(&self.playlist_path("?_HLS_skip=YES"))?.response.text()?;
        let again = self.at_once(&self.playlist_path(""))?.response.text()?;
        if full == again {
            let delta = Media::parse(&delta)?;
            self.seen.deltas += 1;
            self.seen.skipped_most = self.seen.skipped_most.max(delta.skipped);
            self.judge.delta(&delta, known, &Media::parse(&full)?);
        }
        Ok(())
    }

    fn report(&mut self) -> Result<()> {
        let sibling = format!("{}/{}/index.m3u8", self.base, self.watched.sibling);
        let before = Media::parse(&self.at_once(&sibling)?.response.text()?)?;
        let media = self.media("")?.0;
        let after = Media::parse(&self.at_once(&sibling)?.response.text()?)?;
        let uri = format!("../{}/index.m3u8", self.watched.sibling);
        let said = media.reports.iter().find(|report| report.uri == uri);
        match (said, before.edge(), after.edge()) {
            (Some(said), Some(before), Some(after)) => {
                self.judge.report(said.last, before, after);
                self.seen.reports += 1;
            }
            _ if media.ending == Ending::Ended || after.ending == Ending::Ended => {}
            (said, before, after) => {
                self.found(format!("{said:?} of {uri}, which was at {before:?} and {after:?}"));
            }
        }
        Ok(())
    }

    /// What cannot come soon, and what means nothing, is refused at once.
    fn refusals(&mut self, media: &Media) -> Result<()> {
        let Some(Place { segment, part }) = media.edge() else { return Ok(()) };
        let far = segment + SEGMENTS_FAR;
        let beyond = part + PARTS_FAR;
        for query in [
            format!("?_HLS_msn={far}"),
            format!("?_HLS_msn={far}&_HLS_part=0"),
            format!("?_HLS_msn={}&_HLS_part={beyond}", segment + 1),
            "?_HLS_part=3".to_owned(),
            "?_HLS_msn=".to_owned(),
            "?_HLS_msn=-1".to_owned(),
            "?_HLS_msn=1e3".to_owned(),
            format!("?_HLS_msn={segment}&_HLS_part=x"),
            "?_HLS_skip=MAYBE".to_owned(),
        ] {
            let answered = self.at_once(&self.playlist_path(&query))?;
            if answered.says_the_end() {
                return Ok(());
            }
            if answered.response.status != 400 {
                self.found(format!("{query} is answered by {}", answered.response.status));
            }
            self.seen.refusals += 1;
        }
        self.first_refused()?;
        // Of the open segment; it may have ended meanwhile, and then the next one's is meant.
        let query = format!("?_HLS_msn={segment}&_HLS_part={beyond}");
        let answered = self.at_once(&self.playlist_path(&query))?;
        let status = answered.response.status;
        let is_open = media.segments.last().is_some_and(|last| last.whole.is_none());
        let now = self.media("")?.0.edge().map(|edge| edge.segment);
        if status != 400 && is_open && now == Some(segment) && !answered.says_the_end() {
            self.found(format!("{query} is answered by {status}"));
        }
        let unhinted = format!("{}.{beyond}.m4s", segment + 1);
        let answered = self.at_once(&self.path(&unhinted))?;
        if answered.response.status != 404 {
            self.found(format!("{unhinted}, which nothing names: {}", answered.response.status));
        }
        Ok(())
    }

    /// The nearest that is refused. Where the playlist went on meanwhile it was none, and was waited for.
    fn first_refused(&mut self) -> Result<()> {
        let Some(beyond) = self.media("")?.0.first_beyond() else { return Ok(()) };
        let path = self.playlist_path(&format!("?_HLS_msn={beyond}"));
        let answered = ask(self.watched.address, &path)?;
        let now = self.media("")?.0;
        let is_same = now.first_beyond() == Some(beyond) && now.ending == Ending::Open;
        if is_same && answered.response.status != 400 {
            self.found(format!("_HLS_msn={beyond} is answered by {}", answered.response.status));
        }
        Ok(())
    }

    /// `_HLS_msn` alone waits for the whole segment.
    fn whole_segment(&mut self, media: &Media) -> Result<()> {
        let Some(Place { segment, .. }) = media.edge() else { return Ok(()) };
        let (found, _) = self.media(&format!("?_HLS_msn={segment}"))?;
        let whole = found.segments.iter().rev().find(|it| it.whole.is_some());
        let is_there = whole.is_some_and(|whole| whole.number >= segment);
        if !is_there && found.ending == Ending::Open {
            self.found(format!("a reload for {segment} ends at {:?}", found.edge()));
        }
        Ok(())
    }

    /// What was there long ago needs no waiting, and the playlist is whole all the same.
    fn long_past(&mut self, media: &Media) -> Result<()> {
        let Some(first) = media.segments.first() else { return Ok(()) };
        for query in ["?_HLS_msn=0".to_owned(), format!("?_HLS_msn={}&_HLS_part=500", first.number)]
        {
            let answered = self.at_once(&self.playlist_path(&query))?;
            let found = Media::parse(&answered.response.text()?)?;
            if found.next() < media.next() {
                self.found(format!("{query}: {:?} after {:?}", found.edge(), media.edge()));
            }
        }
        let keep = self.at_once(&self.playlist_path(""))?;
        let keep = keep.response.header("cache-control").unwrap_or_default().to_owned();
        if keep != "no-cache" {
            self.found(format!("a playlist without directives may be kept: {keep}"));
        }
        Ok(())
    }

    fn variant(&mut self, init: &Init) -> Result<()> {
        let Watched { label, resolution, frame_rate_mhz, .. } = self.watched;
        let variants = self.multivariant()?;
        let uri = format!("{label}/index.m3u8");
        let variant = variants.iter().find(|it| it.uri == uri);
        let variant = variant.with_context(|| format!("{label} is no variant"))?;
        self.judge.variant(variant, init, resolution, frame_rate_mhz);
        Ok(())
    }

    /// Behind EXT-X-ENDLIST directives mean nothing.
    fn ended(&mut self, media: &Media, init: &Init) -> Result<()> {
        for query in ["?_HLS_msn=99999999999999", "?_HLS_msn=0&_HLS_part=0", "?_HLS_skip=YES"] {
            let answered = self.at_once(&self.playlist_path(query))?;
            let found = Media::parse(&answered.response.text()?)?;
            if found != *media {
                let (skipped, edge) = (found.skipped, found.edge());
                self.found(format!("at the end {query}: {skipped} skipped, up to {edge:?}"));
            }
        }
        self.variant(init)?;
        let path = self.playlist_path("");
        self.seen.findings.extend(exchange::ended_playlist(self.watched.address, &path)?);
        Ok(())
    }

    fn prompt(&mut self) {
        for (what, delays) in [
            ("a reload", self.seen.reload_ms.clone()),
            ("a hinted part", self.seen.hint_ms.clone()),
            ("a request without waiting", self.seen.plain_ms.clone()),
        ] {
            let (middle, most) = (percentile(&delays, 50), percentile(&delays, 100));
            if middle > PROMPT_MS_MIDDLE || most > PROMPT_MS_MAX {
                self.found(format!("{what} took {middle} ms, at most {most} ms"));
            }
        }
    }

    fn multivariant(&self) -> Result<Vec<playlist::Variant>> {
        let response = viewer::get(self.watched.address, &format!("{}/index.m3u8", self.base))?;
        playlist::variants(&response.text()?)
    }

    fn media(&self, query: &str) -> Result<(Media, Response)> {
        let response = viewer::get(self.watched.address, &self.playlist_path(query))?;
        Ok((Media::parse(&response.text()?)?, response))
    }

    fn at_once(&mut self, path: &str) -> Result<Answered> {
        let answered = ask(self.watched.address, path)?;
        self.seen.plain_ms.push(answered.took_ms);
        Ok(answered)
    }

    fn playlist_path(&self, query: &str) -> String {
        format!("{}/{}/index.m3u8{query}", self.base, self.watched.label)
    }

    fn path(&self, uri: &str) -> String {
        format!("{}/{}/{uri}", self.base, self.watched.label)
    }

    /// When the file of a part got its name.
    fn appeared_ms(&self, uri: &str) -> Result<u64> {
        let numbers = uri.strip_suffix(".m4s").context("no part")?;
        let name = format!("{numbers}.{}.m4s", self.watched.label);
        let about = std::fs::metadata(self.watched.directory.join(name))?;
        Ok(u64::try_from(about.ctime() * 1000 + about.ctime_nsec() / 1_000_000)?)
    }

    fn found(&mut self, what: String) {
        self.seen.findings.push(what);
    }
}

fn ask(address: &str, path: &str) -> Result<Answered> {
    let began_ms = clock::unix_ms();
    let response = viewer::get(address, path).with_context(|| path.to_owned())?;
    let at_ms = clock::unix_ms();
    Ok(Answered { response, at_ms, took_ms: at_ms.saturating_sub(began_ms) })
}

/// 0 of nothing.
#[must_use]
pub fn percentile(delays: &[u64], percent: usize) -> u64 {
    let mut sorted = delays.to_vec();
    sorted.sort_unstable();
    let at = sorted.len().saturating_sub(1) * percent / 100;
    sorted.get(at).copied().unwrap_or(0)
}

impl Seen {
    /// Fails with everything that was found.
    pub fn check(&self) -> Result<()> {
        ensure!(self.findings.is_empty(), "{}", self.findings.join("\n"));
        ensure!(self.deltas > 0 && self.reports > 0 && self.refusals > 0, "too little was asked");
        Ok(())
    }

    /// Without the findings.
    #[must_use]
    pub fn summary(&self) -> String {
        let two = |delays: &[u64]| format!("{}/{}", percentile(delays, 50), percentile(delays, 99));
        format!(
            "{} playlists, {} parts, {} segments, {} deltas (at most {} skipped), {} reports, \
             {} refusals; p50/p99 ms from a part's appearance: reload {}, hinted part {}; plain {}",
            self.playlists,
            self.parts,
            self.segments,
            self.deltas,
            self.skipped_most,
            self.reports,
            self.refusals,
            two(&self.reload_ms),
            two(&self.hint_ms),
            two(&self.plain_ms)
        )
    }
}
