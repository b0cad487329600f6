//! Sound, sample by sample: what a rendition of a stream that was moved sounds like beside that of
//! one that was not, both against what was published.
//!
//! The fixture glides, so each sample has one place only. Both renditions must have the same number
//! of samples on the same grid, and in every window of a tenth of a second the moved one must be as
//! near to the source as the other, within 3 dB. A window that is off by a single sample is far off.

use crate::frames::{self, Sound};
use anyhow::{Result, ensure};
use std::fmt;
use std::path::Path;

const WINDOW_SAMPLES: usize = 4800;
const WINDOW_S: f64 = 0.1;
/// How much worse a window may be.
pub const LOSS_DB_MAX: f64 = 3.0;
/// Nobody hears what is beyond it; a window that is better counts as this good.
const GOOD_ENOUGH_DB: f64 = 50.0;
/// How far the beginnings of two files may lie apart.
const LAG_SAMPLES_MAX: usize = 24_000;
const LAG_WINDOW_SAMPLES: usize = 8192;

/// Decoded sound without a gap.
struct Wave(Vec<f64>);

/// What was found.
#[derive(Clone, Debug)]
pub struct Report {
    pub windows: usize,
    /// The worst window of the unmoved rendition.
    pub unmoved_worst_db: f64,
    pub moved_worst_db: f64,
    /// The greatest loss of one window.
    pub loss_db: f64,
}

/// Why the sound of a moved stream is not as it should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    Length {
        unmoved: usize,
        moved: usize,
    },
    /// Where the first sample lies in what was published.
    Grid {
        unmoved: usize,
        moved: usize,
    },
    Loss {
        at_s: f64,
        unmoved_db: f64,
        moved_db: f64,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { unmoved, moved } => {
                write!(f, "sound: {moved} samples, the unmoved stream has {unmoved}")
            }
            Self::Grid { unmoved, moved } => {
                write!(f, "sound: begins at sample {moved}, the unmoved stream at {unmoved}")
            }
            Self::Loss { at_s, unmoved_db, moved_db } => write!(
                f,
                "sound: {moved_db:.1} dB at {at_s:.1} s, the unmoved stream has {unmoved_db:.1} dB"
            ),
        }
    }
}

impl std::error::Error for Fault {}

/// Compares two renditions of the same published file.
pub fn check(published: &Path, unmoved: &Path, moved: &Path) -> Result<Report> {
    let [published, unmoved, moved] = [published, unmoved, moved].map(decode);
    Ok(compare(&published?, &unmoved?, &moved?)?)
}

fn decode(path: &Path) -> Result<Wave> {
    let Sound { pieces, errors } = frames::sound(path)?;
    ensure!(errors.is_empty(), "the audio decoder complains: {errors:?}");
    let samples: Vec<f64> =
        pieces.iter().flat_map(|piece| &piece.samples).map(|sample| f64::from(*sample)).collect();
    ensure!(
        samples.len() > LAG_SAMPLES_MAX + 2 * LAG_WINDOW_SAMPLES,
        "only {} samples in {}",
        samples.len(),
        path.display()
    );
    Ok(Wave(samples))
}

fn compare(published: &Wave, unmoved: &Wave, moved: &Wave) -> Result<Report, Fault> {
    if unmoved.0.len() != moved.0.len() {
        return Err(Fault::Length { unmoved: unmoved.0.len(), moved: moved.0.len() });
    }
    let (lag, of_moved) = (published.lag_of(unmoved), published.lag_of(moved));
    if lag != of_moved {
        return Err(Fault::Grid { unmoved: lag, moved: of_moved });
    }
    let (still, other) = (published.nearness(unmoved, lag), published.nearness(moved, lag));
    let worst = |windows: &[f64]| windows.iter().copied().fold(f64::INFINITY, f64::min);
    let mut report = Report {
        windows: still.len(),
        unmoved_worst_db: worst(&still),
        moved_worst_db: worst(&other),
        loss_db: 0.0,
    };
    let mut fault = None;
    let mut at_s = 0.0;
    for (unmoved_db, moved_db) in still.into_iter().zip(other) {
        let loss = unmoved_db.min(GOOD_ENOUGH_DB) - moved_db.min(GOOD_ENOUGH_DB);
        if loss > report.loss_db {
            report.loss_db = loss;
            fault = Some(Fault::Loss { at_s, unmoved_db, moved_db });
        }
        at_s += WINDOW_S;
    }
    match fault {
        Some(fault) if report.loss_db > LOSS_DB_MAX => Err(fault),
        Some(_) | None => Ok(report),
    }
}

