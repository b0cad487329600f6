//! Fragmented MP4 (ISO/IEC 14496-12): an init segment and fragments, as bytes.
//!
//! Pure. Times come in as milliseconds of the stream's timeline; video is written in 1/90000 s,
//! audio in samples, both from the file's origin. Each fragment states its decode time anew, so
//! no error adds up. Audio frames are laid end to end; only where the stamps are farther from
//! that than `AUDIO_SLACK_FRAMES` frames (a gap, a clock that drifts), and at a file's first
//! frame, are they followed.
//! All that a later fragment needs of the earlier ones is a `FragmentClock`, plain integers.

use crate::media::packet::VideoCodec;
use mp4_atom::esds::{DecoderConfig, DecoderSpecific, EsDescriptor, SLConfig};
use mp4_atom::{
    Atom, Audio, Avc1, Avcc, Codec, Dinf, Dref, DrefEntry, Encode, Esds, FourCC, Ftyp, Hdlr, Hvc1,
    Hvcc, Mdhd, Mdia, Mfhd, Minf, Moof, Moov, Mp4a, Mvex, Mvhd, Smhd, Stbl, Stco, Stsd, Tfdt, Tfhd,
    Tkhd, Traf, Trak, Trex, Trun, TrunEntry, Url, Visual, Vmhd,
};

pub const VIDEO_TIMESCALE: u32 = 90_000;
pub const VIDEO_TRACK_ID: u32 = 1;
pub const AUDIO_TRACK_ID: u32 = 2;

/// What [`FragmentClock::write_empty`] appends; no fragment with a sample is as short.
pub const EMPTY_FRAGMENT_BYTES: u64 = 76;

/// Stamps of bundled audio frames repeat; up to this many frames that is not taken for a gap.
const AUDIO_SLACK_FRAMES: u64 = 3;
const TICKS_PER_MS: i64 = 90;
/// Duration of a last video sample when nothing else is known: 1/30 s.
const VIDEO_STEP_TICKS: u32 = 3_000;
const SAMPLE_IS_SYNC: u32 = 0x0200_0000;
const SAMPLE_DEPENDS_AND_IS_NO_SYNC: u32 = 0x0101_0000;

/// The video of a file.
#[derive(Clone, Copy, Debug)]
pub struct VideoTrack<'a> {
    pub codec: VideoCodec,
    /// The decoder configuration record.
    pub config: &'a [u8],
    pub width: u32,
    pub height: u32,
}

/// The audio of a file.
#[derive(Clone, Copy, Debug)]
pub struct AudioTrack<'a> {
    /// The AudioSpecificConfig.
    pub config: &'a [u8],
    pub sample_rate: u32,
    pub channels: u8,
}

/// Why no init segment can be made.
#[derive(Debug, thiserror::Error)]
pub enum Fmp4Error {
    #[error("a file needs video or audio")]
    NoTrack,
    #[error("the decoder configuration does not fit into MP4: {0}")]
    Config(mp4_atom::Error),
    #[error("a picture of {0}x{1} does not fit into MP4")]
    Size(u32, u32),
    #[error("boxes cannot be written: {0}")]
    Write(mp4_atom::Error),
}

/// Can decoding begin here?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    Sync,
    Depends,
}

/// One frame on its way into a fragment.
#[derive(Clone, Copy, Debug)]
pub struct Sample<'a> {
    pub dts_ms: i64,
    pub pts_ms: i64,
    pub sync: Sync,
    /// Length-prefixed NAL units or one raw AAC frame.
    pub payload: &'a [u8],
}

/// How audio is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AudioTiming {
    pub sample_rate: u32,
    pub frame_samples: u32,
}

/// The samples of one fragment, in decode order per track.
#[derive(Clone, Copy, Debug)]
pub struct Fragment<'a> {
    pub video: &'a [Sample<'a>],
    /// When the video frame after the last one begins, if that is known.
    pub video_end_ms: Option<i64>,
    pub audio: &'a [Sample<'a>],
    /// Not used without audio samples.
    pub audio_timing: AudioTiming,
}

/// What a fragment needs to know of those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentClock {
    /// Time zero of the file on the stream's timeline.
    pub origin_ms: i64,
    pub sequence_next: u32,
    /// First decode time that is free, in 1/90000 s.
    pub video_next: u64,
    /// First decode time that is free, in samples.
    pub audio_next: u64,
}

