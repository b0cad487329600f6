//! Workers that leak for twenty minutes under live streams, with a plot and a table.

use crate::main_path::in_kept_directory;
use anyhow::{Context, Result};
use std::fs;
use tasuki_shared::clock;
use tasuki_tests::leaking::{self, Case, Leaked, Leaking};
use tasuki_tests::lives::Mix;
use tasuki_tests::named;
use tasuki_tests::place;
use tasuki_tests::plot;
use tasuki_tests::rotations;

const MIB: u64 = 1 << 20;

pub fn run(arguments: &[String]) -> Result<()> {
    let leaking = Leaking {
        seconds: named::number(arguments, "minutes", 20)? * 60,
        bytes_per_minute: u64::from(named::number(arguments, "rate-mib-per-minute", 20)?) * MIB,
        mix: Mix::of(named::number(arguments, "streams", 8)?),
    };
    let bounds = leaking.bounds();
    println!(
        "soft limit {} MiB, hard limit {} MiB, all processes of a server together {} MiB",
        bounds.soft / MIB,
        bounds.hard / MIB,
        bounds.total / MIB
    );
    println!("beside the server that recycles: one with the same leak that does not and has no");
    println!("streams, one that frees lazily, one whose worker takes a step and rests");
    let results = place::target_directory()?.join(format!("soak/leak-{}", clock::unix_ms() / 1000));
    fs::create_dir_all(&results)?;
    let leaked = in_kept_directory("soak-leak", |run| {
        leaking::run(run.path(), &leaking, |stories| {
            let table = plot::table(stories, &bounds);
            fs::write(results.join("leak.txt"), &table)?;
            plot::draw(&results.join("leak.png"), stories, &bounds)?;
            print!("{table}");
            println!("leak.txt and leak.png are in {}", results.display());
            Ok(())
        })
    })?;
    show(&leaking, &leaked)
}

fn show(leaking: &Leaking, leaked: &Leaked) -> Result<()> {
    let of = |case| leaked.stories.iter().find(|story| story.case == case).context("all were run");
    let (recycling, unbounded) = (of(Case::Recycling)?, of(Case::Unbounded)?);
    let bound = leaking.bounds().total / MIB;
    println!(
        "at each of {} looks the footprint of all processes was under the bound of {bound} MiB: at \
         most {} MiB; without recycling it was {} MiB",
        recycling.looks.len(),
        recycling.total_max() / MIB,
        unbounded.total_max() / MIB
    );
    println!(
        "{} workers were recycled for their memory, each with its evidence saved; a worker needs {} \
         MiB without its leak, so at least {} were demanded",
        recycling.memory_recycles().count(),
        leaked.needs_bytes / MIB,
        leaked.recycles_min
    );
    let moves = recycling.recycles.iter().flat_map(|recycle| &recycle.moves);
    println!("{}", rotations::pauses(moves));
    println!(
        "{} streams: no publisher lost, no second connection at the origin, {} pictures each exactly \
         once and in order",
        leaking.mix.streams(),
        recycling.pictures
    );
    println!("the same growth as LazyFree: no recycle; a step that rests below the limit: none");
    Ok(())
}
