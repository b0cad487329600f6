//! Sources made by the distribution's ffmpeg, a source that plays them, and judges of what
//! comes out.

use super::super::*;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use tasuki_shared::plan::{EncodedRung, LogSize, RungKind};

pub const LOG: LogSize = LogSize { payload_bytes: 1 << 20, index_entries: 256 };

/// A packet with its payload.
#[derive(Clone, Debug)]
pub struct Item {
    pub kind: PacketKind,
    pub payload: Vec<u8>,
}

/// Runs ffmpeg on `input`; what it prints as an error fails the test.
pub fn ffmpeg(arguments: &str, input: &[u8]) -> Vec<u8> {
    let mut child = Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-threads", "1"])
        .args(arguments.split_whitespace())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the distribution's ffmpeg is installed");
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // A reader that stops early is no failure of its own.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "ffmpeg {arguments}: {errors}");
    output.stdout
}

/// An FLV of a test picture and, unless `sound` is empty, a tone.
pub fn source(size: &str, seconds: u32, video: &str, sound: &str) -> Vec<u8> {
    let picture = format!("-f lavfi -i testsrc2=size={size}:rate=30:duration={seconds}");
    let tone = format!("-f lavfi -i sine=frequency=440:sample_rate=44100:duration={seconds}");
    let encode = format!("-c:v libx264 -preset ultrafast -threads 1 -g 45 {video}");
    let arguments = if sound.is_empty() {
        format!("{picture} {encode} -f flv -")
    } else {
        format!("{picture} {tone} {encode} -c:a aac {sound} -f flv -")
    };
    ffmpeg(&arguments, &[])
}

/// Reads an FLV; what it needs of the format and nothing more.
pub fn demux(flv: &[u8]) -> Vec<Item> {
    let mut items = Vec::new();
    let mut at = 13;
    let number = |bytes: &[u8]| bytes.iter().fold(0i64, |sum, byte| sum << 8 | i64::from(*byte));
    while at + 11 <= flv.len() {
        let length = usize::try_from(number(&flv[at + 1..at + 4])).unwrap();
        let time = number(&flv[at + 4..at + 7]) | i64::from(flv[at + 7]) << 24;
        let body = &flv[at + 11..at + 11 + length];
        at += 11 + length + 4;
        match flv[at - 4 - length - 11] {
            9 if body[1] == 0 => {
                let kind = PacketKind::VideoHeader { codec: VideoCodec::H264 };
                items.push(Item { kind, payload: body[5..].to_vec() });
            }
            9 if body[1] == 1 => {
                let offset = number(&body[2..5]);
                let pts_ms = time + if offset >= 1 << 23 { offset - (1 << 24) } else { offset };
                let (idr, disposable) = picture_kind(&body[5..]);
                let kind = PacketKind::VideoFrame { pts_ms, idr, disposable };
                items.push(Item { kind, payload: body[5..].to_vec() });
            }
            8 if body[1] == 0 => {
                items.push(Item { kind: PacketKind::AudioHeader, payload: body[2..].to_vec() });
            }
            8 => {
                let kind = PacketKind::AudioFrame { dts_ms: time };
                items.push(Item { kind, payload: body[2..].to_vec() });
            }
            _ => {}
        }
    }
    items
}

fn picture_kind(payload: &[u8]) -> (IsIdr, Disposable) {
    let mut result = (IsIdr::Other, Disposable::No);
    for unit in units(payload) {
        match unit[0] & 0x1f {
            5 => result.0 = IsIdr::Idr,
            1 if unit[0] & 0x60 == 0 => result.1 = Disposable::Yes,
            _ => {}
        }
    }
    result
}

/// Length-prefixed NAL units.
pub fn units(mut payload: &[u8]) -> Vec<&[u8]> {
    let mut units = Vec::new();
    while payload.len() > 4 {
        let length = u32::from_be_bytes(payload[..4].try_into().unwrap());
        let (unit, rest) = payload[4..].split_at(usize::try_from(length).unwrap());
        units.push(unit);
        payload = rest;
    }
    units
}

/// Moves all timestamps.
pub fn later(items: Vec<Item>, by_ms: i64) -> Vec<Item> {
    let moved = |item: Item| {
        let kind = match item.kind {
            PacketKind::VideoFrame { pts_ms, idr, disposable } => {
                PacketKind::VideoFrame { pts_ms: pts_ms + by_ms, idr, disposable }
            }
            PacketKind::AudioFrame { dts_ms } => PacketKind::AudioFrame { dts_ms: dts_ms + by_ms },
            PacketKind::Declared(_) | PacketKind::VideoHeader { .. } | PacketKind::AudioHeader => {
                item.kind
            }
        };
        Item { kind, ..item }
    };
    items.into_iter().map(moved).collect()
}

