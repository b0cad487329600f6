//! The plan of one stream: what the configuration says shall be done with it. Made by the
//! supervisor when a publish is authorised, fixed for the session's life.

use crate::id::{PublicName, PushId, RungId};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};

/// Everything a worker needs to know to run one stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// RTMP application, as configured.
    pub app: String,
    pub name: PublicName,
    pub limits: StreamLimits,
    /// A publisher that sends nothing for this long is ended.
    pub silence_ms_max: u64,
    pub source_log: LogSize,
    /// The ladder, highest first; `RungId` is the position here.
    pub rungs: Vec<RungPlan>,
    pub audio: AudioPlan,
    /// Rectangles made unreadable before anything is encoded.
    pub blur: Vec<BlurRect>,
    /// One connection per rung and destination; `PushId` is the position here.
    pub pushes: Vec<PushPlan>,
    pub record: Option<RecordPlan>,
    pub hls: Option<HlsPlan>,
    /// Where its thumbnail is kept, if anybody shows it.
    pub thumbnail: Option<PathBuf>,
    pub flv: Option<FlvPlan>,
}

/// What a publisher may send; beyond it the publish or the decoder is refused by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamLimits {
    pub width_max: u32,
    pub height_max: u32,
    pub fps_max: u32,
    /// Over `limits::BITRATE_WINDOW`.
    pub bitrate_bps_max: u64,
}

/// Size of a log: a power of two of payload bytes (≥ one page) and of index entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSize {
    pub payload_bytes: u64,
    pub index_entries: u32,
}

/// One rung of the ladder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RungPlan {
    /// Public suffix of the rendition, for example `720p` or `source`.
    pub label: String,
    pub kind: RungKind,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum RungKind {
    /// The publisher's own packets, untouched.
    Source,
    Encoded(EncodedRung),
}

/// How a rung is encoded. Capped CRF: `crf` with `maxrate` = `bitrate_bps`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EncodedRung {
    /// Pixels of the shorter side (height of a landscape source, width of a portrait one).
    pub short_side: u32,
    pub bitrate_bps: u64,
    /// x264 preset name.
    pub preset: String,
    pub crf: f32,
    pub log: LogSize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AudioPlan {
    /// The publisher's packets go into every rendition.
    Copy,
    /// Decoded, resampled to 48 kHz and encoded as AAC-LC once for all encoded rungs.
    Aac { bitrate_bps: u64, log: LogSize },
    /// Renditions without audio.
    None,
}

/// A rectangle in hundredths of a percent of the frame (0 ..= 10000).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlurRect {
    pub left: u16,
    pub top: u16,
    pub width: u16,
    pub height: u16,
}

/// One RTMP connection to an origin.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushPlan {
    pub rung: RungId,
    pub host: String,
    pub port: u16,
    pub app: String,
    /// Stream name at the origin, placeholders already replaced. May carry a secret.
    pub stream: String,
}

impl fmt::Debug for PushPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rung, host, port, app, stream: _ } = self;
        write!(f, "PushPlan({rung:?} to rtmp://{host}:{port}/{app}/…)")
    }
}

/// Where and how a stream is recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordPlan {
    pub directory: PathBuf,
    pub rungs: Vec<RungId>,
    /// A new file is begun at the first keyframe after this long.
    pub rotate_ms: u64,
    /// Files older than this are removed; 0 keeps them.
    pub keep_ms: u64,
    /// Oldest files are removed while the directory is larger; 0 keeps them.
    pub keep_bytes: u64,
    /// Free space below which recording stops by name.
    pub reserve_bytes: u64,
}

/// How a stream is packaged for viewers (RFC 8216bis, Low-Latency HLS).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HlsPlan {
    /// This stream's own: `<root>/<application>/<name>`.
    pub directory: PathBuf,
    pub rungs: Vec<RungId>,
    /// EXT-X-TARGETDURATION; whole seconds.
    pub target_ms: u64,
    /// PART-TARGET.
    pub part_target_ms: u64,
    /// How much of the past is kept.
    pub window_ms: u64,
}

/// What of a stream viewers may read from its logs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlvPlan {
    pub rungs: Vec<RungId>,
}

/// Of the directory of thumbnails. No application's: `+` is in no public name.
const THUMBNAILS: &str = "+thumbnails";

/// Where a stream's thumbnail is, below the root of the HLS directories.
#[must_use]
pub fn thumbnail_path(hls_root: &Path, app: &str, name: &PublicName) -> PathBuf {
    hls_root.join(THUMBNAILS).join(app).join(format!("{name}.jpg"))
}

impl Plan {
    /// What the process that serves viewers is told: the ladder, its logs and its directory, and
    /// nothing of where else the stream goes, for that may carry secrets.
    #[must_use]
    pub fn for_viewers(&self) -> Self {
        Self { pushes: Vec::new(), record: None, thumbnail: None, ..self.clone() }
    }

    /// The logs this plan needs, in the order in which their fds travel.
    #[must_use]
    pub fn logs(&self) -> Vec<(LogKind, LogSize)> {
        let mut logs = vec![(LogKind::Source, self.source_log)];
        if let AudioPlan::Aac { log, .. } = self.audio {
            logs.push((LogKind::Audio, log));
        }
        for (position, rung) in self.rungs.iter().enumerate() {
            if let RungKind::Encoded(encoded) = &rung.kind {
                let id = RungId(u8::try_from(position).unwrap_or(u8::MAX));
                logs.push((LogKind::Rung(id), encoded.log));
            }
        }
        logs
    }

    #[must_use]
    pub fn push(&self, id: PushId) -> Option<&PushPlan> {
        self.pushes.get(usize::from(id.0))
    }

    #[must_use]
    pub fn rung(&self, id: RungId) -> Option<&RungPlan> {
        self.rungs.get(usize::from(id.0))
    }

    /// Does anything of this plan need a decoder?
    #[must_use]
    pub fn transcodes(&self) -> bool {
        self.rungs.iter().any(|rung| matches!(rung.kind, RungKind::Encoded(_)))
    }
}

/// Which log a memfd is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum LogKind {
    Source,
    Audio,
    Rung(RungId),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_name_of_a_push_is_not_shown_in_debug_output() {
        let push = PushPlan {
            rung: RungId(0),
            host: "origin".into(),
            port: 1935,
            app: "live".into(),
            stream: "hunter2".into(),
        };
        let shown = format!("{push:?}");
        assert!(!shown.contains("hunter2") && shown.contains("origin"), "{shown}");
    }
}
