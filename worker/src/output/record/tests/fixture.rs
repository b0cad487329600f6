//! Streams made by ffmpeg, and what it says of our files.

use super::super::{RecordItem, RecordPacket};
use crate::media::config;
use crate::media::nal::contains_idr;
use crate::media::tag::{AudioKind, VideoKind, parse_audio, parse_video};
use crate::media::timeline::{Timeline, Track};
use crate::output::cursor::Place;
use crate::output::retention::is_ours;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A directory that goes with the test.
pub(crate) struct Directory {
    pub(crate) path: PathBuf,
}

impl Directory {
    pub(crate) fn new() -> Self {
        static COUNTER: AtomicUsize = AtomicUsize::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("tasuki-record-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self { path }
    }

    pub(crate) fn recordings(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.path).unwrap();
        let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.retain(|path| is_ours(path));
        paths.sort();
        paths
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// A stream as a publisher would send it: headers first, then packets on a timeline.
pub(crate) struct Source {
    pub(crate) items: Vec<RecordItem>,
    pub(crate) pictures: Vec<String>,
    pub(crate) times_ms: Vec<i64>,
}

impl Source {
    /// 160x90, 6 s at 25 frames per second, a keyframe every 50, B-frames, AAC.
    pub(crate) fn first() -> &'static Self {
        static SOURCE: OnceLock<Source> = OnceLock::new();
        SOURCE.get_or_init(|| Self::made("160x90", "6"))
    }

    /// The same turned and shorter.
    pub(crate) fn second() -> &'static Self {
        static SOURCE: OnceLock<Source> = OnceLock::new();
        SOURCE.get_or_init(|| Self::made("90x160", "2"))
    }

    fn made(size: &str, seconds: &str) -> Self {
        let directory = Directory::new();
        let path = directory.path.join("source.flv");
        let video = format!("testsrc=size={size}:rate=25");
        let input = ["-f", "lavfi", "-i", &video, "-f", "lavfi", "-i", "sine=frequency=440"];
        let x264 = ["-c:v", "libx264", "-g", "50", "-bf", "2", "-pix_fmt", "yuv420p"];
        let made = Command::new("ffmpeg")
            .args(["-v", "error", "-threads", "1"])
            .args(input)
            .args(x264)
            .args(["-x264-params", "scenecut=0", "-c:a", "aac", "-t", seconds])
            .arg(&path)
            .status()
            .expect("ffmpeg can be started");
        assert!(made.success());
        let items = items(&std::fs::read(&path).unwrap());
        Self { items, pictures: pictures(&path), times_ms: times_ms(&path) }
    }

    pub(crate) fn headers(&self) -> Vec<RecordItem> {
        self.items.iter().filter(|item| track(item).is_none()).cloned().collect()
    }

    pub(crate) fn packets(&self) -> impl Iterator<Item = &RecordItem> {
        self.items.iter().filter(|item| track(item).is_some())
    }

    pub(crate) fn count(&self, wanted: Track) -> usize {
        self.packets().filter(|item| track(item) == Some(wanted)).count()
    }

    /// One track with its header.
    pub(crate) fn of(&self, wanted: Track) -> Vec<RecordItem> {
        let belongs = |item: &&RecordItem| match item {
            RecordItem::VideoHeader { .. } => wanted == Track::Video,
            RecordItem::AudioHeader { .. } => wanted == Track::Audio,
            RecordItem::Packet(packet) => packet.track == wanted,
            RecordItem::FileEnd => false,
        };
        self.items.iter().filter(belongs).cloned().collect()
    }

    pub(crate) fn later(&self, by_ms: i64) -> Vec<RecordItem> {
        let mut items = self.items.clone();
        for item in &mut items {
            if let RecordItem::Packet(packet) = item {
                packet.dts_ms += by_ms;
                packet.pts_ms += by_ms;
            }
        }
        items
    }
}

fn track(item: &RecordItem) -> Option<Track> {
    match item {
        RecordItem::Packet(packet) => Some(packet.track),
        RecordItem::VideoHeader { .. } | RecordItem::AudioHeader { .. } | RecordItem::FileEnd => {
            None
        }
    }
}

/// Reads an FLV file (Adobe FLV 10.1, annex E.2 to E.4.1).
fn items(flv: &[u8]) -> Vec<RecordItem> {
    let mut timeline = Timeline::new();
    let mut nal_length_size = None;
    let mut items = Vec::new();
    let mut rest = &flv[9 + 4..];
    while rest.len() >= 11 {
        let length = u32::from_be_bytes([0, rest[1], rest[2], rest[3]]) as usize;
        let raw_ms = u32::from_be_bytes([rest[7], rest[4], rest[5], rest[6]]);
        let body = &rest[11..11 + length];
        match rest[0] {
            9 => {
                let tag = parse_video(body).unwrap();
                match tag.kind {
                    VideoKind::SequenceHeader { config } => {
                        let size = config::parse(tag.codec, config).unwrap().nal_length_size;
                        nal_length_size = Some(size);
                        let config = config.to_vec();
                        items.push(RecordItem::VideoHeader { codec: tag.codec, config });
                    }
                    VideoKind::Frame { cts_ms, nals, .. } => {
                        let idr = contains_idr(tag.codec, nal_length_size.unwrap(), nals);
                        let item = packet(&mut timeline, Track::Video, raw_ms, cts_ms, nals);
                        items.push(RecordItem::Packet(RecordPacket { idr, ..item }));
                    }
                    VideoKind::EndOfSequence | VideoKind::Metadata { .. } => {}
                }
            }
            8 => match parse_audio(body).unwrap().kind {
                AudioKind::SequenceHeader { config } => {
                    items.push(RecordItem::AudioHeader { config: config.to_vec() });
                }
                AudioKind::Frame { raw } => {
                    let item = packet(&mut timeline, Track::Audio, raw_ms, 0, raw);
                    items.push(RecordItem::Packet(item));
                }
                AudioKind::EndOfSequence | AudioKind::ChannelLayout { .. } => {}
            },
            _ => {}
        }
        rest = &rest[11 + length + 4..];
    }
    items
}

