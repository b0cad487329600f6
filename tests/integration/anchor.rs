//! Moves of streams whose log lacks the keyframe that the next owner needs.

use anyhow::{Context, Result, ensure};
use std::path::Path;
use tasuki_shared::message::Haste;
use tasuki_shared::status::{Reply, Request};
use tasuki_tests::anchorless::{Anchorless, FPS, NAME, SMALL};
use tasuki_tests::flv::{Flv, check_payloads_identical};
use tasuki_tests::frames::{self, check_exactly_once_in_order};
use tasuki_tests::place::in_run_directory;

const SECONDS: u32 = 16;
/// Ten seconds: longer than the log and than an attempt.
const GOP: u32 = 10 * FPS;
/// Beyond the end.
const NEVER: u32 = 100 * FPS;
const FRAMES: u32 = SECONDS * FPS;

fn numbers(stage: &Anchorless, rung: &str) -> Result<Vec<Option<u32>>> {
    let decoded = frames::decode(&stage.origin.recording(&format!("{NAME}_{rung}"))?)?;
    ensure!(decoded.errors.is_empty(), "{:?}", decoded.errors);
    Ok(decoded.numbers())
}

/// The source is untouched, whatever became of the encoded rung.
fn check_source(stage: &Anchorless) -> Result<()> {
    check_exactly_once_in_order(&numbers(stage, "source")?, 0..=FRAMES - 1)?;
    let recorded = Flv::read(&stage.origin.recording(&format!("{NAME}_source"))?)?;
    check_payloads_identical(&stage.sent, &recorded)
}

fn waits(run: &Path, haste: Haste) -> Result<()> {
    let mut stage = Anchorless::start(run, SECONDS, GOP)?;
    let slot = stage.slot()?;
    stage.rotate(&slot, haste)?;
    stage.wait_recycle(&slot, "waiting for a keyframe")?;
    let done = stage.wait_recycle(&slot, "done")?;
    let moved = done.moves.first().context("a move")?;
    ensure!(moved.outcome == "done" && moved.frames_lost == 0, "{done:?}");
    let last = stage.finish(|session| session.frames_out == u64::from(FRAMES))?;
    ensure!(last.frames_lost == 0 && last.frames_in == u64::from(FRAMES), "{last:?}");
    check_source(&stage)?;
    check_exactly_once_in_order(&numbers(&stage, SMALL)?, 0..=FRAMES - 1)?;
    ensure!(stage.server.log().contains("no anchor"), "the attempt has no name");
    stage.server.stop()
}

/// An urgent move without an anchor waits for the source's next keyframe, and loses nothing.
#[test]
fn an_urgent_move_waits_for_a_keyframe_where_the_log_has_none() {
    in_run_directory("anchor-now", |run| waits(run.path(), Haste::Now));
}

#[test]
fn a_scheduled_move_waits_for_a_keyframe_where_the_log_has_none() {
    in_run_directory("anchor-scheduled", |run| waits(run.path(), Haste::Scheduled));
}

/// At any price it moves at once; the pictures up to the source's next keyframe are missing and
/// counted to the last one, everywhere. The negative control: the check that passes above fails.
#[test]
fn a_forced_move_without_an_anchor_loses_what_it_counts() {
    in_run_directory("anchor-forced", |run| {
        let mut stage = Anchorless::start(run.path(), SECONDS, GOP)?;
        let slot = stage.slot()?;
        stage.rotate(&slot, Haste::AtAnyPrice)?;
        let done = stage.wait_recycle(&slot, "done")?;
        ensure!(done.moves.first().is_some_and(|moved| moved.outcome == "done"), "{done:?}");
        let all = u64::from(FRAMES);
        let last = stage.finish(|s| s.frames_in == all && s.frames_out + s.frames_lost == all)?;
        let numbers = numbers(&stage, SMALL)?;
        let lost = u32::try_from(last.frames_lost)?;
        ensure!(lost > 0 && lost < GOP, "{last:?}");
        let expected: Vec<_> = (0..GOP - lost).chain(GOP..FRAMES).map(Some).collect();
        ensure!(numbers == expected, "{lost} lost: {numbers:?}");
        ensure!(check_exactly_once_in_order(&numbers, 0..=FRAMES - 1).is_err(), "unnoticed");
        let status = stage.server.status()?;
        let moved = &status.recycles[0].moves[0];
        ensure!((status.frames_lost, moved.frames_lost) == (lost.into(), lost.into()), "{moved:?}");
        let log = stage.server.log();
        for said in ["frames lost so far", "no_anchor", &format!("{lost} frames were lost")] {
            ensure!(log.contains(said), "nobody said {said:?}");
        }
        check_source(&stage)?;
        stage.server.stop()
    });
}

/// Without any further keyframe it stays where it is, whoever asks and however often, while other
/// workers are replaced; only at any price it goes, and all that follows is counted as lost.
#[test]
fn a_source_without_further_keyframes_stays_until_it_must_go() {
    in_run_directory("anchor-never", |run| {
        let mut stage = Anchorless::start(run.path(), SECONDS, NEVER)?;
        let (slot, session) = (stage.slot()?, stage.wait_session("the stream", |_| true)?);
        stage.rotate(&slot, Haste::Now)?;
        stage.wait_recycle(&slot, "waiting for a keyframe")?;
        let status = stage.server.status()?;
        let others = status.workers.iter().filter(|w| w.role == "worker" && w.slot != slot);
        let other = others.map(|worker| worker.slot.clone()).next().context("another worker")?;
        stage.rotate(&other, Haste::Now)?;
        stage.wait_recycle(&other, "done")?;
        let request = Request::Move { session: session.id, haste: Haste::Scheduled };
        let reply = stage.server.request(&request)?;
        let kept = match &reply {
            Reply::Moved(moved) => moved.outcome.starts_with("kept: no anchor"),
            Reply::Refused { reason } => reason.contains("being moved already"),
            Reply::Status(_)
            | Reply::Event(_)
            | Reply::Recycled(_)
            | Reply::Heap { .. }
            | Reply::Threads { .. }
            | Reply::Done => false,
        };
        ensure!(kept, "{reply:?}");
        stage.rotate(&slot, Haste::AtAnyPrice)?;
        stage.wait_recycle(&slot, "done")?;
        let all = u64::from(FRAMES);
        let last = stage.finish(|s| s.frames_in == all && s.frames_out + s.frames_lost == all)?;
        ensure!(last.frames_lost > 0, "{last:?}");
        let encoded = u32::try_from(last.frames_out)?;
        check_exactly_once_in_order(&numbers(&stage, SMALL)?, 0..=encoded - 1)?;
        check_source(&stage)?;
        stage.server.stop()
    });
}
