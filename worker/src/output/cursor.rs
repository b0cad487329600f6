//! What a push sends next, out of the logs: pure over committed entries.
//!
//! A push reads one log (the source) or two side by side (a rung's video, and audio from the
//! source or the audio log). It begins at a keyframe, sends each sequence header before the first
//! packet that needs it, and skips to a keyframe when it was lapped.

mod logs;
mod place;

pub use logs::{LogName, Logs, PacketLog, PipelineState};
pub use place::Place;

use crate::session::record::{BadSection, Put, Take};
use tasuki_shared::memory::log::{Entry, EntryKind, HeaderIds, HeaderKind};

/// Without a video track for this long (of stream time), audio alone begins.
const AUDIO_ALONE_AFTER_MS: i64 = 1_000;
/// How far audio may run ahead of video that does not come (a static screen).
const AUDIO_AHEAD_MS: i64 = 500;
/// The same while the pipeline still has pictures inside.
const AUDIO_AHEAD_OF_PIPELINE_MS: i64 = 5_000;

/// How long (of stream time) sound waits for the next picture to go out with it: one write less,
/// and one wake-up less at the origin, for each.
const AUDIO_JOINS_VIDEO_MS: i64 = 40;

/// Is this sound so close behind the picture at `picture_ms` that it waits for the next one?
#[must_use]
pub fn sound_joins_picture(entry: &Entry, picture_ms: i64) -> bool {
    let since = entry.dts_ms.saturating_sub(picture_ms);
    entry.kind == EntryKind::Audio && (0..AUDIO_JOINS_VIDEO_MS).contains(&since)
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

impl Feed {
    fn encode(self, into: &mut Vec<u8>) {
        let (tag, video, audio) = match self {
            Self::Source => (0, LogName::Source, LogName::Source),
            Self::Merged { video, audio: None } => (1, video, LogName::Source),
            Self::Merged { video, audio: Some(audio) } => (2, video, audio),
        };
        into.extend([tag, video.to_byte(), audio.to_byte()]);
    }

    fn decode(take: &mut Take<'_>) -> Result<Self, BadSection> {
        let [tag, video, audio] = take.array()?;
        let (video, audio) = (LogName::from_byte(video), LogName::from_byte(audio));
        match tag {
            0 => Ok(Self::Source),
            1 => Ok(Self::Merged { video, audio: None }),
            2 => Ok(Self::Merged { video, audio: Some(audio) }),
            _ => Err(take.bad("an unknown feed of a push")),
        }
    }
}

/// The next thing to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Header { log: LogName, id: u32, kind: HeaderKind, dts_ms: i64 },
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
    /// Of the first picture of this connection: sound from before it may come out of the pipeline
    /// after it. Not in the record, for a moment later it means nothing any more.
    began_dts_ms: i64,
    /// Packets lost because they were overwritten or no keyframe preceded them.
    pub skipped: u64,
}

impl Cursor {
    /// What [`Self::encode`] appends.
    pub const RECORD_BYTES: usize = 3 + 8 + 8 + 1 + 3 * 4 + 8 + 8;

    #[must_use]
    pub fn new(feed: Feed) -> Self {
        Self {
            feed,
            video: 0,
            audio: 0,
            started: Started::Not,
            sent: HeaderIds::default(),
            last_video_dts_ms: i64::MIN,
            began_dts_ms: i64::MIN,
            skipped: 0,
        }
    }

    /// A new connection: headers and a keyframe come first again.
    pub fn restart(&mut self) {
        self.started = Started::Not;
        self.sent = HeaderIds::default();
        (self.last_video_dts_ms, self.began_dts_ms) = (i64::MIN, i64::MIN);
    }

    #[must_use]
    pub fn feed(&self) -> Feed {
        self.feed
    }

    /// Reads other logs from now on, if nothing of the old ones was sent yet.
    pub fn feed_from(&mut self, feed: Feed) {
        if self.feed != feed && self.started == Started::Not {
            *self = Self::new(feed);
        }
    }

    /// Leaves out whatever comes next in the first log: what a hand-off that loses does.
    pub fn lose_one(&mut self) {
        self.video += 1;
    }