fn packet(
    timeline: &mut Timeline,
    track: Track,
    raw_ms: u32,
    cts_ms: i32,
    payload: &[u8],
) -> RecordPacket {
    let stamped = timeline.stamp(track, raw_ms, cts_ms);
    assert_eq!(stamped.correction, None, "ffmpeg's stamps are well formed");
    RecordPacket {
        track,
        dts_ms: stamped.dts_ms,
        pts_ms: stamped.pts_ms,
        idr: crate::media::packet::IsIdr::Other,
        payload: payload.to_vec(),
        at: Place::default(),
        behind: Place::default(),
    }
}

/// Decodes the whole file and returns what ffmpeg has to say.
pub(crate) fn complaints(path: &Path) -> String {
    let output = Command::new("ffmpeg")
        .args(["-v", "warning", "-threads", "1", "-i"])
        .arg(path)
        .args(["-f", "null", "-"])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() || !said.is_empty());
    said
}

pub(crate) fn silent(path: &Path) -> bool {
    complaints(path).is_empty()
}

/// Hashes of all decoded pictures, in order of presentation.
pub(crate) fn pictures(path: &Path) -> Vec<String> {
    let args = ["-map", "0:v", "-fps_mode", "passthrough", "-f", "framemd5", "-"];
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-threads", "1", "-i"])
        .arg(path)
        .args(args)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let hashes = text.lines().filter(|line| !line.starts_with('#'));
    hashes.map(|line| line.rsplit(',').next().unwrap().trim().to_owned()).collect()
}

/// Packets of the first video ("v") or audio ("a") track.
pub(crate) fn packets(path: &Path, track: &str) -> usize {
    probed(path, track, "packet=size").lines().filter(|line| !line.is_empty()).count()
}

/// Presentation times of all pictures and, for the sync, of the first audio packet, from the
/// first picture's decode time on.
pub(crate) fn times_ms(path: &Path) -> Vec<i64> {
    let mut times = presentation_ms(path, "v");
    times.extend(presentation_ms(path, "a").first());
    let first = times[0];
    times.iter().map(|time| time - first).collect()
}

/// From the first audio packet to the last.
pub(crate) fn audio_span_ms(path: &Path) -> i64 {
    let times = presentation_ms(path, "a");
    times.last().unwrap() - times.first().unwrap()
}

pub(crate) fn is_audio(item: &RecordItem) -> bool {
    track(item) == Some(Track::Audio)
}

fn presentation_ms(path: &Path, track: &str) -> Vec<i64> {
    let text = probed(path, track, "packet=pts_time");
    let times = text.lines().filter_map(|line| line.trim_end_matches(',').parse::<f64>().ok());
    #[expect(clippy::cast_possible_truncation, reason = "milliseconds of a short file")]
    times.map(|seconds| (seconds * 1_000.0).round() as i64).collect()
}

fn probed(path: &Path, track: &str, entries: &str) -> String {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-select_streams", track, "-show_entries", entries])
        .args(["-of", "csv=p=0"])
        .arg(path)
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// All packets of the file as ffmpeg reads them: track, times and a hash of the payload, in the
/// order of decoding within each track. Fails where decode times do not rise.
pub(crate) fn packet_hashes(path: &Path) -> Result<Vec<String>, String> {
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-i"])
        .arg(path)
        .args(["-map", "0", "-c", "copy", "-f", "framemd5", "-"])
        .output()
        .unwrap();
    if !output.status.success() || !output.stderr.is_empty() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let text = String::from_utf8(output.stdout).unwrap();
    let mut found: [Vec<String>; 2] = Default::default();
    let mut last_dts = [i64::MIN; 2];
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let columns: Vec<&str> = line.split(',').map(str::trim).collect();
        let [track, dts, pts, _duration, size, hash] = columns[..] else {
            return Err(format!("not understood: {line}"));
        };
        let index: usize = track.parse().unwrap();
        let number: i64 = dts.parse().unwrap();
        if number <= last_dts[index] {
            return Err(format!("track {track}: {number} after {}", last_dts[index]));
        }
        last_dts[index] = number;
        found[index].push(format!("{track} {dts} {pts} {size} {hash}"));
    }
    Ok(found.concat())
}
