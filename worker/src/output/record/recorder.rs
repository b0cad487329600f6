//! The recorder itself: which packet goes into which file. Owned by the recording's thread.

use super::disk::{Disk, DiskFile};
use super::note::{FragmentNote, HeadNote};
use super::repair::{RepairError, repair};
use super::resume::{NotResumed, Patience, Resumed, of_rendition, resume};
use super::{
    RecordConfig, RecordItem, RecordPacket, RecordReport, RecordState, StopReason, locked,
};
use crate::media::aac::{self, AacConfig};
use crate::media::config::{self, VideoConfig};
use crate::media::packet::{IsIdr, VideoCodec};
use crate::media::timeline::Track;
use crate::output::cursor::Place;
use crate::output::retention::{self, Retention};
use crate::package::fmp4::{
    AudioTiming, AudioTrack, Fragment, FragmentClock, Sample, Sync, VideoTrack, init_segment,
};
use crate::package::utc;
use std::io;
use std::path::PathBuf;
use std::sync::Mutex;
use tasuki_shared::failpoint::{self, Point};
use tasuki_shared::limits::{
    RECORD_AUDIO_ONLY_WAIT_MS, RECORD_FRAGMENT_BYTES_MAX, RECORD_FRAGMENT_MS,
    RECORD_FRAGMENT_SAMPLES_MAX,
};

/// Names tried for a new file when those of the first seconds are taken.
const NAME_ATTEMPTS: u64 = 10;

pub(super) struct Recorder<D: Disk> {
    config: RecordConfig,
    disk: D,
    report: RecordReport,
    video: Option<VideoHeader>,
    audio: Option<AudioHeader>,
    /// When audio without video was first seen.
    audio_only_since_ms: Option<i64>,
    file: Option<OpenFile<D::File>>,
    /// The file before, still locked: so a new owner finds one that is held until the next one
    /// is there, or until this recorder is gone.
    before: Option<D::File>,
    /// Files of the series so far.
    number: u64,
    /// Behind the last packet that was handled.
    place: Place,
    /// Reused for each fragment.
    buffer: Vec<u8>,
}

struct VideoHeader {
    codec: VideoCodec,
    bytes: Vec<u8>,
    config: VideoConfig,
}

struct AudioHeader {
    bytes: Vec<u8>,
    config: AacConfig,
}

struct OpenFile<F> {
    file: F,
    clock: FragmentClock,
    /// Bytes in whole fragments.
    bytes: u64,
    has_video: bool,
    audio: FileAudio,
    /// Of the file's own audio, also once that is outdated.
    audio_timing: AudioTiming,
    video_pending: Vec<RecordPacket>,
    audio_pending: Vec<RecordPacket>,
    pending_bytes: usize,
    /// First stamp of what is pending.
    pending_since_ms: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileAudio {
    /// As the newest header says.
    Current,
    /// The file was begun without audio.
    None,
    /// The header has changed; the next keyframe begins a new file.
    Outdated,
}

impl<D: Disk> Recorder<D> {
    pub(super) fn new(config: RecordConfig, disk: D) -> Self {
        Self {
            config,
            disk,
            report: RecordReport::default(),
            video: None,
            audio: None,
            audio_only_since_ms: None,
            file: None,
            before: None,
            number: 0,
            place: Place::default(),
            buffer: Vec::new(),
        }
    }

    /// The file of another owner to go on with.
    pub(super) fn find(&self, wait: impl FnMut() -> Patience) -> Result<Resumed, NotResumed> {
        resume(&self.config.directory, &self.prefix(), self.config.series, wait)
    }

