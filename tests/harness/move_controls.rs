//! A moved stream beside one that is not, through the same checks as every move; and what these
//! checks must find when a hand-off leaves something out.

use crate::chance::Chance;
use crate::fixture::{Audio, Recipe};
use crate::flv::{Flv, Kind};
use crate::moves::{self, Moving};
use crate::origin::Origin;
use crate::passage::BOUND;
use crate::publisher::{self, Pace};
use crate::server::{Rung, Server, Setup};
use crate::sound;
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;
use tasuki_shared::clock;
use tasuki_shared::failpoint::{Action, Board, Order, Point};
use tasuki_shared::message::Haste;
use tasuki_shared::status::{Reply, Request};

const MOVED: &str = "moved";
const STILL: &str = "still";
const PAUSE_MS_MAX: u64 = 400;

/// Publishes two streams, moves one of them over and over, and checks both. `omission`: what its
/// hand-offs leave out.
pub fn run(
    directory: &Path,
    seconds: u32,
    moves: u32,
    omission: Option<Point>,
    chance: &mut Chance,
) -> Result<sound::Report> {
    let moving = Moving {
        recipe: Recipe { audio: Audio::Glide { kbps: 128 }, ..Recipe::small(seconds) },
        streams: 2,
        rungs: vec![Rung::Source, Rung::encoded(72, 200)],
        audio: "aac",
        moves,
        pause_ms_max: PAUSE_MS_MAX,
    };
    let path = directory.join("board");
    let board = Board::create(&path)?;
    let origin = Origin::start(directory)?;
    let setup = Setup {
        workers: Some(2),
        rungs: Some(moving.rungs.clone()),
        audio: Some(moving.audio),
        origin_port: Some(origin.port()),
        failpoints: omission.is_some().then_some(path),
        ..Setup::default()
    };
    let mut server = Server::start(directory, &setup)?;
    let file = moving.recipe.file()?;
    let names = [MOVED, STILL].map(str::to_owned);
    let mut publishers = Vec::new();
    for name in &names {
        let url = server.url(name);
        publishers.push(publisher::ffmpeg(directory, name, &file, &url, Pace::RealTime)?);
    }
    let session = server.wait_status("both streams to be encoded", BOUND, |status| {
        let at_work = |name: &str| {
            let session = status.sessions.iter().find(|s| s.name == name && s.frames_out > 15)?;
            let live =
                session.pushes.len() == 2 && session.pushes.iter().all(|p| p.state == "live");
            live.then(|| session.id.clone())
        };
        at_work(STILL).and(at_work(MOVED))
    })?;
    for done in 0..moves {
        clock::pause(Duration::from_millis(chance.between(100..=PAUSE_MS_MAX)));
        if let (Some(point), 0) = (omission, done) {
            board.arm(point, Order { times: 255, ..Order::once(Action::Skip) });
        }
        let request = Request::Move { session: session.clone(), haste: Haste::Now };
        match server.request(&request)? {
            Reply::Moved(done) if done.outcome == "done" => {}
            other @ (Reply::Moved(_)
            | Reply::Refused { .. }
            | Reply::Status(_)
            | Reply::Event(_)
            | Reply::Recycled(_)
            | Reply::Heap { .. }
            | Reply::Threads { .. }
            | Reply::Done) => bail!("a move was answered by {other:?}"),
        }
    }
    if let Some(point) = omission {
        board.disarm(point);
        ensure!(board.fired(point) > 0, "nothing was left out at {}", point.name());
    }
    for mut publisher in publishers {
        publisher.finish(BOUND).context("a publisher was disconnected")?;
    }
    server.wait_no_sessions(BOUND)?;
    origin.wait_idle(BOUND)?;
    server.stop()?;
    moves::check(&origin, &moving, &file, &names)?;
    check_seams(&origin, moves)?;
    let [moved, still] = [MOVED, STILL].map(|name| origin.recording(&format!("{name}_72p")));
    sound::check(&file, &still?, &moved?)
}

/// The next owner of a stream begins with an IDR, wherever the cut was: so the moved rendition has
/// one more than the other for each move, but for a cut that falls on an IDR which both have.
fn check_seams(origin: &Origin, moves: u32) -> Result<()> {
    let idrs = |name: &str| -> Result<BTreeSet<usize>> {
        let recording = Flv::read(&origin.recording(&format!("{name}_72p"))?)?;
        let pictures = recording.coded(Kind::Video).enumerate();
        Ok(pictures.filter(|(_, tag)| tag.is_keyframe()).map(|(number, _)| number).collect())
    };
    let (moved, still) = (idrs(MOVED)?, idrs(STILL)?);
    let missing: Vec<_> = still.difference(&moved).collect();
    ensure!(missing.is_empty(), "72p of moved: no IDR at {missing:?}, where the other has one");
    let seams = moved.len() - still.len();
    let coincident = usize::try_from(moves)? / 4;
    ensure!(
        seams + coincident >= usize::try_from(moves)?,
        "72p of moved: only {seams} seams of {moves} moves begin with an IDR"
    );
    Ok(())
}