/// `ftyp` and `moov` of a fragmented file.
pub fn init_segment(
    video: Option<VideoTrack<'_>>,
    audio: Option<AudioTrack<'_>>,
) -> Result<Vec<u8>, Fmp4Error> {
    let mut trak = Vec::with_capacity(2);
    if let Some(video) = video {
        trak.push(video_trak(video)?);
    }
    if let Some(audio) = audio {
        trak.push(audio_trak(audio));
    }
    if trak.is_empty() {
        return Err(Fmp4Error::NoTrack);
    }
    let trex = trak.iter().map(|trak| Trex {
        track_id: trak.tkhd.track_id,
        default_sample_description_index: 1,
        ..Trex::default()
    });
    let moov = Moov {
        mvhd: Mvhd {
            timescale: 1_000,
            rate: 1.into(),
            volume: 1.into(),
            next_track_id: AUDIO_TRACK_ID + 1,
            ..Mvhd::default()
        },
        mvex: Some(Mvex { mehd: None, trex: trex.collect() }),
        trak,
        ..Moov::default()
    };
    let ftyp = Ftyp {
        major_brand: FourCC::new(b"iso5"),
        minor_version: 512,
        compatible_brands: [b"iso5", b"iso6", b"mp41"].map(FourCC::new).to_vec(),
    };
    let mut bytes = Vec::with_capacity(1_024);
    ftyp.encode(&mut bytes).map_err(Fmp4Error::Write)?;
    moov.encode(&mut bytes).map_err(Fmp4Error::Write)?;
    Ok(bytes)
}

impl FragmentClock {
    pub const SIZE: usize = 8 + 4 + 8 + 8;

    /// Of a file that begins at `origin_ms` of the timeline.
    #[must_use]
    pub fn new(origin_ms: i64) -> Self {
        Self { origin_ms, sequence_next: 1, video_next: 0, audio_next: 0 }
    }

