//! What a push sends next, out of the logs: pure over committed entries.
//!
//! A push reads one log (the source) or two side by side (a rung's video, and audio from the
//! source or the audio log). It begins at a keyframe, sends each sequence header before the first
//! packet that needs it, and skips to a keyframe when it was lapped.

use crate::session::record::Put;
use tasuki_shared::id::RungId;
use tasuki_shared::memory::log::{Entry, EntryKind, HeaderIds, LogWriter};

/// Without a video track for this long (of stream time), audio alone begins.
const AUDIO_ALONE_AFTER_MS: i64 = 1_000;
/// How far audio may run ahead of video that does not come (a static screen).
const AUDIO_AHEAD_MS: i64 = 500;

/// How long (of stream time) sound waits for the next picture to go out with it: one write less,
/// and one wake-up less at the origin, for each.
const AUDIO_JOINS_VIDEO_MS: i64 = 40;

/// A log, as named in a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogName {
    Source,
    Audio,
    Rung(RungId),
}

impl LogName {
    #[must_use]
    pub fn to_byte(self) -> u8 {
        match self {
            Self::Source => 0,
            Self::Audio => 1,
            Self::Rung(RungId(rung)) => rung.saturating_add(2),
        }
    }

    #[must_use]
    pub fn from_byte(byte: u8) -> Self {
        match byte {
            0 => Self::Source,
            1 => Self::Audio,
            rung => Self::Rung(RungId(rung - 2)),
        }
    }
}

/// The logs of one stream, as its owner has them.
pub struct Logs {
    pub source: LogWriter,
    pub audio: Option<LogWriter>,
    pub rungs: Vec<Option<LogWriter>>,
}

impl Logs {
    #[must_use]
    pub fn get(&self, name: LogName) -> Option<&LogWriter> {
        match name {
            LogName::Source => Some(&self.source),
            LogName::Audio => self.audio.as_ref(),
            LogName::Rung(RungId(rung)) => self.rungs.get(usize::from(rung))?.as_ref(),
        }
    }
}

/// Which logs a push reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feed {
    /// Video and audio as they came.
    Source,
    Merged {
        video: LogName,
        audio: Option<LogName>,
    },
}

/// The next thing to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Header { log: LogName, id: u32, kind: EntryKind, dts_ms: i64 },
    Packet { log: LogName, entry: Entry },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Started {
    /// A keyframe, or for want of a video track audio, must come first.
    Not,
    /// Audio alone was begun; video joins with its first keyframe.
    AudioAlone,
    Yes,
}

/// A push's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    feed: Feed,
    video: u64,
    audio: u64,
    started: Started,
    /// Headers sent on this connection.
    sent: HeaderIds,
    last_video_dts_ms: i64,
    /// Packets lost because they were overwritten or no keyframe preceded them.
    pub skipped: u64,
}

impl Cursor {
    #[must_use]
    pub fn new(feed: Feed) -> Self {
        Self {
            feed,
            video: 0,
            audio: 0,
            started: Started::Not,
            sent: HeaderIds::default(),
            last_video_dts_ms: i64::MIN,
            skipped: 0,
        }
    }

    /// A new connection: headers and a keyframe come first again.
    pub fn restart(&mut self) {
        self.started = Started::Not;
        self.sent = HeaderIds::default();
        self.last_video_dts_ms = i64::MIN;
    }

    /// Is there a place to start from?
    #[must_use]
    pub fn can_start(&self, logs: &Logs) -> bool {
        let mut probe = self.clone();
        probe.peek(logs).is_some()
    }

    /// Everything there is has been sent.
    #[must_use]
    pub fn is_at_end(&self, logs: &Logs) -> bool {
        let at_head = |name: LogName, index: u64| {
            logs.get(name).is_none_or(|log| index >= log.heads().index_head)
        };
        match self.feed {
            Feed::Source => at_head(LogName::Source, self.video),
            Feed::Merged { video, audio } => {
                at_head(video, self.video) && audio.is_none_or(|name| at_head(name, self.audio))
            }
        }
    }

    /// The next thing to send, if any; the cursor moves past it.
    pub fn next(&mut self, logs: &Logs, end: StreamEnd) -> Option<Next> {
        if end == StreamEnd::Over {
            // No more video comes: audio waits for nothing.
            self.last_video_dts_ms = i64::MAX;
        }
        let (log, entry) = self.peek(logs)?;
        if let Some(header) = self.missing_header(logs, &entry) {
            return Some(header);
        }
        self.pass(log, &entry);
        Some(Next::Packet { log, entry })
    }

    /// Appends what the commit record must know.
    pub fn encode(&self, into: &mut Vec<u8>) {
        let Self { feed: _, video, audio, started, sent, last_video_dts_ms, skipped } = self;
        into.put_u64(*video);
        into.put_u64(*audio);
        into.put_u8(match started {
            Started::Not => 0,
            Started::AudioAlone => 1,
            Started::Yes => 2,
        });
        for id in [sent.video, sent.audio, sent.metadata] {
            into.put_u32(id);
        }
        into.put_u64(last_video_dts_ms.cast_unsigned());
        into.put_u64(*skipped);
    }