pub fn rung(label: &str, short_side: u32, bitrate_bps: u64) -> RungPlan {
    let encoded =
        EncodedRung { short_side, bitrate_bps, preset: "veryfast".into(), crf: 23.0, log: LOG };
    RungPlan { label: label.into(), kind: RungKind::Encoded(encoded) }
}

pub fn spec() -> PipelineSpec {
    PipelineSpec {
        rungs: vec![rung("180p", 180, 600_000), rung("90p", 90, 200_000)],
        audio: AudioPlan::Aac { bitrate_bps: 96_000, log: LOG },
        blur: Vec::new(),
        thumbnails: Thumbnails::None,
        limits: StreamLimits {
            width_max: 1920,
            height_max: 1080,
            fps_max: 60,
            bitrate_bps_max: 10_000_000,
        },
        declared: Declared::default(),
        start: Start::Fresh,
        spares: Arc::default(),
    }
}

/// Plays what is sent to it.
struct Player {
    items: Receiver<(u64, Item)>,
}

impl PacketSource for Player {
    fn next(&mut self, buffer: &mut Vec<u8>, wait: Duration) -> SourceEvent {
        match self.items.recv_timeout(wait) {
            Ok((index, item)) => {
                // Payloads need not begin at the buffer's start.
                buffer.extend_from_slice(b"tag");
                buffer.extend_from_slice(&item.payload);
                let payload = 3..buffer.len();
                SourceEvent::Packet(SourcePacket { index, kind: item.kind, payload })
            }
            Err(RecvTimeoutError::Timeout) => SourceEvent::Idle,
            Err(RecvTimeoutError::Disconnected) => SourceEvent::Closed,
        }
    }
}

/// A pipeline with its source and its wake-ups.
pub struct Rig {
    pub pipeline: Pipeline,
    pub feed: Option<Sender<(u64, Item)>>,
    wakes: Receiver<()>,
}

impl Rig {
    pub fn start(spec: PipelineSpec) -> Self {
        let mut rig = Self::prepare(spec);
        rig.pipeline.begin().unwrap();
        rig
    }

    pub fn prepare(spec: PipelineSpec) -> Self {
        let (feed, items) = channel();
        let (wake, wakes) = channel();
        // A rig that is being dropped listens no longer.
        let wake = Arc::new(move || wake.send(()).unwrap_or(()));
        let pipeline = Pipeline::prepare(spec, Box::new(Player { items }), wake).unwrap();
        Self { pipeline, feed: Some(feed), wakes }
    }

    /// Feeds packets, the first with the index `from`.
    pub fn feed(&self, from: u64, items: &[Item]) {
        let feed = self.feed.as_ref().unwrap();
        for (index, item) in (from..).zip(items) {
            feed.send((index, item.clone())).unwrap();
        }
    }

    /// Outputs up to the first for which `last` holds.
    pub fn until(&self, last: impl Fn(&PipelineOutput) -> bool) -> Vec<PipelineOutput> {
        let mut outputs = Vec::new();
        loop {
            while let Some(output) = self.pipeline.poll() {
                let done = last(&output);
                outputs.push(output);
                if done {
                    return outputs;
                }
            }
            let woken = self.wakes.recv_timeout(Duration::from_secs(20));
            assert!(woken.is_ok(), "nothing came after {:?}", outputs.last());
        }
    }

    /// Ends the source and takes all that is left.
    pub fn finish(mut self) -> Vec<PipelineOutput> {
        self.feed = None;
        let outputs = self.until(|output| *output == PipelineOutput::Event(PipelineEvent::Ended));
        assert_eq!(self.pipeline.stop(), StopOutcome::Joined);
        outputs
    }
}

/// Everything a pipeline makes of `items`, whose indices begin at 100.
pub fn run(spec: PipelineSpec, items: &[Item]) -> Vec<PipelineOutput> {
    let rig = Rig::start(spec);
    rig.feed(100, items);
    rig.finish()
}

pub fn frames(outputs: &[PipelineOutput]) -> Vec<&EncodedPicture> {
    let mut found = Vec::new();
    for output in outputs {
        if let PipelineOutput::Frame(picture) = output {
            found.push(picture);
        }
    }
    found
}

