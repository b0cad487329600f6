//! Decoding with the distribution's ffmpeg, and reading the frame numbers from the pictures.

use crate::picture::{self, Band, Layout};
use anyhow::{Context, Result, bail, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

/// How many frames or ranges a report spells out.
const REPORT_ITEMS_MAX: usize = 12;

/// A decoded picture: its time in the file and the number burnt into it, if readable.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Picture {
    pub pts_s: f64,
    pub number: Option<u32>,
}

/// Everything a decode of the video gave.
#[derive(Clone, Debug)]
pub struct Decoded {
    /// In presentation order.
    pub pictures: Vec<Picture>,
    /// Lines that ffmpeg logs as errors. A sound file gives none.
    pub errors: Vec<String>,
}

impl Decoded {
    #[must_use]
    pub fn numbers(&self) -> Vec<Option<u32>> {
        self.pictures.iter().map(|picture| picture.number).collect()
    }
}

/// What ffprobe says about a file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Streams {
    pub video_codec: String,
    pub width: usize,
    pub height: usize,
    /// As the container claims; count frames for the truth.
    pub fps: f64,
    pub audio_codec: String,
}

/// Asks ffprobe for codecs and size; empty strings and zeros where there is no such stream.
pub fn streams(path: &Path) -> Result<Streams> {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-of", "json", "-show_entries"])
        .arg("stream=codec_type,codec_name,width,height,avg_frame_rate")
        .arg(path)
        .stdin(Stdio::null())
        .output()
        .context("running ffprobe")?;
    ensure!(
        output.status.success(),
        "ffprobe refuses {}: {}",
        path.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let mut found = Streams::default();
    for stream in report["streams"].as_array().into_iter().flatten() {
        let codec = stream["codec_name"].as_str().unwrap_or("unknown").to_owned();
        match stream["codec_type"].as_str() {
            Some("video") => {
                found.video_codec = codec;
                found.width = usize::try_from(stream["width"].as_u64().unwrap_or(0))?;
                found.height = usize::try_from(stream["height"].as_u64().unwrap_or(0))?;
                found.fps = fraction(stream["avg_frame_rate"].as_str().unwrap_or("0"));
            }
            Some("audio") => found.audio_codec = codec,
            Some(_) | None => {}
        }
    }
    Ok(found)
}

/// Decodes the video of any file that ffmpeg reads.
pub fn decode(path: &Path) -> Result<Decoded> {
    decode_band(path, Band::Top)
}

/// Decodes, and reads the numbers of one band.
pub fn decode_band(path: &Path, band: Band) -> Result<Decoded> {
    let source = streams(path)?;
    if source.width == 0 {
        bail!("{} has no video", path.display());
    }
    let layout = Layout::new(source.width, source.height).for_reading();
    let filter = format!(
        "scale={}:{}:flags=area,format=gray,showinfo=checksum=0",
        layout.width, layout.height
    );
    let mut arguments = vec!["-map", "0:v:0", "-vf", filter.as_str(), "-fps_mode", "passthrough"];
    // In the file's own units: in those of its frame rate two pictures may fall on one tick, and
    // ffmpeg would log that as an error.
    arguments.extend(["-enc_time_base", "-1", "-f", "rawvideo"]);
    let mut numbers = Vec::new();
    let shown = run_ffmpeg(path, &arguments, |stdout| {
        let mut frame = vec![0; layout.width * layout.height];
        while read_whole(stdout, &mut frame)? {
            numbers.push(picture::read(&frame, layout, band));
        }
        Ok(())
    })?;
    ensure!(
        shown.pts_s.len() == numbers.len(),
        "{} times for {} pictures of {}",
        shown.pts_s.len(),
        numbers.len(),
        path.display()
    );
    let pictures = shown.pts_s.into_iter().zip(numbers);
    let pictures = pictures.map(|(pts_s, number)| Picture { pts_s, number }).collect();
    Ok(Decoded { pictures, errors: shown.errors })
}

/// Decoded sound: one channel at a fixed rate, in pieces that know their time in the file.
#[derive(Clone, Debug)]
pub struct Sound {
    pub pieces: Vec<Piece>,
    pub errors: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct Piece {
    pub pts_s: f64,
    pub samples: Vec<i16>,
}

impl Sound {
    pub const RATE_HZ: u32 = 48_000;
}

/// Decodes the audio of any file that ffmpeg reads.
pub fn sound(path: &Path) -> Result<Sound> {
    let filter = format!("aresample={},aformat=s16:channel_layouts=mono,ashowinfo", Sound::RATE_HZ);
    let arguments = ["-map", "0:a:0", "-af", filter.as_str(), "-f", "s16le"];
    let mut bytes = Vec::new();
    let shown = run_ffmpeg(path, &arguments, |stdout| {
        stdout.read_to_end(&mut bytes)?;
        Ok(())
    })?;
    let samples: Vec<i16> =
        bytes.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect();
    let mut rest = samples.as_slice();
    let mut pieces = Vec::new();
    for (pts_s, count) in shown.pts_s.iter().zip(&shown.samples) {
        let (samples, after) = rest.split_at_checked(*count).context("fewer samples than shown")?;
        pieces.push(Piece { pts_s: *pts_s, samples: samples.to_vec() });
        rest = after;
    }
    ensure!(rest.is_empty(), "{} samples without a time", rest.len());
    Ok(Sound { pieces, errors: shown.errors })
}

/// What the showinfo filters and the log said.
#[derive(Default)]
struct Shown {
    pts_s: Vec<f64>,
    samples: Vec<usize>,
    errors: Vec<String>,
}

fn run_ffmpeg(
    path: &Path,
    arguments: &[&str],
    mut take: impl FnMut(&mut dyn Read) -> Result<()>,
) -> Result<Shown> {
    let mut process = Command::new("ffmpeg")
        .args(["-nostdin", "-hide_banner", "-nostats", "-loglevel", "level+info", "-copyts", "-i"])
        .arg(path)
        .args(arguments)
        .arg("pipe:1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting ffmpeg")?;
    let stderr = process.stderr.take().context("stderr is piped")?;
    let log = thread::spawn(move || read_log(BufReader::new(stderr)));
    let mut stdout = process.stdout.take().context("stdout is piped")?;
    let taken = take(&mut stdout);
    drop(stdout);
    let status = process.wait()?;
    let shown = log.join().map_err(|_| anyhow::anyhow!("reading ffmpeg's log panicked"))?;
    taken?;
    ensure!(
        status.success(),
        "ffmpeg cannot decode {}: {}",
        path.display(),
        shown.errors.join("; ")
    );
    Ok(shown)
}

fn read_log(log: impl BufRead) -> Shown {
    let mut shown = Shown::default();
    for line in log.split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        if line.contains("[error]") || line.contains("[fatal]") || line.contains("[panic]") {
            shown.errors.push(line.into_owned());
        } else if line.contains("showinfo") && line.contains(" n:") {
            shown.pts_s.push(after(&line, "pts_time:").unwrap_or(f64::NAN));
            if let Some(count) = word_after(&line, "nb_samples:").and_then(|w| w.parse().ok()) {
                shown.samples.push(count);
            }
        }
    }
    shown
}

fn after(line: &str, label: &str) -> Option<f64> {
    word_after(line, label)?.parse().ok()
}

fn word_after<'a>(line: &'a str, label: &str) -> Option<&'a str> {
    line.split_once(label)?.1.split_whitespace().next()
}

