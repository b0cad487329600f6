//! Workers that die at every point of their work: nothing is lost, nothing is repeated, nobody is
//! disconnected. Each once; `./dev soak kills` and `./dev soak failpoints` do it many times.

use anyhow::{Result, ensure};
use tasuki_shared::failpoint::{Action, Point};
use tasuki_tests::kills::{self, Death, Scene, Way};
use tasuki_tests::place::in_run_directory;

fn survived(label: &'static str, seconds: u32, deaths: &[Death]) {
    in_run_directory(label, |run| -> Result<()> {
        let tally = kills::run(run.path(), &Scene::small(seconds), deaths, 1, |_| {})?;
        for (name, made) in &tally.made {
            println!("{made} × {name}");
        }
        let made: u32 = tally.made.values().sum();
        ensure!(made == u32::try_from(deaths.len())?, "{made} of {}", deaths.len());
        ensure!(tally.recoveries > made, "{} recoveries", tally.recoveries);
        Ok(())
    });
}

/// SIGKILL at each point that a worker passes, and at random moments.
#[test]
fn a_worker_killed_at_its_work_costs_nothing() {
    let mut deaths: Vec<Death> = killed(|way| !is_change(way)).collect();
    deaths.extend([Death::OUTSIDE; 3]);
    survived("kills-at-work", 80, &deaths);
}

#[test]
fn a_worker_killed_while_streams_change_hands_costs_nothing() {
    survived("kills-changing", 80, &killed(is_change).collect::<Vec<_>>());
}

fn killed(wanted: impl Fn(Way) -> bool) -> impl Iterator<Item = Death> {
    kills::everywhere(Action::Kill).filter(move |death| wanted(death.way))
}

fn is_change(way: Way) -> bool {
    match way {
        Way::Adopting | Way::Moving => true,
        Way::Outside | Way::Streaming | Way::Beginning | Way::Dialling => false,
    }
}

/// A worker that hangs is ended in time, and one that aborts is gone: around a commit, a write to
/// the origin, an adoption and a release.
#[test]
fn a_worker_that_aborts_or_hangs_costs_nothing() {
    let points = [
        Point::MidChunk,
        Point::CommitStaged,
        Point::PushWrote,
        Point::AdoptTaken,
        Point::ReleaseStored,
    ];
    let of = |action| kills::everywhere(action);
    let picked = of(Action::Abort).chain(of(Action::Hang));
    let picked = picked.filter(|death| death.point.is_some_and(|point| points.contains(&point)));
    survived("kills-hangs", 40, &picked.collect::<Vec<_>>());
}
