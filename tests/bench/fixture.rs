//! What the harness itself costs, so that no bench of the server hides it.

use anyhow::Result;
use tasuki_shared::clock;
use tasuki_tests::fixture::Recipe;
use tasuki_tests::{frames, named};

pub fn run(arguments: &[String]) -> Result<()> {
    let seconds = named::number(arguments, "seconds", 30)?;
    let recipe = Recipe::full_hd(seconds);
    let before = clock::now();
    let file = recipe.file()?;
    let made = clock::now();
    let decoded = frames::decode(&file)?;
    let read = clock::now();
    println!("{seconds} s of 1080p30: file ready after {:.1} s", (made - before).as_secs_f64());
    println!("{} pictures read in {:.1} s", decoded.pictures.len(), (read - made).as_secs_f64());
    Ok(())
}
