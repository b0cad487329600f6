//! OBS Studio through the server to an origin. Its picture carries no numbers, so the packets of
//! the untouched rendition say what the others must hold.

use crate::flv::{self, Flv, Kind};
use crate::frames;
use crate::obs::Obs;
use crate::origin::Origin;
use crate::passage::{BOUND, NAME, Rendition};
use crate::server::{Rung, Server, Setup};
use crate::wait;
use anyhow::{Context, Result, ensure};
use std::path::Path;

/// Publishes until so many pictures were received; every one must be in every rendition, at its
/// time.
pub fn publish(run: &Path, pictures_min: u64) -> Result<Vec<Rendition>> {
    let origin = Origin::start(run)?;
    let rungs = vec![
        Rung::Source,
        Rung::Encoded { label: "360p".into(), height: 360, kbps: 600, preset: "ultrafast" },
        Rung::Encoded { label: "240p".into(), height: 240, kbps: 300, preset: "ultrafast" },
    ];
    let setup = Setup { rungs: Some(rungs), origin_port: Some(origin.port()), ..Setup::default() };
    let mut server = Server::start(run, &setup)?;
    let mut obs = Obs::start(run, &format!("rtmp://{}/live", server.address()), NAME)?;
    let session = wait::until("OBS to publish", BOUND, || {
        obs.must_run()?;
        let sessions = server.status()?.sessions;
        Ok(sessions.into_iter().find(|s| s.state == "live" && s.frames_in >= pictures_min))
    })
    .with_context(|| obs.log())?;
    ensure!((session.width, session.height) == (1280, 720), "{session:?}");
    ensure!(session.audio_codec == "aac", "{session:?}");
    obs.stop()?;
    server.wait_no_sessions(BOUND)?;
    origin.wait_idle(BOUND)?;
    server.stop()?;

    let mut found = Vec::new();
    let mut wanted: Option<(usize, Vec<u32>)> = None;
    for rung in &session.rungs {
        let label = &rung.label;
        let file = origin.recording(&format!("{NAME}_{label}"))?;
        let decoded = frames::decode(&file)?;
        ensure!(decoded.errors.is_empty(), "{label}: {:?}", decoded.errors);
        let sound = frames::sound(&file)?;
        ensure!(sound.errors.is_empty(), "{label}: {:?}", sound.errors);
        let recording = Flv::read(&file)?;
        flv::check_dts_rising(&recording).with_context(|| label.clone())?;
        let mut times: Vec<u32> = recording.from_keyframe().map(presentation_ms).collect();
        times.sort_unstable();
        // The origin's files begin with zero whatever came first.
        let first = times.first().copied().context("no picture")?;
        for time in &mut times {
            *time -= first;
        }
        let pictures = decoded.pictures.len();
        ensure!(pictures == times.len(), "{label}: {pictures} pictures of {}", times.len());
        ensure!(recording.coded(Kind::Audio).next().is_some(), "{label}: no sound");
        match &wanted {
            None => wanted = Some((pictures, times)),
            Some((count, source)) => {
                ensure!(pictures == *count, "{label}: {pictures} pictures, the source {count}");
                // Renditions are presented when they are decoded.
                ensure!(times == *source, "{label}: other times than the source's");
                ensure!(rung.frames > 0, "{label}: nothing was encoded");
            }
        }
        let streams = frames::streams(&file)?;
        let label = label.clone();
        found.push(Rendition { label, streams, pictures, worst_skew_ms: None });
    }
    Ok(found)
}

/// Decode time and the composition offset of an AVC tag.
fn presentation_ms(tag: &flv::Tag) -> u32 {
    let offset =
        tag.body.get(2..5).map_or(0, |bytes| u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]));
    tag.dts_ms + offset
}