    /// Goes on in a file of another owner, with the headers that it was begun with.
    pub(super) fn go_on(&mut self, resumed: Resumed<D::File>) -> Result<(), StopReason> {
        let Resumed { path, file, bytes, fragments, cut_bytes, head, note } = resumed;
        let HeadNote { series: _, number, video, audio, start: _ } = head;
        let bad = |error: String| StopReason::Io { doing: "read the file's headers", error };
        let video = match video {
            Some((codec, bytes)) => {
                let config = config::parse(codec, &bytes).map_err(|e| bad(e.to_string()))?;
                Some(VideoHeader { codec, bytes, config })
            }
            None => None,
        };
        let audio = match audio {
            Some(bytes) => {
                let config = aac::parse_config(&bytes).map_err(|e| bad(e.to_string()))?;
                Some(AudioHeader { bytes, config })
            }
            None => None,
        };
        self.file = Some(OpenFile::new(file, note.clock, video.is_some(), audio.as_ref(), bytes));
        (self.video, self.audio) = (video, audio);
        (self.number, self.place) = (number, note.place);
        self.report.state = RecordState::Recording;
        self.report.repaired += u64::from(cut_bytes > 0);
        self.report.path = path;
        (self.report.bytes, self.report.files, self.report.fragments) = (bytes, 1, fragments);
        Ok(())
    }

    /// No file of another owner goes on; the reason is told.
    pub(super) fn begins_anew(&mut self, reason: String) {
        self.report.last_error = reason;
    }

    /// Repairs the newest file of the same rendition, which a dead process may have left torn.
    /// One without any fragment is removed.
    pub(super) fn repair_predecessor(&mut self) {
        let files = of_rendition(&self.config.directory, &self.prefix());
        let Some(path) = files.ok().and_then(|mut files| files.pop()) else { return };
        let repaired = match repair(&path) {
            Ok(report) if report.fragments == 0 => std::fs::remove_file(&path).map(|()| true),
            Ok(report) => Ok(report.cut_bytes > 0),
            Err(RepairError::InUse) => Ok(false),
            Err(error) => Err(io::Error::other(error)),
        };
        match repaired {
            Ok(true) => self.report.repaired += 1,
            Ok(false) => {}
            Err(error) => self.report.last_error = format!("repair {}: {error}", path.display()),
        }
    }

    pub(super) fn handle(&mut self, now_unix_ms: u64, item: RecordItem) {
        if self.is_stopped() {
            return;
        }
        let done = match item {
            RecordItem::VideoHeader { codec, config } => self.on_video_header(codec, config),
            RecordItem::AudioHeader { config } => self.on_audio_header(config),
            RecordItem::Packet(packet) => {
                let behind = packet.behind;
                let done = match packet.track {
                    Track::Video => self.on_video(now_unix_ms, packet),
                    Track::Audio => self.on_audio(now_unix_ms, packet),
                };
                self.place = behind;
                done
            }
            RecordItem::FileEnd => self.close(None),
        };
        if let Err(reason) = done {
            self.stop(reason);
        }
    }

    /// Writes what is held and closes the file.
    pub(super) fn finish(&mut self) {
        if let Err(reason) = self.close(None) {
            self.stop(reason);
        }
    }

    pub(super) fn is_stopped(&self) -> bool {
        matches!(self.report.state, RecordState::Stopped { .. })
    }

    /// Makes the report visible to the stream's side, which counts what it drops itself.
    pub(super) fn publish(&self, report: &Mutex<RecordReport>) {
        let mut shared = locked(report);
        let dropped_queue_full = shared.dropped_queue_full;
        *shared = RecordReport { dropped_queue_full, ..self.report.clone() };
    }

    #[cfg(test)]
    pub(super) fn report(&self) -> &RecordReport {
        &self.report
    }

    fn on_video_header(&mut self, codec: VideoCodec, bytes: Vec<u8>) -> Result<(), StopReason> {
        if let Some(video) = &self.video
            && video.codec == codec
            && video.bytes == bytes
        {
            return Ok(());
        }
        self.close(None)?;
        self.video = match config::parse(codec, &bytes) {
            Ok(config) => Some(VideoHeader { codec, bytes, config }),
            Err(error) => {
                self.refuse_header(&error);
                None
            }
        };
        Ok(())
    }

