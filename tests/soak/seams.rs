//! What viewers see and hear of many seams.

use anyhow::{Result, ensure};
use tasuki_shared::message::Haste;
use tasuki_tests::chance::Chance;
use tasuki_tests::named;
use tasuki_tests::seam_quality;

use crate::main_path::in_kept_directory;

/// Seconds between two moves, so that each is judged by itself.
const BETWEEN: u32 = 4;
const SECONDS: u32 = 40;

pub fn run(arguments: &[String]) -> Result<()> {
    let wanted = usize::try_from(named::number(arguments, "seams", 60)?)?;
    let mut chance = Chance::new();
    println!("TASUKI_SEED={}", chance.seed());
    let mut found = Vec::new();
    while found.len() < wanted {
        let mut moves = Vec::new();
        for at in (BETWEEN..SECONDS - BETWEEN).step_by(usize::try_from(BETWEEN)?) {
            let haste = if chance.draw().is_multiple_of(2) { Haste::Now } else { Haste::Scheduled };
            moves.push((at, haste));
        }
        let more = in_kept_directory("soak-seams", |run| {
            seam_quality::run(run.path(), seam_quality::LARGE, SECONDS, &moves)
        })?;
        for quality in &more {
            println!("{quality}");
        }
        found.extend(more);
    }
    let worst = |of: fn(&seam_quality::Quality) -> f64| {
        found.iter().map(of).fold(f64::NEG_INFINITY, f64::max)
    };
    println!(
        "{} seams; at worst IDR × {:.2}, bitrate off by {:.1} %, SSIM by {:.4}, sound by {:.1} dB",
        found.len(),
        worst(|q| q.idr),
        100.0 * worst(|q| (q.bitrate - 1.0).abs()),
        worst(|q| q.ssim.abs()),
        worst(|q| q.sound_db)
    );
    let missed = found.iter().filter_map(|quality| quality.check().err()).collect::<Vec<_>>();
    ensure!(missed.is_empty(), "{} seams miss a figure: {missed:?}", missed.len());
    Ok(())
}
