//! A stream that ends the workers it is in, beside healthy ones: it is found, put alone, and dropped
//! with its reason; the others lose nothing. Needs a worker that was built for tests
//! (`--features tasuki-worker/failpoints`).

use anyhow::{Context, Result, ensure};
use tasuki_tests::dying::Dying;
use tasuki_tests::fixture::Recipe;
use tasuki_tests::flv::{Flv, Kind, Tag};
use tasuki_tests::passage::BOUND;
use tasuki_tests::place::{self, in_run_directory};
use tasuki_tests::raw_publisher::{RawPublisher, Reply};
use tasuki_tests::scene::CHUNK_SIZE;
use tasuki_tests::server::Setup;

const FAULTS: &[u8] = b"tasuki-poison:fault";
const HANGS: &[u8] = b"tasuki-poison:hang";
const HEALTHY: u32 = 7;
/// The picture that carries the mark, and how many tags follow it.
const MARKED_PICTURE: usize = 70;
const TAGS_BEHIND: usize = 60;
/// Speed, in times of real time.
const AT_ONCE: u32 = 1000;

/// Was the worker under test built to obey the mark?
fn obeys() -> Result<bool> {
    let program = std::fs::read(place::binary("tasuki-worker")?)?;
    let has = program.windows(FAULTS.len()).any(|window| window == FAULTS);
    if !has {
        println!("the worker is built without failpoints: this proves nothing");
    }
    Ok(has)
}

/// The tags of a file up to a while behind a picture that is given the mark in a SEI of its own.
fn poisoned(recipe: &Recipe, mark: &[u8]) -> Result<Vec<Tag>> {
    let mut flv = Flv::read(&recipe.file()?)?;
    let at = flv.video_at(MARKED_PICTURE).context("the picture")?;
    let tag = &mut flv.tags[at];
    ensure!(tag.kind == Kind::Video, "{:?}", tag.kind);
    // user_data_unregistered: sixteen bytes of UUID, then anything (ITU-T H.264, D.1.7).
    let payload = [&[0x54; 16], mark].concat();
    let mut unit = vec![6, 5, u8::try_from(payload.len())?];
    unit.extend(&payload);
    unit.push(0x80);
    let length = u32::try_from(unit.len())?.to_be_bytes();
    // Behind frame type, packet type and composition time: length-prefixed NAL units.
    tag.body.splice(5..5, length.into_iter().chain(unit));
    flv.tags.truncate(at + TAGS_BEHIND);
    Ok(flv.tags)
}

fn poison_is_dropped(label: &'static str, mark: &'static [u8], cause: &'static str) {
    in_run_directory(label, move |run| {
        if !obeys()? {
            return Ok(());
        }
        let recipe = Recipe { b_frames: 2, ..Recipe::small(10) };
        let setup = Setup {
            workers: Some(1),
            worker_lines: "hang_deadline = \"300ms\"\nstandby = 2\nrestart_intensity = 100"
                .to_owned(),
            ..Setup::default()
        };
        let mut dying = Dying::start(run.path(), &recipe, HEALTHY, setup)?;
        let tags = poisoned(&recipe, mark)?;
        let address = dying.server.address().to_owned();
        let mut poison = RawPublisher::publish(&address, "poison", CHUNK_SIZE)?;
        // What follows the mark is out before anybody dies of it: later writes would find the
        // connection closed.
        let (harmless, deadly) = tags.split_at(tags.len() - TAGS_BEHIND);
        poison.send_tags(harmless, 1, |tag| Some(tag.dts_ms))?;
        poison.send_tags(deadly, AT_ONCE, |tag| Some(tag.dts_ms))?;
        // It says nothing more: it is told why it is ended, and by a FIN.
        let goodbye = poison.wait_closed(BOUND)?;
        ensure!(goodbye.reset.is_none(), "{goodbye:?}");
        let said = goodbye.replies.iter().filter_map(Reply::status).collect::<Vec<_>>();
        ensure!(said.iter().any(|(_, words)| words.contains("again and again")), "{goodbye:?}");
        let status = dying.server.status()?;
        let deaths = &status.deaths;
        ensure!((2..=3).contains(&deaths.len()), "{deaths:#?}");
        ensure!(deaths.iter().all(|death| death.cause == cause), "{deaths:#?}");
        let last = deaths.first().context("a death")?;
        ensure!(last.sessions.len() == 1, "it was alone in the end: {deaths:#?}");
        ensure!(last.sessions[0].name == "poison", "{deaths:#?}");
        ensure!(last.sessions[0].outcome.starts_with("ended: "), "{deaths:#?}");
        ensure!(last.sessions[0].suspicion.contains("quarantine"), "{deaths:#?}");
        let log = dying.finish()?;
        ensure!(log.contains("session_quarantined") && log.contains("stream_dropped"), "{log}");
        Ok(())
    });
}

#[test]
fn a_stream_that_crashes_its_pipeline_is_dropped_and_seven_others_lose_nothing() {
    poison_is_dropped("poison", FAULTS, "fault signal 6");
}

#[test]
fn a_stream_that_hangs_its_pipeline_is_dropped_and_seven_others_lose_nothing() {
    poison_is_dropped("poison-hang", HANGS, "killed by us: it hung");
}
