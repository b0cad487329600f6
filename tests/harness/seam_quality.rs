//! What a seam costs in quality: the same source published twice at the same time, one stream moved
//! at known moments and the other not, compared picture by picture.
//!
//! Up to the first seam both runs are the same, byte for byte, for the encoder is deterministic.

use crate::flv::{Flv, Kind, Tag};
use crate::natural;
use crate::origin::Origin;
use crate::raw_publisher::{Pace, RawPublisher};
use crate::seam_sound::{self, Track};
use crate::server::{Rung, Server, Setup};
use anyhow::{Context, Result, bail, ensure};
use std::fmt;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tasuki_shared::clock;
use tasuki_shared::message::Haste;
use tasuki_shared::status::{Reply, Request};

const BOUND: Duration = Duration::from_secs(60);
/// What is looked at behind a seam: two seconds.
const WINDOW: usize = 2 * natural::FPS as usize;
/// From a seam's being told to the next move: longer than the window, for it is told a little later
/// than it was, and no other seam may lie in it.
const BEHIND_A_SEAM: Duration = Duration::from_millis(2100);
/// Three seconds: rungs have an IDR of their own in between.
const SOURCE_GOP: u32 = 3 * natural::FPS;
/// A move is not begun so near the end that its window may not fit.
const LAST_MOVE_BEFORE_END: Duration = Duration::from_secs(5);
const MOVED: &str = "moved";
const STILL: &str = "still";

const SSIM_MOST: f64 = 0.01;
const BITRATE_MOST: f64 = 0.10;
const IDR_MOST: f64 = 1.4;
const SOUND_MOST_DB: f64 = 3.0;

/// What is published, and what it becomes.
#[derive(Clone, Copy, Debug)]
pub struct Scene {
    source: natural::Size,
    /// Height and ceiling of the rung.
    rung: u32,
    kbps: u32,
}

/// Cheap enough for a machine that does other things as well.
pub const SMALL: Scene =
    Scene { source: natural::Size { width: 640, height: 360, kbps: 2500 }, rung: 180, kbps: 300 };
pub const LARGE: Scene =
    Scene { source: natural::Size { width: 1280, height: 720, kbps: 5000 }, rung: 360, kbps: 800 };

/// One seam beside the same pictures of the unmoved run.
#[derive(Clone, Copy, Debug)]
pub struct Quality {
    /// Number of its first picture.
    pub seam: usize,
    pub haste: Haste,
    /// Its IDR over the nearest scheduled one of the unmoved run.
    pub idr: f64,
    /// Bytes of the window, over those of the unmoved run.
    pub bitrate: f64,
    /// Mean over the window, minus that of the unmoved run.
    pub ssim: f64,
    /// How much worse the sound is, dB.
    pub sound_db: f64,
}

impl Quality {
    pub fn check(&self) -> Result<()> {
        ensure!(self.ssim.abs() <= SSIM_MOST, "SSIM differs: {self}");
        ensure!((self.bitrate - 1.0).abs() <= BITRATE_MOST, "the bitrate differs: {self}");
        ensure!(self.idr <= IDR_MOST, "the IDR is too large: {self}");
        ensure!(self.sound_db <= SOUND_MOST_DB, "the sound is worse: {self}");
        Ok(())
    }
}

impl fmt::Display for Quality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seam, haste, idr, bitrate, ssim, sound_db } = self;
        write!(
            f,
            "seam at {seam} ({haste:?}): IDR × {idr:.2}, bitrate × {bitrate:.3}, SSIM {ssim:+.4}, \
             sound {:+.1} dB",
            -sound_db
        )
    }
}

