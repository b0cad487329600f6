//! HLS clients of other people at a stream that is moved and whose workers are killed.

use anyhow::Result;
use tasuki_tests::chance::Chance;
use tasuki_tests::clients::{self, Plan};
use tasuki_tests::named;

use crate::main_path::in_kept_directory;

pub fn run(arguments: &[String]) -> Result<()> {
    let mut chance = Chance::new();
    println!("TASUKI_SEED={}", chance.seed());
    let plan = Plan {
        seconds: named::number(arguments, "seconds", 60)?,
        moves: named::number(arguments, "moves", 4)?,
        kills: named::number(arguments, "kills", 3)?,
    };
    let heard =
        in_kept_directory("soak-clients", |run| clients::run(run.path(), plan, &mut chance))?;
    println!("{}", heard.summary());
    println!("through {} moves and {} kills: no client noticed", plan.moves, plan.kills);
    Ok(())
}