    /// Next packet to be sent; passes over whatever is not for this push.
    fn peek(&mut self, logs: &Logs) -> Option<(LogName, Entry)> {
        match self.feed {
            Feed::Source => self.peek_source(logs),
            Feed::Merged { video, audio } => self.peek_merged(logs, video, audio),
        }
    }

    fn peek_source(&mut self, logs: &Logs) -> Option<(LogName, Entry)> {
        let log = &logs.source;
        let newest = log.heads().index_head;
        while self.video < newest {
            let Some(entry) = log.entry(self.video) else {
                self.skip_to_keyframe(log);
                continue;
            };
            if self.wants(log, &entry) {
                if entry.kind == EntryKind::Audio && self.waits_for_a_picture(log, newest) {
                    return None;
                }
                return Some((LogName::Source, entry));
            }
            self.video += 1;
        }
        None
    }

    /// Is everything since the last picture sound, and little of it? What follows decides again:
    /// a picture takes the sound along, and without one it goes by itself.
    fn waits_for_a_picture(&self, log: &LogWriter, head: u64) -> bool {
        let newest = log.entry(head - 1).filter(|newest| newest.kind == EntryKind::Audio);
        self.started == Started::Yes
            && newest.is_some_and(|newest| {
                let since = newest.dts_ms.saturating_sub(self.last_video_dts_ms);
                (0..AUDIO_JOINS_VIDEO_MS).contains(&since)
            })
    }

    fn wants(&mut self, log: &LogWriter, entry: &Entry) -> bool {
        match entry.kind {
            EntryKind::VideoHeader | EntryKind::AudioHeader | EntryKind::Metadata => false,
            EntryKind::VideoIdr => true,
            EntryKind::VideoInter | EntryKind::VideoDisposable | EntryKind::VideoOther => {
                let wanted = self.started == Started::Yes;
                self.skipped += u64::from(!wanted);
                wanted
            }
            EntryKind::Audio | EntryKind::AudioOther => match self.started {
                Started::Yes | Started::AudioAlone => true,
                Started::Not => {
                    let heads = log.heads();
                    let newest = log.entry(heads.index_head - 1);
                    let waited = newest.map_or(0, |newest| newest.dts_ms - entry.dts_ms);
                    heads.headers.video == 0 && waited > AUDIO_ALONE_AFTER_MS
                }
            },
        }
    }

    fn skip_to_keyframe(&mut self, log: &LogWriter) {
        let head = log.heads().index_head;
        let keyframe =
            log.heads().keyframe.filter(|&index| index > self.video && log.entry(index).is_some());
        let target = keyframe.unwrap_or(head);
        self.skipped += target - self.video;
        self.video = target;
        self.started = Started::Not;
    }

    fn peek_merged(
        &mut self,
        logs: &Logs,
        video: LogName,
        audio: Option<LogName>,
    ) -> Option<(LogName, Entry)> {
        let next_video = logs.get(video).and_then(|log| self.peek_video(log));
        let audio_log = audio.and_then(|name| logs.get(name).map(|log| (name, log)));
        let mut next_audio = None;
        while let Some((name, log)) = audio_log {
            next_audio = self.peek_audio(log).map(|entry| (name, log, entry));
            // Sound from before the first picture has nothing to belong to.
            match (self.started, next_video, next_audio) {
                (Started::Not, Some(frame), Some((.., sound))) if sound.dts_ms < frame.dts_ms => {
                    self.audio += 1;
                }
                _ => break,
            }
        }
        match (next_video, next_audio) {
            (Some(frame), Some((name, _, sound))) => {
                Some(if sound.dts_ms < frame.dts_ms { (name, sound) } else { (video, frame) })
            }
            (Some(frame), None) => Some((video, frame)),
            (None, Some((name, log, sound))) => {
                let newest =
                    log.entry(log.heads().index_head - 1).map_or(sound.dts_ms, |e| e.dts_ms);
                let waited = newest - sound.dts_ms;
                let go = match self.started {
                    Started::Yes => {
                        sound.dts_ms <= self.last_video_dts_ms || waited > AUDIO_AHEAD_MS
                    }
                    Started::AudioAlone => true,
                    Started::Not => {
                        logs.source.heads().headers.video == 0 && waited > AUDIO_ALONE_AFTER_MS
                    }
                };
                go.then_some((name, sound))
            }
            (None, None) => None,
        }
    }

    fn peek_video(&mut self, log: &LogWriter) -> Option<Entry> {
        let newest = log.heads().index_head;
        while self.video < newest {
            match log.entry(self.video) {
                None => self.skip_to_keyframe(log),
                Some(entry) if entry.kind == EntryKind::VideoIdr => return Some(entry),
                Some(entry) if entry.kind.is_video_frame() && self.started == Started::Yes => {
                    return Some(entry);
                }
                Some(entry) => {
                    self.skipped += u64::from(entry.kind.is_video_frame());
                    self.video += 1;
                }
            }
        }
        None
    }

