//! The duties of an LL-HLS server for a minute, through moves and kills.

use anyhow::Result;
use tasuki_tests::chance::Chance;
use tasuki_tests::duties::{self, Watching};
use tasuki_tests::fixture::Recipe;
use tasuki_tests::named;

use crate::main_path::in_kept_directory;

pub fn run(arguments: &[String]) -> Result<()> {
    let mut chance = Chance::new();
    println!("TASUKI_SEED={}", chance.seed());
    let watching = Watching {
        recipe: Recipe { gop: 30, ..Recipe::small(named::number(arguments, "seconds", 64)?) },
        target: "3s",
        moves: named::number(arguments, "moves", 6)?,
        kills: named::number(arguments, "kills", 4)?,
    };
    let seen =
        in_kept_directory("soak-duties", |run| duties::run(run.path(), &watching, &mut chance))?;
    for (seen, label) in seen.iter().zip(["source", "72p"]) {
        println!("{label}: {}", seen.summary());
    }
    println!("through {} moves and {} kills: no duty neglected", watching.moves, watching.kills);
    Ok(())
}
