//! A live stream whose worker kills itself at a chosen point, and whose next owner leaves a step of
//! its adoption out; the checks are those of every death.

use crate::dying::Dying;
use crate::fixture::Recipe;
use crate::passage::BOUND;
use crate::server::Setup;
use crate::wait;
use anyhow::{Result, ensure};
use std::path::Path;
use tasuki_shared::failpoint::{Action, Board, Order, Point};

/// Frames that are encoded before the first death, and between one death and the next: what
/// waited for an owner is caught up with by then.
const FRAMES_BEFORE: u64 = 20;
const FRAMES_BETWEEN: usize = 80;

/// Publishes, and lets one worker after the other die at these points; `omission`: what those who
/// adopt the stream leave out. What comes back is still live, and is to be checked.
pub fn kill(
    directory: &Path,
    seconds: u32,
    deaths: &[Point],
    omission: Option<Point>,
) -> Result<Dying> {
    let path = directory.join("board");
    let board = Board::create(&path)?;
    let setup = Setup { workers: Some(1), failpoints: Some(path), ..Setup::default() };
    let recipe = Recipe { b_frames: 2, ..Recipe::small(seconds) };
    let mut dying = Dying::start(directory, &recipe, 1, setup)?;
    let mut owners = Vec::new();
    for (frames, point) in (FRAMES_BEFORE..).step_by(FRAMES_BETWEEN).zip(deaths) {
        let owner = dying.wait_owner(frames, &owners)?;
        if let Some(omission) = omission {
            // Each log and each push leaves it out.
            board.arm(omission, Order { times: 255, ..Order::once(Action::Skip) });
        }
        let before = board.fired(*point);
        board.arm(*point, Order::once(Action::Kill).by(owner.pid));
        wait::until("the worker to be there", BOUND, || {
            Ok((board.fired(*point) > before).then_some(()))
        })?;
        let death = dying.wait_death(&owner.worker)?;
        ensure!(death.cause.contains("SIGKILL"), "{death:?}");
        if let Some(omission) = omission {
            wait::until("something to be left out", BOUND, || {
                Ok((board.fired(omission) > 0).then_some(()))
            })?;
        }
        owners.push(owner);
    }
    Ok(dying)
}

/// What a check found, without the logs that it shows beside it.
#[must_use]
pub fn finding(error: &anyhow::Error) -> String {
    let said = error.chain().map(ToString::to_string);
    let lines: Vec<String> =
        said.filter_map(|text| text.lines().next().map(str::to_owned)).collect();
    lines.join(" ")
}