/// Publishes for `seconds` and moves one of the streams when so many seconds are sent, or as soon as
/// the window of the last seam is over; on a machine that is busy fewer moves may fit.
pub fn run(
    directory: &Path,
    scene: Scene,
    seconds: u32,
    moves: &[(u32, Haste)],
) -> Result<Vec<Quality>> {
    let Scene { source, rung, kbps } = scene;
    let file = natural::file(source, seconds, SOURCE_GOP)?;
    let origin = Origin::start(directory)?;
    let setup = Setup {
        workers: Some(2),
        rungs: Some(vec![Rung::encoded(rung, kbps)]),
        audio: Some("aac"),
        origin_port: Some(origin.port()),
        ..Setup::default()
    };
    let mut server = Server::start(directory, &setup)?;
    let tags = Flv::read(&file)?.tags;
    let still = Sending::start(server.address(), STILL, &tags);
    let sending = Sending::start(server.address(), MOVED, &tags);
    let session = server.wait_live(MOVED, BOUND)?.id;
    let mut cuts = Vec::new();
    let mut free_from = sending.began;
    for (second, haste) in moves {
        let due = sending.began + Duration::from_secs(u64::from(*second));
        let due = due.max(free_from);
        clock::pause(due.saturating_duration_since(clock::now()));
        let end = sending.began + Duration::from_secs(u64::from(seconds));
        if clock::now() + LAST_MOVE_BEFORE_END > end {
            break;
        }
        let request = Request::Move { session: session.clone(), haste: *haste };
        let moved = match server.request(&request)? {
            Reply::Moved(moved) => moved,
            other @ (Reply::Status(_)
            | Reply::Event(_)
            | Reply::Recycled(_)
            | Reply::Heap { .. }
            | Reply::Threads { .. }
            | Reply::Done
            | Reply::Refused { .. }) => bail!("the move was answered by {other:?}"),
        };
        if moved.outcome.starts_with("kept: the session ended") {
            break;
        }
        ensure!(moved.outcome == "done", "{moved:?}");
        free_from = clock::now() + BEHIND_A_SEAM;
        let sent = clock::now().duration_since(sending.began);
        let frames = sent.as_millis() * u128::from(natural::FPS) / 1000;
        cuts.push((usize::try_from(frames)?, *haste));
    }
    for sending in [sending, still] {
        sending.finish()?;
    }
    server.wait_no_sessions(BOUND)?;
    origin.wait_idle(BOUND)?;
    server.stop()?;
    let recording = |name: &str| origin.recording(&format!("{name}_{rung}p"));
    let (moved, still) = (recording(MOVED)?, recording(STILL)?);
    compare(directory, rung, &file, [&moved, &still], &cuts)
}

/// A publisher on a thread of its own.
struct Sending {
    began: Instant,
    thread: JoinHandle<Result<()>>,
}

impl Sending {
    fn start(address: &str, name: &str, tags: &[Tag]) -> Self {
        let (address, name, tags) = (address.to_owned(), name.to_owned(), tags.to_vec());
        let began = clock::now();
        let thread = std::thread::spawn(move || {
            let mut publisher = RawPublisher::publish(&address, &name, 4096)?;
            let mut pace = Pace::new(&tags, 1);
            for tag in &tags {
                pace.wait_for(tag);
                publisher.send_tag(tag, tag.dts_ms)?;
            }
            publisher.finish(BOUND)
        });
        Self { began, thread }
    }

    fn finish(self) -> Result<()> {
        self.thread.join().map_err(|_| anyhow::anyhow!("a publisher panicked"))?
    }
}

/// Bytes and IDRs of a rendition's pictures.
struct Pictures {
    bytes: Vec<usize>,
    idrs: Vec<usize>,
}

impl Pictures {
    fn of(file: &Path) -> Result<Self> {
        let flv = Flv::read(file)?;
        let coded: Vec<&Tag> = flv.coded(Kind::Video).collect();
        let idrs = coded.iter().enumerate().filter(|(_, tag)| tag.is_keyframe());
        let idrs = idrs.map(|(at, _)| at).collect();
        Ok(Self { bytes: coded.iter().map(|tag| tag.body.len()).collect(), idrs })
    }

    fn window(&self, seam: usize) -> Result<f64> {
        let window = self.bytes.get(seam..seam + WINDOW).context("the stream ends at the seam")?;
        Ok(f64::from(u32::try_from(window.iter().sum::<usize>())?))
    }

    /// Bytes of the IDR that is nearest to this picture.
    fn idr_near(&self, picture: usize) -> Result<f64> {
        let near = self.idrs.iter().min_by_key(|idr| idr.abs_diff(picture)).context("no IDR")?;
        Ok(f64::from(u32::try_from(self.bytes[*near])?))
    }
}