    fn peek_audio(&mut self, log: &LogWriter) -> Option<Entry> {
        let newest = log.heads().index_head;
        while self.audio < newest {
            match log.entry(self.audio) {
                None => {
                    // Audio needs no keyframe: go on with the oldest that is surely there.
                    self.audio += 1;
                    self.skipped += 1;
                }
                Some(entry) if entry.kind == EntryKind::Audio => return Some(entry),
                Some(_) => self.audio += 1,
            }
        }
        None
    }

    /// A header that `entry` needs and this connection has not seen.
    fn missing_header(&mut self, logs: &Logs, entry: &Entry) -> Option<Next> {
        let (video_log, audio_log) = match self.feed {
            Feed::Source => (LogName::Source, LogName::Source),
            Feed::Merged { video, audio } => (video, audio.unwrap_or(video)),
        };
        let is_video = !matches!(entry.kind, EntryKind::Audio | EntryKind::AudioOther);
        let dts_ms = entry.dts_ms;
        if is_video || self.feed == Feed::Source {
            let ids = entry.headers;
            if ids.metadata != self.sent.metadata {
                self.sent.metadata = ids.metadata;
                return Some(header(video_log, ids.metadata, EntryKind::Metadata, dts_ms));
            }
            if is_video && ids.video != self.sent.video {
                self.sent.video = ids.video;
                return Some(header(video_log, ids.video, EntryKind::VideoHeader, dts_ms));
            }
        }
        let audio_id = if is_video && self.feed != Feed::Source {
            // Before the first picture the origin learns of the sound that will follow.
            logs.get(audio_log).map_or(0, |log| log.heads().headers.audio)
        } else {
            entry.headers.audio
        };
        let due = self.started == Started::Not || !is_video;
        if due && audio_id != 0 && audio_id != self.sent.audio {
            self.sent.audio = audio_id;
            return Some(header(audio_log, audio_id, EntryKind::AudioHeader, dts_ms));
        }
        None
    }

    fn pass(&mut self, log: LogName, entry: &Entry) {
        let is_video = !matches!(entry.kind, EntryKind::Audio | EntryKind::AudioOther);
        match self.feed {
            Feed::Merged { audio: Some(audio), .. } if audio == log && !is_video => self.audio += 1,
            Feed::Source | Feed::Merged { .. } => self.video += 1,
        }
        if is_video {
            self.started = Started::Yes;
            self.last_video_dts_ms = self.last_video_dts_ms.max(entry.dts_ms);
        } else if self.started == Started::Not {
            self.started = Started::AudioAlone;
        }
    }
}

/// Does more come?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamEnd {
    Going,
    Over,
}

fn header(log: LogName, id: u32, kind: EntryKind, dts_ms: i64) -> Next {
    Next::Header { log, id, kind, dts_ms }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tasuki_shared::memory::log::{self, LogHeads};
    use tasuki_shared::plan::LogSize;

    fn logs() -> Logs {
        let fd = log::create(LogSize { payload_bytes: 1 << 20, index_entries: 256 }).unwrap();
        let source = LogWriter::resume(&fd, LogHeads::empty()).unwrap();
        Logs { source, audio: None, rungs: Vec::new() }
    }

    fn put(logs: &mut Logs, kind: EntryKind, dts_ms: i64) {
        logs.source.put(&[b"payload"], kind, dts_ms, 0, 0).unwrap();
    }

    fn sent(cursor: &mut Cursor, logs: &Logs, end: StreamEnd) -> Vec<i64> {
        std::iter::from_fn(|| cursor.next(logs, end))
            .filter_map(|next| match next {
                Next::Packet { entry, .. } => Some(entry.dts_ms),
                Next::Header { .. } => None,
            })
            .collect()
    }

    /// Sound goes out with the next picture; without one, or at the end, by itself.
    #[test]
    fn sound_waits_for_a_picture_but_not_for_long() {
        let (mut logs, mut cursor) = (logs(), Cursor::new(Feed::Source));
        put(&mut logs, EntryKind::VideoIdr, 0);
        assert_eq!(sent(&mut cursor, &logs, StreamEnd::Going), [0]);
        put(&mut logs, EntryKind::Audio, 21);
        assert_eq!(sent(&mut cursor, &logs, StreamEnd::Going), Vec::<i64>::new());
        put(&mut logs, EntryKind::VideoInter, 33);
        assert_eq!(sent(&mut cursor, &logs, StreamEnd::Going), [21, 33]);
        put(&mut logs, EntryKind::Audio, 42);
        assert_eq!(sent(&mut cursor, &logs, StreamEnd::Going), Vec::<i64>::new());
        put(&mut logs, EntryKind::Audio, 33 + AUDIO_JOINS_VIDEO_MS);
        assert_eq!(sent(&mut cursor, &logs, StreamEnd::Going), [42, 33 + AUDIO_JOINS_VIDEO_MS]);
        put(&mut logs, EntryKind::VideoInter, 100);
        put(&mut logs, EntryKind::Audio, 110);
        assert_eq!(sent(&mut cursor, &logs, StreamEnd::Over), [100, 110]);
    }
}