fn fraction(text: &str) -> f64 {
    let (over, under) = text.split_once('/').unwrap_or((text, "1"));
    let (over, under): (f64, f64) = (over.parse().unwrap_or(0.0), under.parse().unwrap_or(1.0));
    if under == 0.0 { 0.0 } else { over / under }
}

/// Fills `frame`, or says that the stream has ended; a torn frame is an error.
pub fn read_whole(from: &mut (impl Read + ?Sized), frame: &mut [u8]) -> Result<bool> {
    let mut filled = 0;
    while filled < frame.len() {
        match from.read(&mut frame[filled..])? {
            0 if filled == 0 => return Ok(false),
            0 => bail!("the stream ended {filled} bytes into a frame of {}", frame.len()),
            more => filled += more,
        }
    }
    Ok(true)
}

/// How a sequence of numbers differs from each of a range exactly once, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    pub missing: Vec<u32>,
    /// Number and how often it came.
    pub repeated: Vec<(u32, usize)>,
    /// Numbers that came after a higher one.
    pub out_of_order: Vec<u32>,
    /// Numbers outside the range.
    pub foreign: Vec<u32>,
    /// Positions in the sequence whose picture has no readable number.
    pub unreadable: Vec<u32>,
    pub pictures: usize,
}

/// Checks that `numbers` are `first..=last`, each exactly once, in order.
pub fn check_exactly_once_in_order(
    numbers: &[Option<u32>],
    range: std::ops::RangeInclusive<u32>,
) -> Result<(), Box<Difference>> {
    let mut difference = Difference { pictures: numbers.len(), ..Difference::default() };
    let mut seen: BTreeMap<u32, usize> = BTreeMap::new();
    let mut highest: Option<u32> = None;
    for (position, number) in numbers.iter().enumerate() {
        let Some(number) = *number else {
            difference.unreadable.push(u32::try_from(position).unwrap_or(u32::MAX));
            continue;
        };
        if highest.is_some_and(|highest| number < highest) {
            difference.out_of_order.push(number);
        }
        highest = highest.max(Some(number));
        *seen.entry(number).or_default() += 1;
    }
    let present: BTreeSet<u32> = seen.keys().copied().collect();
    difference.missing = range.clone().filter(|number| !present.contains(number)).collect();
    difference.foreign = present.iter().copied().filter(|number| !range.contains(number)).collect();
    difference.repeated = seen.into_iter().filter(|(_, times)| *times > 1).collect();
    let clean = Difference { pictures: difference.pictures, ..Difference::default() };
    if difference == clean { Ok(()) } else { Err(Box::new(difference)) }
}