pub fn audio(outputs: &[PipelineOutput]) -> Vec<&EncodedAudio> {
    let mut found = Vec::new();
    for output in outputs {
        if let PipelineOutput::Audio(audio) = output {
            found.push(audio);
        }
    }
    found
}

/// The one AudioSpecificConfig.
pub fn audio_header(outputs: &[PipelineOutput]) -> Vec<u8> {
    let header = |output: &PipelineOutput| {
        let PipelineOutput::AudioHeader { asc } = output else { return None };
        Some(asc.clone())
    };
    outputs.iter().find_map(header).unwrap()
}

pub fn skipped(outputs: &[PipelineOutput]) -> Vec<(u64, SkipReason)> {
    let skipped = |output: &PipelineOutput| {
        let PipelineOutput::Skipped { source_index, reason } = output else { return None };
        Some((*source_index, *reason))
    };
    outputs.iter().filter_map(skipped).collect()
}

pub fn headers(outputs: &[PipelineOutput], wanted: RungId) -> Vec<Vec<u8>> {
    let header = |output: &PipelineOutput| {
        let PipelineOutput::Header { rung, avcc, .. } = output else { return None };
        (*rung == wanted).then(|| avcc.clone())
    };
    outputs.iter().filter_map(header).collect()
}

/// Indices of all video pictures, in log order.
pub fn video_indices(items: &[Item], from: u64) -> Vec<u64> {
    let indexed = (from..).zip(items);
    indexed
        .filter(|(_, item)| matches!(item.kind, PacketKind::VideoFrame { .. }))
        .map(|(index, _)| index)
        .collect()
}

/// Every video packet is a frame or skipped, exactly once.
pub fn assert_accounted(outputs: &[PipelineOutput], items: &[Item]) {
    let mut seen: Vec<u64> = frames(outputs).iter().map(|frame| frame.source_index).collect();
    seen.extend(skipped(outputs).iter().map(|(index, _)| index));
    seen.sort_unstable();
    assert_eq!(seen, video_indices(items, 100));
}

/// A rung's output as a byte stream.
pub fn byte_stream<'a>(
    avcc: &[u8],
    pictures: impl IntoIterator<Item = &'a EncodedPicture>,
    rung: RungId,
) -> Vec<u8> {
    let mut stream = Vec::new();
    let mut unit = |bytes: &[u8]| {
        stream.extend_from_slice(&[0, 0, 0, 1]);
        stream.extend_from_slice(bytes);
    };
    let sps_length = usize::from(u16::from_be_bytes([avcc[6], avcc[7]]));
    unit(&avcc[8..8 + sps_length]);
    let pps = &avcc[8 + sps_length + 1..];
    unit(&pps[2..2 + usize::from(u16::from_be_bytes([pps[0], pps[1]]))]);
    for picture in pictures {
        for (_, frame) in picture.rungs.iter().filter(|(of, _)| *of == rung) {
            units(&frame.payload).into_iter().for_each(&mut unit);
        }
    }
    stream
}

/// Structural similarity of luma over blocks of 8 × 8 (Wang et al., 2004), mean of all frames.
pub fn ssim(one: &[u8], other: &[u8], width: usize, height: usize) -> f64 {
    assert_eq!(one.len(), other.len());
    let frame_bytes = width * height * 3 / 2;
    let (mut sum, mut count) = (0.0, 0.0);
    for (a, b) in one.chunks(frame_bytes).zip(other.chunks(frame_bytes)) {
        for top in (0..height - 8).step_by(8) {
            for left in (0..width - 8).step_by(8) {
                let (mut sa, mut sb, mut saa, mut sbb, mut sab) = (0.0, 0.0, 0.0, 0.0, 0.0);
                for at in (0..64).map(|n| (top + n / 8) * width + left + n % 8) {
                    let (x, y) = (f64::from(a[at]), f64::from(b[at]));
                    (sa, sb, saa, sbb, sab) =
                        (sa + x, sb + y, saa + x * x, sbb + y * y, sab + x * y);
                }
                let (ma, mb) = (sa / 64.0, sb / 64.0);
                let (va, vb) = (saa / 64.0 - ma * ma, sbb / 64.0 - mb * mb);
                let cross = sab / 64.0 - ma * mb;
                let (c1, c2) = (6.5025, 58.5225);
                sum += (2.0 * ma * mb + c1) * (2.0 * cross + c2)
                    / ((ma * ma + mb * mb + c1) * (va + vb + c2));
                count += 1.0;
            }
        }
    }
    sum / count
}
