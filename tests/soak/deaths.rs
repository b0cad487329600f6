//! Deaths at full counts.

use anyhow::{Result, ensure};
use tasuki_shared::failpoint::{Action, Point};
use tasuki_tests::kills::{self, Death, Scene, Tally};
use tasuki_tests::{dying, named};

use crate::handoff_faults::needs_failpoints;
use crate::main_path::in_kept_directory;

/// Healthy workers killed by hand, over and over: nobody is blamed and nothing is lost.
pub fn run_by_hand(arguments: &[String]) -> Result<()> {
    let wanted = usize::try_from(named::number(arguments, "kills", 100)?)?;
    let streams = named::number(arguments, "streams", 4)?;
    let (mut done, mut round) = (0, 0);
    while done < wanted {
        let killed = in_kept_directory("soak-deaths", |run| {
            dying::kill_by_hand(run.path(), streams, 120, wanted - done)
        })?;
        ensure!(killed > 0, "nothing could be killed");
        done += killed;
        round += 1;
        println!("round {round}: {done} of {wanted} kills");
    }
    Ok(())
}

/// Phases in which a worker must have died so often.
const PHASES: &[Point] = &[
    Point::Handshake,
    Point::Connect,
    Point::PublishAsked,
    Point::BetweenMessages,
    Point::MidChunk,
    Point::PartialMessage,
    Point::AdoptTaken,
    Point::AdoptReconciled,
    Point::PrepareReady,
    Point::ReleaseCommitted,
    Point::ReleaseStored,
];
/// Servers beside each other.
const LANES: u32 = 3;
/// Of a small stream, and of a large one.
const SECONDS: u32 = 180;
const LARGE_SECONDS: u32 = 90;

/// Workers killed at random moments and in each phase, until so many streams were recovered.
pub fn run_kills(arguments: &[String]) -> Result<()> {
    needs_failpoints()?;
    let wanted = named::number(arguments, "recoveries", 2000)?;
    let each = usize::try_from(named::number(arguments, "each", 50)?)?;
    let large = usize::try_from(named::number(arguments, "large", 50)?)?;
    let lanes = usize::try_from(named::number(arguments, "lanes", LANES)?)?;
    let kill = |point: &Point| kills::everywhere(Action::Kill).find(|d| d.point == Some(*point));
    let mut deaths = Vec::new();
    for _ in 0..each {
        deaths.extend(PHASES.iter().filter_map(kill));
        deaths.push(Death::OUTSIDE);
    }
    let mut tally = under("soak-kills", &Scene::small(SECONDS), &deaths, lanes)?;
    while tally.recoveries < wanted {
        let more = vec![Death::OUTSIDE; 50];
        tally.add(under("soak-kills", &Scene::small(SECONDS), &more, lanes)?);
    }
    if large > 0 {
        let deaths = vec![Death::OUTSIDE; large];
        tally.add(under("soak-kills-large", &Scene::full_hd(LARGE_SECONDS), &deaths, 1)?);
    }
    show(&tally);
    for point in PHASES {
        let fired = tally.hits.fired(*point);
        ensure!(fired >= each as u64, "{} fired {fired} times, not {each}", point.name());
    }
    Ok(())
}

/// Every point of a worker, in each way to die.
pub fn run_points(arguments: &[String]) -> Result<()> {
    needs_failpoints()?;
    let times = usize::try_from(named::number(arguments, "times", 20)?)?;
    let lanes = usize::try_from(named::number(arguments, "lanes", LANES)?)?;
    let all = [("kill", Action::Kill), ("abort", Action::Abort), ("hang", Action::Hang)];
    let only = named::text(arguments, "only")?;
    ensure!(
        only.is_none_or(|only| all.iter().any(|(name, _)| *name == only)),
        "--only kill, abort or hang"
    );
    let mut tally = Tally::default();
    for (_, action) in all.into_iter().filter(|(name, _)| only.is_none_or(|only| only == *name)) {
        let all: Vec<Death> = (0..times).flat_map(|_| kills::everywhere(action)).collect();
        tally.add(under("soak-points", &Scene::small(SECONDS), &all, lanes)?);
    }
    show(&tally);
    Ok(())
}

fn under(label: &str, scene: &Scene, deaths: &[Death], lanes: usize) -> Result<Tally> {
    in_kept_directory(label, |run| {
        kills::run(run.path(), scene, deaths, lanes, |part| {
            let made: u32 = part.made.values().sum();
            println!("{label}: {made} more, {} recoveries, nothing lost", part.recoveries);
        })
    })
}

fn show(tally: &Tally) {
    for (name, made) in &tally.made {
        println!("  {made:>4} {name}");
    }
    println!("{}", tally.hits);
    println!(
        "{} deaths, {} recoveries of {} streams: no publisher lost, nothing lost or repeated",
        tally.deaths, tally.recoveries, tally.streams
    );
}