    /// Fixed size, little endian.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::SIZE] {
        let Self { origin_ms, sequence_next, video_next, audio_next } = self;
        let mut bytes = [0; Self::SIZE];
        bytes[..8].copy_from_slice(&origin_ms.to_le_bytes());
        bytes[8..12].copy_from_slice(&sequence_next.to_le_bytes());
        bytes[12..20].copy_from_slice(&video_next.to_le_bytes());
        bytes[20..].copy_from_slice(&audio_next.to_le_bytes());
        bytes
    }

    /// Any bytes are a clock; an absurd one only makes absurd times.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; Self::SIZE]) -> Self {
        let long = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            word
        };
        Self {
            origin_ms: i64::from_le_bytes(long(0)),
            sequence_next: u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]),
            video_next: u64::from_le_bytes(long(12)),
            audio_next: u64::from_le_bytes(long(20)),
        }
    }

    /// Appends `moof` and `mdat`; nothing is appended for a fragment without samples.
    pub fn write_fragment(
        &mut self,
        fragment: &Fragment<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), Fmp4Error> {
        let mut traf = Vec::with_capacity(2);
        if !fragment.video.is_empty() {
            traf.push(self.video_traf(fragment.video, fragment.video_end_ms));
        }
        if !fragment.audio.is_empty() {
            traf.push(self.audio_traf(fragment.audio, fragment.audio_timing));
        }
        if traf.is_empty() {
            return Ok(());
        }
        let mut moof = Moof { mfhd: Mfhd { sequence_number: self.sequence_next }, traf };
        self.sequence_next = self.sequence_next.wrapping_add(1);

        // Offsets are from the start of `moof`, whose length does not depend on their values.
        let start = out.len();
        moof.encode(out).map_err(Fmp4Error::Write)?;
        let mut offset = out.len() - start + MDAT_HEADER_BYTES;
        for traf in &mut moof.traf {
            let samples =
                if traf.tfhd.track_id == VIDEO_TRACK_ID { fragment.video } else { fragment.audio };
            for trun in &mut traf.trun {
                trun.data_offset = Some(i32::try_from(offset).unwrap_or(i32::MAX));
            }
            offset += payload_bytes(samples);
        }
        out.truncate(start);
        moof.encode(out).map_err(Fmp4Error::Write)?;
        put_mdat(fragment, out);
        Ok(())
    }

    /// Appends `moof` and `mdat` of a time in which nothing begins: a track fragment without samples
    /// (ISO/IEC 14496-12, 8.8.6).
    pub fn write_empty(&mut self, out: &mut Vec<u8>) -> Result<(), Fmp4Error> {
        let traf = Traf { trun: Vec::new(), ..traf(VIDEO_TRACK_ID, self.video_next, Vec::new()) };
        let mfhd = Mfhd { sequence_number: self.sequence_next };
        self.sequence_next = self.sequence_next.wrapping_add(1);
        Moof { mfhd, traf: vec![traf] }.encode(out).map_err(Fmp4Error::Write)?;
        let none = AudioTiming { sample_rate: 1, frame_samples: 1 };
        put_mdat(&Fragment { video: &[], video_end_ms: None, audio: &[], audio_timing: none }, out);
        Ok(())
    }

    fn video_traf(&mut self, samples: &[Sample<'_>], end_ms: Option<i64>) -> Traf {
        let mut times = Vec::with_capacity(samples.len() + 1);
        let mut free = self.video_next;
        for sample in samples {
            let time = self.video_ticks(sample.dts_ms).max(free);
            times.push(time);
            free = time.saturating_add(1);
        }
        let last = times.last().copied().unwrap_or(free);
        let end = match (end_ms, times.as_slice()) {
            (Some(end_ms), _) => self.video_ticks(end_ms).max(free),
            (None, [.., before, last]) => last.saturating_add(last - before),
            (None, _) => last.saturating_add(u64::from(VIDEO_STEP_TICKS)),
        };
        let base = times.first().copied().unwrap_or(end);
        times.push(end);
        self.video_next = end;
        let entries = samples.iter().zip(times.windows(2)).map(|(sample, times)| {
            let pts = sample.pts_ms.saturating_sub(self.origin_ms).saturating_mul(TICKS_PER_MS);
            let cts = pts.saturating_sub(i64::try_from(times[0]).unwrap_or(i64::MAX));
            let least = i64::from(i32::MIN);
            entry(sample, times[1] - times[0], Some(cts.clamp(least, i64::from(i32::MAX))))
        });
        traf(VIDEO_TRACK_ID, base, entries.collect())
    }

    fn audio_traf(&mut self, samples: &[Sample<'_>], timing: AudioTiming) -> Traf {
        let frame = u64::from(timing.frame_samples.max(1));
        let slack = frame * AUDIO_SLACK_FRAMES;
        let mut times = Vec::with_capacity(samples.len() + 1);
        let mut next = self.audio_next;
        let mut free = self.audio_next;
        for sample in samples {
            let stamped = self.audio_ticks(sample.dts_ms, timing.sample_rate);
            let follow = next == 0 || stamped.abs_diff(next) > slack;
            let time = if follow { stamped.max(free) } else { next };
            times.push(time);
            free = time.saturating_add(1);
            next = time.saturating_add(frame);
        }
        let base = times.first().copied().unwrap_or(next);
        times.push(next);
        self.audio_next = next;
        let entries = samples.iter().zip(times.windows(2));
        let entries = entries.map(|(sample, times)| entry(sample, times[1] - times[0], None));
        traf(AUDIO_TRACK_ID, base, entries.collect())
    }

    fn video_ticks(&self, ms: i64) -> u64 {
        let ticks = ms.saturating_sub(self.origin_ms).saturating_mul(TICKS_PER_MS);
        u64::try_from(ticks).unwrap_or(0)
    }

    fn audio_ticks(&self, ms: i64, sample_rate: u32) -> u64 {
        let ms = u64::try_from(ms.saturating_sub(self.origin_ms)).unwrap_or(0);
        ms.saturating_mul(u64::from(sample_rate)) / 1_000
    }
}

const MDAT_HEADER_BYTES: usize = 8;

fn put_mdat(fragment: &Fragment<'_>, out: &mut Vec<u8>) {
    let length = MDAT_HEADER_BYTES + payload_bytes(fragment.video) + payload_bytes(fragment.audio);
    out.reserve(length);
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(b"mdat");
    for sample in fragment.video.iter().chain(fragment.audio) {
        out.extend_from_slice(sample.payload);
    }
}

fn payload_bytes(samples: &[Sample<'_>]) -> usize {
    samples.iter().map(|sample| sample.payload.len()).sum()
}

fn entry(sample: &Sample<'_>, duration: u64, cts: Option<i64>) -> TrunEntry {
    let flags = match sample.sync {
        Sync::Sync => SAMPLE_IS_SYNC,
        Sync::Depends => SAMPLE_DEPENDS_AND_IS_NO_SYNC,
    };
    TrunEntry {
        duration: Some(u32::try_from(duration).unwrap_or(u32::MAX)),
        size: Some(u32::try_from(sample.payload.len()).unwrap_or(u32::MAX)),
        flags: Some(flags),
        cts,
    }
}

fn traf(track_id: u32, base_media_decode_time: u64, entries: Vec<TrunEntry>) -> Traf {
    Traf {
        tfhd: Tfhd { track_id, default_base_is_moof: true, ..Tfhd::default() },
        tfdt: Some(Tfdt { base_media_decode_time }),
        trun: vec![Trun { data_offset: Some(0), samples: entries.into() }],
        ..Traf::default()
    }
}

fn video_trak(video: VideoTrack<'_>) -> Result<Trak, Fmp4Error> {
    let size =
        |value: u32| u16::try_from(value).map_err(|_| Fmp4Error::Size(video.width, video.height));
    let (width, height) = (size(video.width)?, size(video.height)?);
    let visual = Visual { data_reference_index: 1, width, height, ..Visual::default() };
    let config = &mut &*video.config;
    let codec = match video.codec {
        VideoCodec::H264 => {
            let avcc = Avcc::decode_body(config).map_err(Fmp4Error::Config)?;
            Codec::from(Avc1 { visual, avcc, ..Avc1::default() })
        }
        VideoCodec::Hevc => {
            let hvcc = Hvcc::decode_body(config).map_err(Fmp4Error::Config)?;
            Codec::from(Hvc1 { visual, hvcc, ..Hvc1::default() })
        }
    };
    let mut trak = trak(VIDEO_TRACK_ID, VIDEO_TIMESCALE, b"vide", codec);
    trak.tkhd.width = width.into();
    trak.tkhd.height = height.into();
    trak.mdia.minf.vmhd = Some(Vmhd::default());
    Ok(trak)
}

fn audio_trak(audio: AudioTrack<'_>) -> Trak {
    let dec_specific = DecoderSpecific { raw: audio.config.to_vec(), ..DecoderSpecific::default() };
    let dec_config = DecoderConfig {
        object_type_indication: 0x40,
        stream_type: 5,
        dec_specific: Some(dec_specific),
        ..DecoderConfig::default()
    };
    let es_id = 2;
    let sl_config = SLConfig::default();
    let es_desc = EsDescriptor { es_id, dec_config, sl_config, ..EsDescriptor::default() };
    let codec = Codec::from(Mp4a {
        audio: Audio {
            data_reference_index: 1,
            channel_count: u16::from(audio.channels),
            sample_size: 16,
            // 16 bits in the box; the configuration has the true rate.
            sample_rate: u16::try_from(audio.sample_rate).unwrap_or(0).into(),
        },
        esds: Esds { es_desc },
        btrt: None,
        taic: None,
    });
    let mut trak = trak(AUDIO_TRACK_ID, audio.sample_rate, b"soun", codec);
    trak.tkhd.volume = 1.into();
    trak.tkhd.alternate_group = 1;
    trak.mdia.minf.smhd = Some(Smhd::default());
    trak
}

fn trak(track_id: u32, timescale: u32, handler: &[u8; 4], codec: Codec) -> Trak {
    let url = DrefEntry::Url(Url::default());
    Trak {
        tkhd: Tkhd { track_id, enabled: true, in_movie: true, ..Tkhd::default() },
        mdia: Mdia {
            mdhd: Mdhd { timescale, language: "und".to_owned(), ..Mdhd::default() },
            hdlr: Hdlr { handler: FourCC::new(handler), name: String::new() },
            minf: Minf {
                dinf: Dinf { dref: Dref { entries: vec![url] } },
                stbl: Stbl {
                    stsd: Stsd { codecs: vec![codec] },
                    stco: Some(Stco::default()),
                    ..Stbl::default()
                },
                ..Minf::default()
            },
        },
        ..Trak::default()
    }
}

#[cfg(test)]
mod tests;
