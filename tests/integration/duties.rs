//! What an LL-HLS server owes its clients holds through a move and a death of the stream's worker.

use tasuki_tests::chance::Chance;
use tasuki_tests::duties::{self, Watching};
use tasuki_tests::fixture::Recipe;
use tasuki_tests::place::in_run_directory;

#[test]
fn every_duty_is_done_through_a_move_and_a_death() {
    in_run_directory("duties", |run| {
        let mut chance = Chance::new();
        println!("TASUKI_SEED={}", chance.seed());
        let watching = Watching {
            recipe: Recipe { gop: 30, ..Recipe::small(26) },
            target: "3s",
            moves: 1,
            kills: 1,
        };
        let seen = duties::run(run.path(), &watching, &mut chance)?;
        seen.iter().for_each(|seen| println!("{}", seen.summary()));
        anyhow::ensure!(seen.iter().any(|seen| seen.skipped_most > 0), "no delta skipped anything");
        Ok(())
    });
}