impl Wave {
    /// Where the beginning of `other` lies in this one.
    fn lag_of(&self, other: &Self) -> usize {
        // The very first samples of a stream may be a codec's beginning.
        let from = LAG_WINDOW_SAMPLES;
        let window = &other.0[from..from + LAG_WINDOW_SAMPLES];
        let likeness = |lag: usize| -> f64 {
            let here = self.0.get(lag + from..lag + from + LAG_WINDOW_SAMPLES).unwrap_or(&[]);
            here.iter().zip(window).map(|(a, b)| a * b).sum()
        };
        let best = (0..LAG_SAMPLES_MAX).map(|lag| (lag, likeness(lag)));
        best.max_by(|a, b| a.1.total_cmp(&b.1)).map_or(0, |(lag, _)| lag)
    }

    /// Signal to noise of each whole window of `other`, dB.
    fn nearness(&self, other: &Self, lag: usize) -> Vec<f64> {
        let here = self.0.get(lag..).unwrap_or(&[]);
        let length = here.len().min(other.0.len());
        let windows = here[..length].chunks_exact(WINDOW_SAMPLES);
        let windows = windows.zip(other.0[..length].chunks_exact(WINDOW_SAMPLES));
        let mut found: Vec<f64> = windows
            .map(|(signal, heard)| {
                let power: f64 = signal.iter().map(|s| s * s).sum();
                let noise: f64 = signal.iter().zip(heard).map(|(s, h)| (s - h) * (s - h)).sum();
                10.0 * (power.max(1.0) / noise.max(1.0)).log10()
            })
            .collect();
        // A codec's beginning, and its end.
        found.drain(..found.len().min(2));
        found.pop();
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn glide(samples: u32, noise: f64) -> Wave {
        let value = |n: u32| {
            let t = f64::from(n) / 48_000.0;
            let tone = (std::f64::consts::TAU * (300.0 * t + 60.0 * t * t)).sin() * 9_000.0;
            tone + if n.is_multiple_of(2) { noise } else { -noise }
        };
        Wave((0..samples).map(value).collect())
    }

    fn shifted(wave: &Wave, by: usize) -> Wave {
        Wave(wave.0[by..].to_vec())
    }

    /// Sound on the grid passes; a sample too many, a silence and a shift are found by their names.
    #[test]
    fn a_lost_sample_a_hole_and_a_shift_are_found_and_an_encode_is_not() {
        let published = glide(240_000, 0.0);
        let unmoved = shifted(&glide(240_000, 90.0), 1024);
        let sound = shifted(&glide(240_000, 100.0), 1024);
        let report = compare(&published, &unmoved, &sound).unwrap();
        assert!(report.loss_db < 1.5 && report.unmoved_worst_db > 30.0, "{report:?}");
        let mut short = shifted(&sound, 0);
        short.0.remove(100_000);
        let lengths = Fault::Length { unmoved: 238_976, moved: 238_975 };
        assert_eq!(compare(&published, &unmoved, &short).unwrap_err(), lengths);
        let mut holed = shifted(&sound, 0);
        holed.0[100_000..101_024].fill(0.0);
        let fault = compare(&published, &unmoved, &holed).unwrap_err();
        assert!(matches!(fault, Fault::Loss { moved_db, .. } if moved_db < 10.0), "{fault}");
        let mut slipped = shifted(&sound, 0);
        slipped.0.insert(100_000, 0.0);
        slipped.0.pop();
        let fault = compare(&published, &unmoved, &slipped).unwrap_err();
        assert!(matches!(fault, Fault::Loss { .. }), "{fault}");
        let other_grid = shifted(&glide(241_000, 100.0), 1025);
        let other_grid = Wave(other_grid.0[..238_976].to_vec());
        let fault = compare(&published, &unmoved, &other_grid).unwrap_err();
        assert_eq!(fault, Fault::Grid { unmoved: 1024, moved: 1025 });
    }
}