fn compare(
    directory: &Path,
    rung: u32,
    source: &Path,
    [moved_file, still_file]: [&Path; 2],
    cuts: &[(usize, Haste)],
) -> Result<Vec<Quality>> {
    let (moved, still) = (Pictures::of(moved_file)?, Pictures::of(still_file)?);
    let sent = Flv::read(source)?.coded(Kind::Video).count();
    let found = (moved.bytes.len(), still.bytes.len());
    ensure!(found == (sent, sent), "of {sent} pictures came {found:?}");
    let [moved_ssim, still_ssim] = [(moved_file, "moved"), (still_file, "still")]
        .map(|(file, name)| ssim(file, rung, source, &directory.join(format!("{name}.ssim"))));
    let (moved_ssim, still_ssim) = (moved_ssim?, still_ssim?);
    ensure!(moved_ssim.len() == sent && still_ssim.len() == sent, "pictures were not compared");
    let mean = |ssim: &[f64], seam: usize| -> f64 {
        let window = &ssim[seam..seam + WINDOW];
        window.iter().sum::<f64>() / f64::from(u32::try_from(window.len()).unwrap_or(1))
    };
    let tracks = [source, moved_file, still_file].map(Track::read);
    let [source_sound, moved_sound, still_sound] = tracks;
    let (source_sound, moved_sound, still_sound) = (source_sound?, moved_sound?, still_sound?);
    seam_sound::check_grid(&moved_sound, &still_sound)?;
    let mut found = Vec::new();
    for &(cut, haste) in cuts {
        let before = moved.idrs.iter().rev().find(|idr| **idr <= cut + 2);
        let seam = *before.context("no IDR at the seam")?;
        if seam + WINDOW > sent {
            continue;
        }
        let seam_s = f64::from(u32::try_from(seam)?) / f64::from(natural::FPS);
        found.push(Quality {
            seam,
            haste,
            idr: f64::from(u32::try_from(moved.bytes[seam])?) / still.idr_near(seam)?,
            bitrate: moved.window(seam)? / still.window(seam)?,
            ssim: mean(&moved_ssim, seam) - mean(&still_ssim, seam),
            sound_db: seam_sound::worse_db(&moved_sound, &still_sound, &source_sound, seam_s)?,
        });
    }
    let first = found.first().context("a seam")?.seam;
    let differ = moved.bytes.iter().zip(&still.bytes).position(|(a, b)| a != b);
    ensure!(differ == Some(first), "the runs differ from {differ:?} on, the first seam is {first}");
    Ok(found)
}

/// SSIM of each picture against the source, scaled to the rendition's size.
fn ssim(file: &Path, rung: u32, source: &Path, statistics: &Path) -> Result<Vec<f64>> {
    let filter = format!(
        "[1:v]scale=-2:{rung}:flags=area,setpts=N/({fps}*TB)[wanted];\
         [0:v]setpts=N/({fps}*TB)[found];[found][wanted]ssim=stats_file={}",
        statistics.display(),
        fps = natural::FPS
    );
    let output = Command::new("ffmpeg")
        .args(["-nostdin", "-hide_banner", "-nostats", "-v", "error", "-i"])
        .arg(file)
        .arg("-i")
        .arg(source)
        .args(["-lavfi", &filter, "-f", "null", "-"])
        .stdin(Stdio::null())
        .output()
        .context("running ffmpeg")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = fs::read_to_string(statistics)?;
    let all = |line: &str| line.split("All:").nth(1)?.split_whitespace().next()?.parse().ok();
    text.lines().map(|line| all(line).with_context(|| line.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each figure alone is enough for a refusal.
    #[test]
    fn a_seam_that_misses_any_figure_is_found() {
        let (seam, haste) = (90, Haste::Now);
        let good = Quality { seam, haste, idr: 1.2, bitrate: 1.05, ssim: -0.003, sound_db: 1.0 };
        good.check().unwrap();
        let bad = [
            Quality { idr: 2.0, ..good },
            Quality { bitrate: 1.6, ..good },
            Quality { bitrate: 0.85, ..good },
            Quality { ssim: -0.02, ..good },
            Quality { ssim: 0.02, ..good },
            Quality { sound_db: 12.0, ..good },
        ];
        for quality in bad {
            assert!(quality.check().is_err(), "{quality}");
        }
    }
}