impl std::error::Error for Difference {}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} pictures", self.pictures)?;
        let parts = [
            ("frames missing", &self.missing),
            ("frames out of order", &self.out_of_order),
            ("foreign numbers", &self.foreign),
            ("unreadable pictures at", &self.unreadable),
        ];
        for (what, numbers) in parts {
            if !numbers.is_empty() {
                write!(f, "; {} {what}: {}", numbers.len(), ranges(numbers))?;
            }
        }
        if !self.repeated.is_empty() {
            let list: Vec<String> = self
                .repeated
                .iter()
                .take(REPORT_ITEMS_MAX)
                .map(|(number, times)| format!("{number} ({times} times)"))
                .collect();
            write!(f, "; {} frames repeated: {}", self.repeated.len(), list.join(", "))?;
        }
        Ok(())
    }
}

/// `1-3, 7, 9-…` of a rising list.
fn ranges(numbers: &[u32]) -> String {
    let mut parts: Vec<String> = Vec::new();
    let runs = numbers.chunk_by(|before, after| before.checked_add(1) == Some(*after));
    for run in runs {
        if parts.len() == REPORT_ITEMS_MAX {
            parts.push("…".to_owned());
            break;
        }
        parts.push(match run {
            [first, .., last] => format!("{first}-{last}"),
            [only] => only.to_string(),
            [] => String::new(),
        });
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_names_each_kind_of_fault() {
        let numbers = [1, 2, 2, 5, 4, 9].map(Some);
        let mut numbers = numbers.to_vec();
        numbers.push(None);
        let difference = check_exactly_once_in_order(&numbers, 1..=6).unwrap_err();
        assert_eq!(difference.missing, [3, 6]);
        assert_eq!(difference.repeated, [(2, 2)]);
        assert_eq!(difference.out_of_order, [4]);
        assert_eq!(difference.foreign, [9]);
        assert_eq!(difference.unreadable, [6]);
        let text = difference.to_string();
        assert!(text.contains("2 frames missing: 3, 6"), "{text}");
    }

    #[test]
    fn a_clean_sequence_passes_and_an_empty_one_does_not() {
        let numbers: Vec<Option<u32>> = (7..=90).map(Some).collect();
        assert_eq!(check_exactly_once_in_order(&numbers, 7..=90), Ok(()));
        assert!(check_exactly_once_in_order(&[], 0..=0).is_err());
    }
}
