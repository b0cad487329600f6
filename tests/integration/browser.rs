//! In a real Chromium the player plays on while the stream is moved, its worker dies and delivery dies.

use tasuki_tests::browser;
use tasuki_tests::chance::Chance;
use tasuki_tests::child;
use tasuki_tests::place::in_run_directory;
use tasuki_tests::playback::{self, Plan};

#[test]
fn a_viewer_sees_no_move_and_little_of_a_death() {
    if !child::installed(browser::PROGRAM) {
        eprintln!("no {} here: this proves nothing", browser::PROGRAM);
        return;
    }
    in_run_directory("browser", |run| {
        let mut chance = Chance::new();
        println!("TASUKI_SEED={}", chance.seed());
        let plan = Plan { moves: 4, kills: 2, deliveries: 1, ..Plan::default() };
        let watched = playback::run(run.path(), plan, &mut chance)?;
        println!("{}", watched.summary());
        watched.check()
    });
}
