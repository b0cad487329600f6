//! How sound is kept over a seam: the same grid of samples, and as near to the source as in an
//! unmoved run.

use crate::flv::{Flv, Kind};
use crate::frames::{self, Sound};
use anyhow::{Context, Result, ensure};
use std::path::Path;

/// Samples of one window in which the noise is measured.
const WINDOW: usize = 9_600;
/// Encoder and resampler move nothing farther than this, in samples, beside whole milliseconds.
const LAG_MAX: i64 = 96;
/// Samples around which the lag is looked for, and how many.
const LAG_AT: usize = 48_000;
const LAG_SAMPLES: usize = 4_800;

/// Decoded sound, beginning at a sample of its own clock.
#[derive(Debug)]
pub struct Track {
    /// Stamps of its packets in the file.
    stamps_ms: Vec<u32>,
    first: i64,
    samples: Vec<i16>,
}

impl Track {
    /// Decodes a file; its pieces must follow each other without hole or overlap.
    pub fn read(path: &Path) -> Result<Self> {
        let sound = frames::sound(path)?;
        ensure!(sound.errors.is_empty(), "the decoder complains: {:?}", sound.errors);
        let first = sound.pieces.first().context("no sound")?.pts_s;
        let rate = f64::from(Sound::RATE_HZ);
        let mut samples = Vec::new();
        for piece in &sound.pieces {
            let due = first + f64::from(u32::try_from(samples.len())?) / rate;
            // Stamps in the file are whole milliseconds.
            ensure!(
                (piece.pts_s - due).abs() < 0.0015,
                "a piece at {} s, due at {due}",
                piece.pts_s
            );
            samples.extend(&piece.samples);
        }
        let stamps_ms = Flv::read(path)?.coded(Kind::Audio).map(|tag| tag.dts_ms).collect();
        #[expect(clippy::cast_possible_truncation, reason = "seconds of a test")]
        let first = (first * rate).round() as i64;
        Ok(Self { stamps_ms, first, samples })
    }

    fn at(&self, sample: i64) -> Option<f64> {
        let index = usize::try_from(sample - self.first).ok()?;
        self.samples.get(index).map(|sample| f64::from(*sample))
    }

    /// How many samples later than in `source` the same is heard.
    fn lag(&self, source: &Self) -> i64 {
        let near = |lag: &i64| -> f64 {
            (LAG_AT..LAG_AT + LAG_SAMPLES)
                .filter_map(|at| {
                    let at = i64::try_from(at).ok()?;
                    Some((source.at(at)? - self.at(at + lag)?).powi(2))
                })
                .sum()
        };
        let lags = -LAG_MAX..=LAG_MAX;
        lags.min_by(|a, b| near(a).total_cmp(&near(b))).unwrap_or(0)
    }

    /// Signal to noise against `source`, dB, in the window that begins with this sample.
    fn snr_db(&self, source: &Self, lag: i64, from: i64) -> Option<f64> {
        let (mut signal, mut noise) = (0.0, 1.0);
        for at in (from..).take(WINDOW) {
            let (wanted, found) = (source.at(at)?, self.at(at + lag)?);
            signal += wanted.powi(2);
            noise += (wanted - found).powi(2);
        }
        Some(10.0 * (signal / noise).log10())
    }
}

/// The same packets at the same times in both runs.
pub fn check_grid(moved: &Track, unmoved: &Track) -> Result<()> {
    ensure!(moved.samples.len() == unmoved.samples.len(), "another number of samples");
    let differs = moved.stamps_ms.iter().zip(&unmoved.stamps_ms).position(|(a, b)| a != b);
    ensure!(differs.is_none(), "packet {differs:?} has another time than in the unmoved run");
    ensure!(moved.stamps_ms.len() == unmoved.stamps_ms.len(), "another number of packets");
    Ok(())
}

/// By how many dB the moved run is worse at its worst, in the windows from a fifth of a second
/// before `seam_s` to a second after it.
pub fn worse_db(moved: &Track, unmoved: &Track, source: &Track, seam_s: f64) -> Result<f64> {
    let lag = unmoved.lag(source);
    #[expect(clippy::cast_possible_truncation, reason = "seconds of a test")]
    let seam = (seam_s * f64::from(Sound::RATE_HZ)) as i64;
    let mut worst = f64::NEG_INFINITY;
    let step = i64::try_from(WINDOW)?;
    for window in -1..5_i64 {
        let from = seam + window * step;
        let moved = moved.snr_db(source, lag, from).context("no sound at the seam")?;
        let unmoved = unmoved.snr_db(source, lag, from).context("no sound at the seam")?;
        worst = worst.max(unmoved - moved);
    }
    Ok(worst)
}
