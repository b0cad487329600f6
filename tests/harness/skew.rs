//! A/V skew, measured on what is seen and heard.
//!
//! The fixture sounds a tone burst at each full second of its own time, and each picture's
//! number says which moment of that time it shows. For each burst found in the decoded sound,
//! the picture whose timestamp is nearest says what the source's time was on screen; the
//! distance to the full second is the skew. Positive: the sound is late. Timestamps of FLV are
//! whole milliseconds, so a sound file measures within 2 ms of zero; half a frame (16 ms at
//! 30 fps) is far outside. Skew of more than half a second is seen as its rest to the nearest
//! second.

use crate::fixture;
use crate::frames::{self, Picture, Sound};
use anyhow::{Context, Result, ensure};
use std::path::Path;

/// A burst begins where the level passes half its peak; this is the window of the level.
const WINDOW_S: f64 = 0.002;
/// Bursts quieter than this are noise.
const PEAK_MIN: i32 = 2000;
/// Two bursts cannot be nearer than this.
const BURST_GAP_S: f64 = 0.5;

/// The skew of every burst, in the order of time.
#[derive(Clone, Debug)]
pub struct Skew {
    pub bursts_ms: Vec<f64>,
}

impl Skew {
    /// The middle one: what a viewer notices.
    #[must_use]
    pub fn median_ms(&self) -> f64 {
        let mut sorted = self.bursts_ms.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// The one farthest from zero.
    #[must_use]
    pub fn worst_ms(&self) -> f64 {
        self.bursts_ms
            .iter()
            .copied()
            .max_by(|a, b| a.abs().total_cmp(&b.abs()))
            .unwrap_or(f64::NAN)
    }

    /// Every burst must be nearer than `limit_ms`.
    pub fn check_under(&self, limit_ms: f64) -> Result<()> {
        let worst = self.worst_ms();
        ensure!(worst.abs() < limit_ms, "A/V skew of {worst:.1} ms, the limit is {limit_ms:.1} ms");
        Ok(())
    }
}

/// Decodes and measures a file made from a fixture of `fps`.
pub fn of_file(path: &Path, fps: u32) -> Result<Skew> {
    let decoded = frames::decode(path)?;
    of_decoded(&decoded.pictures, &frames::sound(path)?, fps)
}

/// Measures what was decoded already.
pub fn of_decoded(pictures: &[Picture], sound: &Sound, fps: u32) -> Result<Skew> {
    let numbered: Vec<(f64, f64)> = pictures
        .iter()
        .filter_map(|picture| Some((picture.pts_s, f64::from(picture.number?) / f64::from(fps))))
        .collect();
    ensure!(!numbered.is_empty(), "no picture carries a number");
    let first = numbered.iter().map(|(pts_s, _)| *pts_s).fold(f64::INFINITY, f64::min);
    let last = numbered.iter().map(|(pts_s, _)| *pts_s).fold(f64::NEG_INFINITY, f64::max);
    let mut bursts_ms = Vec::new();
    for heard_s in bursts(sound)? {
        if heard_s < first || heard_s > last {
            continue;
        }
        let (pts_s, source_s) = numbered
            .iter()
            .min_by(|a, b| (a.0 - heard_s).abs().total_cmp(&(b.0 - heard_s).abs()))
            .context("numbered is not empty")?;
        let on_screen_s = source_s + (heard_s - pts_s);
        bursts_ms.push((on_screen_s - on_screen_s.round()) * 1000.0);
    }
    ensure!(!bursts_ms.is_empty(), "no tone burst while there is a picture");
    Ok(Skew { bursts_ms })
}

/// Times at which a burst begins.
fn bursts(sound: &Sound) -> Result<Vec<f64>> {
    let levels = levels(sound);
    let peak = levels.iter().map(|(_, level)| *level).max().unwrap_or(0);
    ensure!(peak >= PEAK_MIN, "no tone: the loudest sample is {peak}");
    let mut found: Vec<f64> = Vec::new();
    let mut loud: Option<(f64, f64)> = None;
    let mut runs: Vec<(f64, f64)> = Vec::new();
    for (at_s, level) in levels {
        loud = match (loud, level * 2 >= peak) {
            (None, true) => Some((at_s, at_s + WINDOW_S)),
            (Some((start_s, _)), true) => Some((start_s, at_s + WINDOW_S)),
            (Some(run), false) => {
                runs.push(run);
                None
            }
            (None, false) => None,
        };
    }
    // The codec smears both edges alike: the middle is steadier than the beginning.
    for (start_s, end_s) in runs {
        let begin_s = start_s.midpoint(end_s) - fixture::BURST_S / 2.0;
        if found.last().is_none_or(|last| begin_s - last > BURST_GAP_S) {
            found.push(begin_s);
        }
    }
    Ok(found)
}

/// Peak of each window, with the window's time.
fn levels(sound: &Sound) -> Vec<(f64, i32)> {
    let rate = f64::from(Sound::RATE_HZ);
    let window: usize = 96;
    let mut levels = Vec::new();
    for piece in &sound.pieces {
        let mut at_s = piece.pts_s;
        for chunk in piece.samples.chunks(window) {
            let level = chunk.iter().map(|sample| i32::from(*sample).abs()).max().unwrap_or(0);
            levels.push((at_s, level));
            at_s += f64::from(u32::try_from(chunk.len()).unwrap_or(0)) / rate;
        }
    }
    levels
}