    fn on_audio_header(&mut self, bytes: Vec<u8>) -> Result<(), StopReason> {
        if self.audio.as_ref().is_some_and(|audio| audio.bytes == bytes) {
            return Ok(());
        }
        self.audio = match aac::parse_config(&bytes) {
            Ok(config) => Some(AudioHeader { bytes, config }),
            Err(error) => {
                self.refuse_header(&error);
                None
            }
        };
        match &mut self.file {
            Some(file) if file.has_video => {
                file.audio = FileAudio::Outdated;
                Ok(())
            }
            Some(_) => self.close(None),
            None => Ok(()),
        }
    }

    fn refuse_header(&mut self, error: &dyn std::error::Error) {
        self.report.headers_refused += 1;
        self.report.last_error = error.to_string();
    }

    fn on_video(&mut self, now_unix_ms: u64, packet: RecordPacket) -> Result<(), StopReason> {
        if self.video.is_none() {
            self.report.skipped_no_header += 1;
            return Ok(());
        }
        let dts_ms = packet.dts_ms;
        let idr = packet.idr == IsIdr::Idr;
        if let Some(file) = &self.file
            && idr
            && (file.audio == FileAudio::Outdated || self.is_due(file.clock.origin_ms, dts_ms))
        {
            self.close(Some(dts_ms))?;
        }
        if self.file.is_none() {
            if !idr {
                self.report.skipped_before_keyframe += 1;
                return Ok(());
            }
            self.open(now_unix_ms, dts_ms, packet.at)?;
        } else if idr || self.holds_a_fragment(dts_ms, RECORD_FRAGMENT_MS) {
            self.flush(Some(dts_ms))?;
        }
        self.push(packet);
        Ok(())
    }

    fn on_audio(&mut self, now_unix_ms: u64, packet: RecordPacket) -> Result<(), StopReason> {
        if self.audio.is_none() {
            self.report.skipped_no_header += 1;
            return Ok(());
        }
        let dts_ms = packet.dts_ms;
        if let Some(file) = &self.file
            && !file.has_video
            && self.is_due(file.clock.origin_ms, dts_ms)
        {
            self.close(None)?;
        }
        let Some(file) = &self.file else {
            let since_ms = *self.audio_only_since_ms.get_or_insert(dts_ms);
            // Without a video header for this long it is taken for a stream of audio alone.
            let alone = dts_ms.saturating_sub(since_ms) >= RECORD_AUDIO_ONLY_WAIT_MS;
            if self.video.is_some() || !alone {
                self.report.skipped_before_keyframe += 1;
                return Ok(());
            }
            self.open(now_unix_ms, dts_ms, packet.at)?;
            self.push(packet);
            return Ok(());
        };
        if !matches!(file.audio, FileAudio::Current) {
            self.report.skipped_no_header += 1;
            return Ok(());
        }
        if dts_ms < file.clock.origin_ms {
            self.report.skipped_before_keyframe += 1;
            return Ok(());
        }
        // With video its frames end fragments, unless they stay away.
        let patience = if file.has_video { 2 } else { 1 };
        if self.holds_a_fragment(dts_ms, RECORD_FRAGMENT_MS * patience) {
            self.flush(None)?;
        }
        self.push(packet);
        Ok(())
    }

    fn is_due(&self, origin_ms: i64, dts_ms: i64) -> bool {
        let age_ms = u64::try_from(dts_ms.saturating_sub(origin_ms)).unwrap_or(0);
        age_ms >= self.config.rotate_ms
    }

    fn holds_a_fragment(&self, dts_ms: i64, fragment_ms: i64) -> bool {
        let Some(file) = &self.file else { return false };
        let Some(since_ms) = file.pending_since_ms else { return false };
        dts_ms.saturating_sub(since_ms) >= fragment_ms
            || file.pending_bytes >= RECORD_FRAGMENT_BYTES_MAX
            || file.video_pending.len() + file.audio_pending.len() >= RECORD_FRAGMENT_SAMPLES_MAX
    }