    /// Begins behind everything there is: with the next keyframe.
    pub fn go_to_head<L: PacketLog>(&mut self, logs: &Logs<L>) {
        let head = |name| logs.get(name).map_or(0, PacketLog::head);
        (self.video, self.audio) = match self.feed {
            Feed::Source => (head(LogName::Source), 0),
            Feed::Merged { video, audio } => (head(video), audio.map_or(0, head)),
        };
    }

    /// Begins with the newest keyframe that is there, and the sound from there on; without one as
    /// [`Self::go_to_head`].
    pub fn go_to_keyframe<L: PacketLog>(&mut self, logs: &Logs<L>) {
        self.go_to_head(logs);
        let (video, audio) = match self.feed {
            Feed::Source => (LogName::Source, None),
            Feed::Merged { video, audio } => (video, audio),
        };
        let keyframe = logs.get(video).and_then(|log| {
            let index = log.keyframe()?;
            log.entry(index).map(|entry| entry.index)
        });
        if let Some(index) = keyframe {
            self.video = index;
            if let Some(log) = audio.and_then(|name| logs.get(name)) {
                self.audio = log.oldest(0);
            }
        }
    }

    /// The packet that was given last was overwritten before it was copied: a keyframe comes next.
    pub fn lost_in_hand(&mut self) {
        self.skipped = self.skipped.saturating_add(1);
        if self.started == Started::Yes {
            self.started = Started::Not;
        }
    }

    /// Is there something to send? Passes over what is not for this push.
    pub fn can_start<L: PacketLog>(&mut self, logs: &Logs<L>) -> bool {
        self.peek(logs, StreamEnd::Going).is_some()
    }

    /// Everything there is has been sent.
    #[must_use]
    pub fn is_at_end<L: PacketLog>(&self, logs: &Logs<L>) -> bool {
        let at_head =
            |name: LogName, index: u64| logs.get(name).is_none_or(|log| index >= log.head());
        match self.feed {
            Feed::Source => at_head(LogName::Source, self.video),
            Feed::Merged { video, audio } => {
                at_head(video, self.video) && audio.is_none_or(|name| at_head(name, self.audio))
            }
        }
    }

    /// The next thing to send, if any; the cursor moves past it.
    pub fn next<L: PacketLog>(&mut self, logs: &Logs<L>, end: StreamEnd) -> Option<Next> {
        if end == StreamEnd::Over {
            // No more video comes: audio waits for nothing.
            self.last_video_dts_ms = i64::MAX;
        }
        let (log, entry) = self.peek(logs, end)?;
        if let Some(header) = self.missing_header(logs, &entry) {
            return Some(header);
        }
        self.pass(log, &entry);
        Some(Next::Packet { log, entry })
    }

