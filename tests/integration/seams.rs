//! What viewers see and hear of a seam.

use tasuki_shared::message::Haste;
use tasuki_tests::place::in_run_directory;
use tasuki_tests::seam_quality;

/// In the two seconds after each seam picture, bitrate and sound are as in a run that was not
/// moved, and the seam's IDR is no larger than others.
#[test]
fn a_seam_is_neither_seen_nor_heard() {
    in_run_directory("seams", |run| {
        let moves = [(4, Haste::Now), (7, Haste::Scheduled), (11, Haste::Now)];
        let found = seam_quality::run(run.path(), seam_quality::SMALL, 17, &moves)?;
        for quality in &found {
            println!("{quality}");
        }
        found.iter().try_for_each(seam_quality::Quality::check)
    });
}