    fn push(&mut self, packet: RecordPacket) {
        let Some(file) = &mut self.file else { return };
        file.pending_bytes += packet.payload.len();
        file.pending_since_ms.get_or_insert(packet.dts_ms);
        match packet.track {
            Track::Video => file.video_pending.push(packet),
            Track::Audio => file.audio_pending.push(packet),
        }
    }

    fn open(&mut self, now_unix_ms: u64, origin_ms: i64, place: Place) -> Result<(), StopReason> {
        let video = self.video.as_ref();
        let audio = self.audio.as_ref();
        let init = init_segment(
            video.map(|video| VideoTrack {
                codec: video.codec,
                config: &video.bytes,
                width: video.config.width,
                height: video.config.height,
            }),
            audio.map(|audio| AudioTrack {
                config: &audio.bytes,
                sample_rate: audio.config.sample_rate,
                channels: audio.config.channels,
            }),
        );
        let mut init = match init {
            Ok(init) => init,
            Err(error) => {
                // Not the disk's fault: wait for a header that a file can be made with.
                self.refuse_header(&error);
                self.video = None;
                return Ok(());
            }
        };
        let clock = FragmentClock::new(origin_ms);
        let note = HeadNote {
            series: self.config.series,
            number: self.number + 1,
            video: video.map(|video| (video.codec, video.bytes.clone())),
            audio: audio.map(|audio| audio.bytes.clone()),
            start: FragmentNote { clock, place },
        };
        note.encode(&mut init);
        let directory = &self.config.directory;
        self.disk.create_directory(directory).map_err(|e| stopped("create directory", &e))?;
        self.check_reserve()?;
        let (path, file) = self.create(now_unix_ms)?;
        let mut file = OpenFile::new(file, clock, video.is_some(), audio, 0);
        file.append(&init)?;
        self.report.bytes += file.bytes;
        self.report.files += 1;
        self.number += 1;
        self.before = None;
        self.report.state = RecordState::Recording;
        self.file = Some(file);
        self.retain(now_unix_ms, &path);
        self.report.path = path;
        Ok(())
    }

    fn create(&self, now_unix_ms: u64) -> Result<(PathBuf, D::File), StopReason> {
        let mut taken = io::Error::from(io::ErrorKind::AlreadyExists);
        for second in 0..NAME_ATTEMPTS {
            let time = utc::compact((now_unix_ms / 1_000).saturating_add(second));
            let path = self.config.directory.join(format!("{}{time}.mp4", self.prefix()));
            match self.disk.create(&path) {
                Ok(file) => return Ok((path, file)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => taken = error,
                Err(error) => return Err(stopped("create file", &error)),
            }
        }
        Err(stopped("create file", &taken))
    }

    fn retain(&mut self, now_unix_ms: u64, writing: &std::path::Path) {
        let RecordConfig { keep_ms, keep_bytes, .. } = self.config;
        let limits = Retention { keep_ms, keep_bytes };
        match retention::apply(limits, &self.config.directory, now_unix_ms, Some(writing)) {
            Ok(removed) => self.report.removed += removed,
            Err(error) => self.report.last_error = format!("retention: {error}"),
        }
    }

    fn check_reserve(&self) -> Result<(), StopReason> {
        let reserve_bytes = self.config.reserve_bytes;
        let free_bytes = self
            .disk
            .free_bytes(&self.config.directory)
            .map_err(|error| stopped("look at free space", &error))?;
        if free_bytes < reserve_bytes {
            Err(StopReason::Reserve { free_bytes, reserve_bytes })
        } else {
            Ok(())
        }
    }

    fn close(&mut self, video_end_ms: Option<i64>) -> Result<(), StopReason> {
        self.flush(video_end_ms)?;
        if let Some(file) = self.file.take() {
            self.before = Some(file.file);
            self.report.state = RecordState::Idle;
        }
        self.audio_only_since_ms = None;
        Ok(())
    }

    /// Writes what is pending as one fragment.
    fn flush(&mut self, video_end_ms: Option<i64>) -> Result<(), StopReason> {
        let Some(file) = &mut self.file else { return Ok(()) };
        if file.pending_since_ms.is_none() {
            return Ok(());
        }
        self.buffer.clear();
        file.package(video_end_ms, self.place, &mut self.buffer)?;
        self.check_reserve()?;
        let Some(file) = &mut self.file else { return Ok(()) };
        file.append(&self.buffer)?;
        self.report.bytes += u64::try_from(self.buffer.len()).unwrap_or(u64::MAX);
        self.report.fragments += 1;
        Ok(())
    }

    fn stop(&mut self, reason: StopReason) {
        (self.file, self.before) = (None, None);
        self.report.last_error = reason.to_string();
        self.report.state = RecordState::Stopped { reason };
    }

    fn prefix(&self) -> String {
        format!("{}_{}_", self.config.name, self.config.rung)
    }
}

impl<F: DiskFile> OpenFile<F> {
    fn new(
        file: F,
        clock: FragmentClock,
        has_video: bool,
        audio: Option<&AudioHeader>,
        bytes: u64,
    ) -> Self {
        let timing = audio.map(|audio| AudioTiming {
            sample_rate: audio.config.sample_rate,
            frame_samples: audio.config.frame_samples,
        });
        Self {
            file,
            clock,
            bytes,
            has_video,
            audio: if timing.is_some() { FileAudio::Current } else { FileAudio::None },
            // Without audio never used.
            audio_timing: timing.unwrap_or(AudioTiming { sample_rate: 1, frame_samples: 1 }),
            video_pending: Vec::new(),
            audio_pending: Vec::new(),
            pending_bytes: 0,
            pending_since_ms: None,
        }
    }

