//! What one viewer gets next: a cursor over the logs, and the bytes made of it. No sockets, no time.
//!
//! A body begins with the newest keyframe that is there, so that a player starts at once. One that
//! falls behind its logs goes on with the newest keyframe, which is counted; nobody waits for it.
//! Times begin at 0 with the first packet: those of a log count from its session's beginning, and
//! some players take 32 bits of them as signed.

use super::streams::{LiveStream, Rendition, Watching};
use super::tags::{self, TagKind, Tracks};
use crate::media::config;
use crate::media::tag::{VideoKind, parse_video};
use crate::output::cursor::{Cursor, Feed, Logs, Next, StreamEnd};
use std::convert::Infallible;
use tasuki_shared::id::RungId;
use tasuki_shared::limits::FLV_CHUNK_BYTES;
use tasuki_shared::memory::log::{EntryKind, HeaderKind, LogReader, Miss};

/// How a composition ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    /// There is more already.
    More,
    /// Nothing more has come.
    Waits,
    /// Nothing more comes.
    Over,
}

/// See the module.
pub struct Viewer {
    watching: Watching,
    rung: RungId,
    /// `None` before it is known what the rung reads.
    reading: Option<Reading>,
}

struct Reading {
    cursor: Cursor,
    /// `None` before anything was given.
    begun: Option<Begun>,
    /// What the cursor had skipped when it gave the last packet; `None` before the first.
    skipped: Option<u64>,
}

#[derive(Clone, Copy)]
struct Begun {
    tracks: Tracks,
    /// Of the first packet.
    dts_ms: i64,
}

impl Viewer {
    #[must_use]
    pub fn new(watching: Watching, rung: RungId) -> Self {
        Self { watching, rung, reading: None }
    }

    #[must_use]
    pub fn watching(&self) -> &Watching {
        &self.watching
    }

    /// Packets that it was too slow for.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.reading.as_ref().map_or(0, |reading| reading.cursor.skipped)
    }

    /// Appends what is there, up to a chunk.
    pub fn fill(&mut self, out: &mut Vec<u8>) -> Filled {
        let stream = self.watching.stream();
        // Asked first: what was committed before the end is in the logs by then.
        let end = stream.end();
        let reading = match &mut self.reading {
            Some(reading) => reading,
            none => match stream.rendition(self.rung) {
                Rendition::Reads(feed) => none.insert(Reading::begin(feed, stream)),
                Rendition::Later if end == StreamEnd::Going => return Filled::Waits,
                Rendition::Later | Rendition::Off => return Filled::Over,
            },
        };
        let logs = stream.logs();
        while out.len() < FLV_CHUNK_BYTES {
            match (reading.cursor.next(&logs, end), end) {
                (Some(next), _) => {
                    if reading.follows_a_gap(&next) {
                        self.watching.count_jump();
                    }
                    reading.put(next, &logs, out);
                }
                (None, StreamEnd::Going) => return Filled::Waits,
                (None, StreamEnd::Over) => return Filled::Over,
            }
        }
        Filled::More
    }
}

impl Reading {
    fn begin(feed: Feed, stream: &LiveStream) -> Self {
        let mut cursor = Cursor::new(feed);
        cursor.go_to_keyframe(&stream.logs());
        Self { cursor, begun: None, skipped: None }
    }

    /// Is it the first packet behind some that were skipped? What was before the first of all is
    /// missed by nobody.
    fn follows_a_gap(&mut self, next: &Next) -> bool {
        match next {
            Next::Header { .. } => false,
            Next::Packet { .. } => {
                let before = self.skipped.replace(self.cursor.skipped);
                before.is_some_and(|before| self.cursor.skipped > before)
            }
        }
    }

    fn put(&mut self, next: Next, logs: &Logs<LogReader>, out: &mut Vec<u8>) {
        let dts_ms = match &next {
            Next::Header { dts_ms, .. } => *dts_ms,
            Next::Packet { entry, .. } => entry.dts_ms,
        };
        let begun = match self.begun {
            Some(begun) => begun,
            None => self.announce(dts_ms, logs, out),
        };
        let since_ms = dts_ms.saturating_sub(begun.dts_ms);
        match next {
            // That of the publisher may tell of a file; ours is made of the video header.
            Next::Header { kind: HeaderKind::Metadata, .. } => {}
            Next::Header { log, id, kind, .. } => {
                let Some(bytes) = logs.get(log).and_then(|log| log.header(kind, id)) else {
                    return;
                };
                let time = wire_time(since_ms);
                if kind == HeaderKind::Video {
                    let config = video_config(&bytes);
                    let metadata = tags::metadata(begun.tracks.with_video(), config.as_ref());
                    put_bytes(TagKind::Script, time, &metadata, out);
                }
                put_bytes(TagKind::of_header(kind), time, &bytes, out);
            }
            // Sound from before the first picture has nothing to belong to.
            Next::Packet { entry, .. } if since_ms < 0 && entry.kind == EntryKind::Audio => {}
            Next::Packet { log, entry } => {
                let copied =
                    tags::put_tag(TagKind::of(entry.kind), wire_time(since_ms), out, |out| {
                        let log = logs.get(log).ok_or(Miss::Lapped)?;
                        log.append(entry.index, out).map(|_| ())
                    });
                if copied.is_err() {
                    self.cursor.lost_in_hand();
                }
            }
        }
    }

    /// The beginning of a body.
    fn announce(&mut self, dts_ms: i64, logs: &Logs<LogReader>, out: &mut Vec<u8>) -> Begun {
        let tracks = tracks_of(self.cursor.feed(), logs);
        tags::put_header(tracks, out);
        if tracks == Tracks::AudioAlone {
            put_bytes(TagKind::Script, 0, &tags::metadata(tracks, None), out);
        }
        *self.begun.insert(Begun { tracks, dts_ms })
    }
}

/// Which tracks follow, as far as it is known at the beginning.
fn tracks_of(feed: Feed, logs: &Logs<LogReader>) -> Tracks {
    let source = logs.source.headers();
    // What becomes of the source's sound follows it by a moment.
    let has_audio = source.audio != 0 && !matches!(feed, Feed::Merged { audio: None, .. });
    match (source.video != 0, has_audio) {
        (true, true) => Tracks::Both,
        (true, false) => Tracks::VideoAlone,
        (false, _) => Tracks::AudioAlone,
    }
}

fn video_config(header: &[u8]) -> Option<config::VideoConfig> {
    let tag = parse_video(header).ok()?;
    match tag.kind {
        VideoKind::SequenceHeader { config } => config::parse(tag.codec, config).ok(),
        VideoKind::Frame { .. } | VideoKind::EndOfSequence | VideoKind::Metadata { .. } => None,
    }
}

fn put_bytes(kind: TagKind, timestamp_ms: u32, bytes: &[u8], out: &mut Vec<u8>) {
    let appended = tags::put_tag(kind, timestamp_ms, out, |out| {
        out.extend_from_slice(bytes);
        Ok::<(), Infallible>(())
    });
    match appended {
        Ok(()) => {}
        Err(never) => match never {},
    }
}

/// The milliseconds of a tag, modulo 2³²; nothing is before the beginning.
fn wire_time(since_ms: i64) -> u32 {
    u32::try_from(since_ms.max(0).rem_euclid(1 << 32)).expect("below 2^32")
}