    /// Appends what the commit record must know.
    pub fn encode(&self, into: &mut Vec<u8>) {
        let Self { feed, video, audio, started, sent, last_video_dts_ms, began_dts_ms: _, skipped } =
            self;
        feed.encode(into);
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

    /// Reads what [`Self::encode`] wrote.
    pub fn decode(take: &mut Take<'_>) -> Result<Self, BadSection> {
        let feed = Feed::decode(take)?;
        let (video, audio) = (take.u64()?, take.u64()?);
        let started = match take.u8()? {
            0 => Started::Not,
            1 => Started::AudioAlone,
            2 => Started::Yes,
            _ => return Err(take.bad("an unknown start of a push")),
        };
        let sent = HeaderIds { video: take.u32()?, audio: take.u32()?, metadata: take.u32()? };
        let last_video_dts_ms = take.u64()?.cast_signed();
        let skipped = take.u64()?;
        let began_dts_ms = i64::MIN;
        Ok(Self { feed, video, audio, started, sent, last_video_dts_ms, began_dts_ms, skipped })
    }

    /// Next packet to be sent; passes over whatever is not for this push.
    fn peek<L: PacketLog>(&mut self, logs: &Logs<L>, end: StreamEnd) -> Option<(LogName, Entry)> {
        match self.feed {
            Feed::Source => self.peek_source(logs),
            Feed::Merged { video, audio } => self.peek_merged(logs, video, audio, end),
        }
    }

    fn peek_source<L: PacketLog>(&mut self, logs: &Logs<L>) -> Option<(LogName, Entry)> {
        let log = &logs.source;
        let newest = log.head();
        while self.video < newest {
            let Some(entry) = log.entry(self.video) else {
                self.skip_lapped(log);
                continue;
            };
            match self.wants(log, &entry) {
                Wants::This => return Some((LogName::Source, entry)),
                Wants::Patience => return None,
                Wants::Another => self.video += 1,
            }
        }
        None
    }

    fn wants(&mut self, log: &impl PacketLog, entry: &Entry) -> Wants {
        match entry.kind {
            EntryKind::VideoHeader | EntryKind::AudioHeader | EntryKind::Metadata => Wants::Another,
            EntryKind::VideoIdr => Wants::This,
            EntryKind::VideoInter | EntryKind::VideoDisposable | EntryKind::VideoOther => {
                if self.started == Started::Yes {
                    Wants::This
                } else {
                    self.skipped = self.skipped.saturating_add(1);
                    Wants::Another
                }
            }
            EntryKind::Audio | EntryKind::AudioOther => match self.started {
                Started::Yes if self.waits_for_a_picture(log) => Wants::Patience,
                Started::Yes | Started::AudioAlone => Wants::This,
                // Sound from before the first picture has nothing to belong to.
                Started::Not if log.headers().video != 0 => Wants::Another,
                Started::Not if waited_ms(log, entry) > AUDIO_ALONE_AFTER_MS => Wants::This,
                Started::Not => Wants::Patience,
            },
        }
    }

    /// Is everything since the last picture sound, and little of it? What follows decides again:
    /// a picture takes the sound along, and without one it goes by itself.
    fn waits_for_a_picture(&self, log: &impl PacketLog) -> bool {
        let newest = log.head().checked_sub(1).and_then(|index| log.entry(index));
        newest.is_some_and(|newest| sound_joins_picture(&newest, self.last_video_dts_ms))
    }

    /// What was next is overwritten: on to the newest keyframe, or without a video track to the
    /// oldest packet that is there.
    fn skip_lapped(&mut self, log: &impl PacketLog) {
        let (head, has_video) = (log.head(), log.headers().video != 0);
        let keyframe =
            log.keyframe().filter(|&index| index > self.video && log.entry(index).is_some());
        let target = match keyframe {
            Some(index) => index,
            None if has_video => head,
            None => log.oldest(self.video + 1),
        };
        // A reader goes forward whatever a log says.
        let target = target.max(self.video + 1);
        self.skipped = self.skipped.saturating_add(target - self.video);
        self.video = target;
        if has_video {
            self.started = Started::Not;
        }
    }

    fn peek_merged<L: PacketLog>(
        &mut self,
        logs: &Logs<L>,
        video: LogName,
        audio: Option<LogName>,
        end: StreamEnd,
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
                (Started::Yes, _, Some((.., sound))) if sound.dts_ms < self.began_dts_ms => {
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
                let waited = waited_ms(log, &sound);
                let ahead_max = match logs.pipeline {
                    PipelineState::Busy => AUDIO_AHEAD_OF_PIPELINE_MS,
                    PipelineState::Empty => AUDIO_AHEAD_MS,
                };
                let has_video = logs.source.headers().video != 0;
                match self.started {
                    Started::Yes => (sound.dts_ms <= self.last_video_dts_ms || waited > ahead_max)
                        .then_some((name, sound)),
                    Started::AudioAlone => Some((name, sound)),
                    Started::Not if has_video && end == StreamEnd::Over => {
                        // No picture comes that this sound could belong to.
                        let head = log.head();
                        self.skipped = self.skipped.saturating_add(head.saturating_sub(self.audio));
                        self.audio = head;
                        None
                    }
                    Started::Not => {
                        (!has_video && waited > AUDIO_ALONE_AFTER_MS).then_some((name, sound))
                    }
                }
            }
            (None, None) => None,
        }
    }

    fn peek_video(&mut self, log: &impl PacketLog) -> Option<Entry> {
        let newest = log.head();
        while self.video < newest {
            match log.entry(self.video) {
                None => self.skip_lapped(log),
                Some(entry) if entry.kind == EntryKind::VideoIdr => return Some(entry),
                Some(entry) if entry.kind.is_video_frame() && self.started == Started::Yes => {
                    return Some(entry);
                }
                Some(entry) => {
                    let frame = u64::from(entry.kind.is_video_frame());
                    self.skipped = self.skipped.saturating_add(frame);
                    self.video += 1;
                }
            }
        }
        None
    }