    /// A note of what is behind it, and the fragment.
    fn package(
        &mut self,
        video_end_ms: Option<i64>,
        behind: Place,
        out: &mut Vec<u8>,
    ) -> Result<(), StopReason> {
        out.resize(FragmentNote::BOX_BYTES, 0);
        let video: Vec<_> = self.video_pending.iter().map(sample).collect();
        let audio: Vec<_> = self.audio_pending.iter().map(sample).collect();
        let fragment = Fragment {
            video: &video,
            video_end_ms,
            audio: &audio,
            audio_timing: self.audio_timing,
        };
        self.clock.write_fragment(&fragment, out).map_err(|error| StopReason::Io {
            doing: "package a fragment",
            error: error.to_string(),
        })?;
        let mut note = Vec::with_capacity(FragmentNote::BOX_BYTES);
        FragmentNote { clock: self.clock, place: behind }.encode(&mut note);
        out[..FragmentNote::BOX_BYTES].copy_from_slice(&note);
        self.video_pending.clear();
        self.audio_pending.clear();
        self.pending_bytes = 0;
        self.pending_since_ms = None;
        Ok(())
    }

    /// A write that fails part-way is taken back as far as the disk allows.
    fn append(&mut self, bytes: &[u8]) -> Result<(), StopReason> {
        failpoint::hit(Point::RecordWriting);
        if let Err(error) = self.file.write_all(bytes) {
            // Where that fails too, the tail is torn as after a kill, and repair cuts it off.
            let _ = self.file.truncate(self.bytes);
            return Err(stopped("write", &error));
        }
        failpoint::hit(Point::RecordWrote);
        self.bytes += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Ok(())
    }
}

fn sample(packet: &RecordPacket) -> Sample<'_> {
    let sync = match (packet.track, packet.idr) {
        (Track::Audio, _) | (Track::Video, IsIdr::Idr) => Sync::Sync,
        (Track::Video, IsIdr::Other) => Sync::Depends,
    };
    Sample { dts_ms: packet.dts_ms, pts_ms: packet.pts_ms, sync, payload: &packet.payload }
}

fn stopped(doing: &'static str, error: &io::Error) -> StopReason {
    if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
        StopReason::DiskFull
    } else {
        StopReason::Io { doing, error: error.to_string() }
    }
}
