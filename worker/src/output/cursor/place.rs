//! A cursor's place, as it is noted for a reader in another process.

use super::{Cursor, Feed, LogName, Logs, Started};
use crate::session::record::{BadSection, Put, Take};

/// Where a reader goes on with the next packet, as another process may be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub feed: Feed,
    video: u64,
    audio: u64,
    started: Started,
    last_video_dts_ms: i64,
}

impl Default for Place {
    /// The start of a stream.
    fn default() -> Self {
        Cursor::new(Feed::Source).place()
    }
}

impl Place {
    /// Encoded size.
    pub const SIZE: usize = 3 + 8 + 8 + 1 + 8;

    pub fn encode(&self, into: &mut Vec<u8>) {
        let Self { feed, video, audio, started, last_video_dts_ms } = self;
        let feed = match feed {
            Feed::Source => [0, 0, 0],
            Feed::Merged { video, audio: None } => [1, video.to_byte(), 0],
            Feed::Merged { video, audio: Some(audio) } => [2, video.to_byte(), audio.to_byte()],
        };
        into.put_bytes(&feed);
        into.put_u64(*video);
        into.put_u64(*audio);
        into.put_u8(match started {
            Started::Not => 0,
            Started::AudioAlone => 1,
            Started::Yes => 2,
        });
        into.put_u64(last_video_dts_ms.cast_unsigned());
    }

    /// Reads what [`Self::encode`] wrote.
    pub fn decode(take: &mut Take<'_>) -> Result<Self, BadSection> {
        let [feed, video, audio] = take.array()?;
        let (video, audio) = (LogName::from_byte(video), LogName::from_byte(audio));
        let feed = match feed {
            0 => Feed::Source,
            1 => Feed::Merged { video, audio: None },
            2 => Feed::Merged { video, audio: Some(audio) },
            _ => return Err(take.bad("an unknown feed")),
        };
        let (video, audio) = (take.u64()?, take.u64()?);
        let started = match take.u8()? {
            0 => Started::Not,
            1 => Started::AudioAlone,
            2 => Started::Yes,
            _ => return Err(take.bad("an unknown start")),
        };
        let last_video_dts_ms = take.u64()?.cast_signed();
        Ok(Self { feed, video, audio, started, last_video_dts_ms })
    }

    /// Do the logs still hold, whole, all that comes behind this place?
    #[must_use]
    pub fn is_held(&self, logs: &Logs) -> bool {
        let held = |name: LogName, index: u64| {
            logs.get(name).is_some_and(|log| {
                let head = log.heads().index_head;
                index == head || (index < head && log.entry(index).is_some())
            })
        };
        match self.feed {
            Feed::Source => held(LogName::Source, self.video),
            Feed::Merged { video, audio } => {
                held(video, self.video) && audio.is_none_or(|name| held(name, self.audio))
            }
        }
    }
}

impl Cursor {
    /// Where it is; headers in force there are not part of it.
    #[must_use]
    pub fn place(&self) -> Place {
        let &Self {
            feed,
            video,
            audio,
            started,
            sent: _,
            last_video_dts_ms,
            began_dts_ms: _,
            skipped: _,
        } = self;
        Place { feed, video, audio, started, last_video_dts_ms }
    }

    /// Goes on at a place; the headers in force there come first.
    #[must_use]
    pub fn at(place: Place) -> Self {
        let Place { feed, video, audio, started, last_video_dts_ms } = place;
        Self { video, audio, started, last_video_dts_ms, ..Self::new(feed) }
    }
}