    fn peek_audio(&mut self, log: &impl PacketLog) -> Option<Entry> {
        let newest = log.head();
        while self.audio < newest {
            match log.entry(self.audio) {
                None => {
                    let target = log.oldest(self.audio + 1).max(self.audio + 1);
                    self.skipped = self.skipped.saturating_add(target - self.audio);
                    self.audio = target;
                }
                Some(entry) if entry.kind == EntryKind::Audio => return Some(entry),
                Some(_) => self.audio += 1,
            }
        }
        None
    }

    /// A header that `entry` needs and this connection has not seen.
    fn missing_header<L: PacketLog>(&mut self, logs: &Logs<L>, entry: &Entry) -> Option<Next> {
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
                return Some(header(video_log, ids.metadata, HeaderKind::Metadata, dts_ms));
            }
            if is_video && ids.video != self.sent.video {
                self.sent.video = ids.video;
                return Some(header(video_log, ids.video, HeaderKind::Video, dts_ms));
            }
        }
        let audio_id = if is_video && self.feed != Feed::Source {
            // Before the first picture the origin learns of the sound that will follow.
            logs.get(audio_log).map_or(0, |log| log.headers().audio)
        } else {
            entry.headers.audio
        };
        let due = self.started == Started::Not || !is_video;
        if due && audio_id != 0 && audio_id != self.sent.audio {
            self.sent.audio = audio_id;
            return Some(header(audio_log, audio_id, HeaderKind::Audio, dts_ms));
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
            if self.started == Started::Not {
                self.began_dts_ms = entry.dts_ms;
            }
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

/// What becomes of the entry a source cursor looks at.
enum Wants {
    This,
    /// Pass over it.
    Another,
    /// Not yet.
    Patience,
}

/// Stream time between this entry and the newest of its log.
fn waited_ms(log: &impl PacketLog, entry: &Entry) -> i64 {
    let newest = log.head().checked_sub(1).and_then(|index| log.entry(index));
    newest.map_or(0, |newest| newest.dts_ms.saturating_sub(entry.dts_ms))
}

fn header(log: LogName, id: u32, kind: HeaderKind, dts_ms: i64) -> Next {
    Next::Header { log, id, kind, dts_ms }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tasuki_shared::id::RungId;
    use tasuki_shared::memory::log::{self, LogHeads, LogWriter};
    use tasuki_shared::plan::LogSize;

    fn logs() -> Logs {
        let fd = log::create(LogSize { payload_bytes: 1 << 20, index_entries: 256 }).unwrap();
        let source = LogWriter::resume(&fd, LogHeads::empty()).unwrap();
        Logs { source, audio: None, rungs: Vec::new(), pipeline: PipelineState::Empty }
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

    /// The pipeline gives the first picture before the sound that precedes it: that sound has
    /// nothing to belong to, and nothing goes back in time.
    #[test]
    fn sound_from_before_the_first_picture_is_left_out_also_when_it_comes_later() {
        let mut logs = logs();
        let log = || {
            let fd = log::create(LogSize { payload_bytes: 1 << 20, index_entries: 256 }).unwrap();
            LogWriter::resume(&fd, LogHeads::empty()).unwrap()
        };
        (logs.audio, logs.rungs) = (Some(log()), vec![Some(log())]);
        let (video, audio) = (LogName::Rung(RungId(0)), LogName::Audio);
        let mut cursor = Cursor::new(Feed::Merged { video, audio: Some(audio) });
        let mut put = |name, kind, dts_ms| {
            logs.get_mut(name).unwrap().put(&[b"payload"], kind, dts_ms, 0, 0).unwrap();
            sent(&mut cursor, &logs, StreamEnd::Going)
        };
        assert_eq!(put(video, EntryKind::VideoIdr, 67), [67]);
        assert_eq!(put(audio, EntryKind::Audio, 46), Vec::<i64>::new());
        assert_eq!(put(audio, EntryKind::Audio, 67), [67]);
        assert_eq!(put(audio, EntryKind::Audio, 88), Vec::<i64>::new());
        assert_eq!(put(video, EntryKind::VideoInter, 100), [88, 100]);
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
