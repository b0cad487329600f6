//! The ladder: CPU time, memory and quality of Tasuki against one `ffmpeg` command.
//!
//! All contenders get the same file from the same kind of publisher (`ffmpeg -re -c copy` over
//! RTMP; the command listens for it) and send three renditions with sound to the same origin, with
//! the same x264 settings and one thread for each codec. Two commands: the usual one scales each
//! rung from the source with the defaults, the tuned one cascades through one filter graph and looks
//! at no more of the input than it must before it begins, as one does who cares for latency: the
//! defaults make a command wait for three seconds, which it then encodes in one go. Both encode the
//! sound once. Counted is what they use from the moment the publisher is started, for
//! Tasuki in all its processes; publisher and origin are not. Rounds alternate.

use crate::measure::{PeakMeter, Spread, cpu_of, cpu_of_tree, wait_unreaped};
use anyhow::{Context, Result, ensure};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tasuki_tests::child::Child;
use tasuki_tests::fixture::Recipe;
use tasuki_tests::flv::{Flv, Kind};
use tasuki_tests::frames;
use tasuki_tests::named;
use tasuki_tests::origin::Origin;
use tasuki_tests::place::RunDirectory;
use tasuki_tests::ports::free_port;
use tasuki_tests::publisher::{self, Pace};
use tasuki_tests::server::{Rung, Server, Setup};
use tasuki_tests::wait;

/// Width, height, kb/s; the width as the ladder's rounding gives it.
const RUNGS: [(u32, u32, u32); 3] = [(1280, 720, 2500), (854, 480, 1200), (640, 360, 600)];
const START_BOUND: Duration = Duration::from_secs(20);
/// After the file's own time.
const END_BOUND: Duration = Duration::from_secs(30);
/// Every so many pictures one is compared.
const SSIM_EVERY: u32 = 5;
const SSIM_DIFFERENCE_MAX: f64 = 0.003;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Contender {
    Tasuki,
    Usual,
    Tuned,
}

impl Contender {
    const ALL: [Self; 3] = [Self::Tasuki, Self::Usual, Self::Tuned];

    fn name(self) -> &'static str {
        match self {
            Self::Tasuki => "tasuki",
            Self::Usual => "usual",
            Self::Tuned => "tuned",
        }
    }
}

struct Outcome {
    cpu: Duration,
    footprint_bytes: u64,
    /// Logs and other shared memory; none for the command.
    shared_bytes: u64,
    recordings: Vec<PathBuf>,
}

struct Bench {
    run: RunDirectory,
    origin: Origin,
    file: PathBuf,
    seconds: u32,
    frames: usize,
}

pub fn run(arguments: &[String]) -> Result<()> {
    let seconds = named::number(arguments, "seconds", 20)?;
    let rounds = named::number(arguments, "rounds", 5)?;
    let recipe = Recipe::full_hd(seconds);
    let run = RunDirectory::new("ladder")?;
    let origin = Origin::start(run.path())?;
    let frames = usize::try_from(recipe.frames())?;
    let bench = Bench { run, origin, file: recipe.file()?, seconds, frames };
    println!("{seconds} s of 1080p30 to 720p, 480p and 360p, {rounds} rounds");
    println!("round  contender  CPU s    footprint MB  logs MB  frames of each rung");
    let mut outcomes: Vec<[Outcome; 3]> = Vec::new();
    for round in 0..rounds {
        let mut of_round = Vec::new();
        for turn in 0..3 {
            let contender = Contender::ALL[usize::try_from((round + turn) % 3)?];
            let outcome = bench.measure(contender, round)?;
            println!(
                "{round:>5}  {:<9}  {:>7.3}  {:>12.1}  {:>7.1}  {frames}",
                contender.name(),
                outcome.cpu.as_secs_f64(),
                megabytes(outcome.footprint_bytes),
                megabytes(outcome.shared_bytes),
            );
            of_round.push((contender, outcome));
        }
        of_round.sort_by_key(|(contender, _)| Contender::ALL.iter().position(|c| c == contender));
        let [tasuki, usual, tuned] = <[_; 3]>::try_from(of_round)
            .map_err(|_| anyhow::anyhow!("three contenders"))?
            .map(|(_, outcome)| outcome);
        outcomes.push([tasuki, usual, tuned]);
    }
    bench.compare_quality(outcomes.first().context("a round")?)?;
    report(&outcomes)
}

fn report(outcomes: &[[Outcome; 3]]) -> Result<()> {
    let ratio = |of: fn(&Outcome) -> f64, to: usize| {
        Spread::of(outcomes.iter().map(|round| of(&round[0]) / of(&round[to])))
    };
    let cpu = |outcome: &Outcome| outcome.cpu.as_secs_f64();
    let footprint = |outcome: &Outcome| megabytes(outcome.footprint_bytes);
    let shared = Spread::of(outcomes.iter().map(|round| megabytes(round[0].shared_bytes)))?;
    println!("logs and session memory beside the footprint: {shared:.1} MB");
    println!("footprint ratio, usual  {} (goal ≤ 1.0)", ratio(footprint, 1)?);
    println!("footprint ratio, tuned  {}", ratio(footprint, 2)?);
    println!("ratio, tuned            {} (goal ≤ 1.00)", ratio(cpu, 2)?);
    println!("ratio                   {} (goal ≤ 0.95)", ratio(cpu, 1)?);
    Ok(())
}

impl Bench {
    fn measure(&self, contender: Contender, round: u32) -> Result<Outcome> {
        let name = format!("{}{round}", contender.name());
        let directory = self.run.join(&name);
        fs::create_dir_all(&directory)?;
        let mut outcome = match contender {
            Contender::Tasuki => self.through_tasuki(&directory, &name)?,
            Contender::Usual | Contender::Tuned => {
                self.through_command(&directory, &name, contender)?
            }
        };
        self.origin.wait_idle(END_BOUND)?;
        for (_, height, _) in RUNGS {
            let recording = self.origin.recording(&format!("{name}_{height}p"))?;
            let frames = Flv::read(&recording)?.coded(Kind::Video).count();
            ensure!(
                frames == self.frames,
                "{name}: {frames} frames of {height}p arrived, {} were sent",
                self.frames
            );
            outcome.recordings.push(recording);
        }
        Ok(outcome)
    }

    fn publish(&self, directory: &Path, url: &str) -> Result<()> {
        let mut publisher =
            publisher::ffmpeg(directory, "publisher", &self.file, url, Pace::RealTime)?;
        publisher.finish(Duration::from_secs(u64::from(self.seconds)) + END_BOUND)
    }

    fn through_tasuki(&self, directory: &Path, name: &str) -> Result<Outcome> {
        let setup = Setup {
            workers: Some(1),
            rungs: Some(RUNGS.map(|(_, height, kbps)| Rung::encoded(height, kbps)).to_vec()),
            audio: Some("aac"),
            origin_port: Some(self.origin.port()),
            ..Setup::default()
        };
        let mut server = Server::start(directory, &setup)?;
        server.wait_status("worker and standby", START_BOUND, |status| {
            let ready = status.workers.iter().all(|w| w.state == "serving" || w.state == "standby");
            (ready && status.workers.len() >= 2).then_some(())
        })?;
        let status = server.status()?;
        let workers: Vec<i32> =
            status.workers.iter().filter(|w| w.role == "worker").map(|w| w.pid).collect();
        let meter = PeakMeter::start(workers, server.pid());
        let cpu = cpu_of_tree(server.pid())?;
        self.publish(directory, &server.url(name))?;
        server.wait_no_sessions(END_BOUND)?;
        let cpu = cpu_of_tree(server.pid())? - cpu;
        let peak = meter.finish()?;
        Ok(Outcome {
            cpu,
            footprint_bytes: peak.footprint_bytes,
            shared_bytes: peak.memfd_bytes,
            recordings: Vec::new(),
        })
    }

    fn through_command(
        &self,
        directory: &Path,
        name: &str,
        contender: Contender,
    ) -> Result<Outcome> {
        let port = free_port()?;
        let url = format!("rtmp://127.0.0.1:{port}/live/{name}");
        let mut child = self.command(directory, name, contender, &url)?;
        wait::until("the command to listen", START_BOUND, || {
            child.must_run()?;
            Ok(is_listening(port)?.then_some(()))
        })?;
        let meter = PeakMeter::start(vec![child.pid()], child.pid());
        let cpu = cpu_of(child.pid())?;
        self.publish(directory, &url)?;
        wait_unreaped(&child, END_BOUND)?;
        let cpu = cpu_of(child.pid())? - cpu;
        let peak = meter.finish()?;
        child.finish(END_BOUND)?;
        let footprint_bytes = peak.footprint_bytes;
        Ok(Outcome { cpu, footprint_bytes, shared_bytes: 0, recordings: Vec::new() })
    }

    fn command(
        &self,
        directory: &Path,
        name: &str,
        contender: Contender,
        listen: &str,
    ) -> Result<Child> {
        let mut command = Command::new("ffmpeg");
        command.args(["-nostdin", "-hide_banner", "-nostats", "-v", "warning"]);
        command.args(["-filter_threads", "1", "-filter_complex_threads", "1"]);
        // A thread of its own reads the input: a publisher that has sent everything closes, and
        // what the command has not read by then would be lost.
        command.args(["-threads", "1", "-thread_queue_size", "1024", "-listen", "1"]);
        if contender == Contender::Tuned {
            command.args(["-analyzeduration", "500000", "-probesize", "262144"]);
        }
        command.args(["-i", listen]);
        match contender {
            Contender::Tuned => {
                let graph = "[0:v]scale=1280:720:flags=area,split[a][x];\
                     [x]scale=854:480:flags=area,split[b][y];[y]scale=640:360:flags=area[c]";
                command.args(["-filter_complex", graph]);
                command.args(["-map", "[a]", "-map", "[b]", "-map", "[c]"]);
            }
            Contender::Usual | Contender::Tasuki => {
                for (at, (width, height, _)) in RUNGS.iter().enumerate() {
                    let scale = format!("scale={width}:{height}");
                    command.args(["-map", "0:v", &format!("-filter:v:{at}"), &scale]);
                }
            }
        }
        command.args(["-map", "0:a", "-c:a", "aac", "-b:a", "128k", "-ar", "48000"]);
        command.args(["-c:v", "libx264", "-threads:v", "1", "-preset", "veryfast"]);
        command.args(["-tune", "zerolatency", "-crf", "23", "-bf", "0", "-g", "60"]);
        command.args(["-x264-params", "stitchable=1:scenecut=0", "-fps_mode", "passthrough"]);
        let mut outputs = String::new();
        for (at, (_, height, kbps)) in RUNGS.iter().enumerate() {
            let rate = format!("{kbps}k");
            command.args([&format!("-maxrate:v:{at}"), &rate, &format!("-bufsize:v:{at}"), &rate]);
            let between = if at > 0 { "|" } else { "" };
            let to = self.origin.url(&format!("{name}_{height}p"));
            write!(
                outputs,
                "{between}[f=flv:flvflags=no_duration_filesize:select=\\'v:{at},a\\']{to}"
            )?;
        }
        command.args(["-flags", "+global_header", "-f", "tee", &outputs]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Child::start("command", directory, &mut command)
    }

    /// Each rendition against the source, at the source's size, as a viewer sees it.
    fn compare_quality(&self, outcomes: &[Outcome; 3]) -> Result<()> {
        println!("SSIM against the source, every {SSIM_EVERY}th picture");
        println!("rung   tasuki   usual    tuned    tasuki less usual");
        for (at, (width, height, _)) in RUNGS.iter().enumerate() {
            let mut found = [0.0; 3];
            for (place, outcome) in outcomes.iter().enumerate() {
                let recording = outcome.recordings.get(at).context("a recording for each rung")?;
                let streams = frames::streams(recording)?;
                let size = (u32::try_from(streams.width)?, u32::try_from(streams.height)?);
                ensure!(size == (*width, *height), "{}: {size:?}", recording.display());
                found[place] = ssim(recording, &self.file)?;
            }
            let [tasuki, usual, tuned] = found;
            let verdict = if usual - tasuki <= SSIM_DIFFERENCE_MAX { "" } else { "  too low" };
            println!(
                "{:<5}  {tasuki:.5}  {usual:.5}  {tuned:.5}  {:+.5}{verdict}",
                format!("{height}p"),
                tasuki - usual
            );
        }
        Ok(())
    }
}

/// Pictures are matched by their number: both files hold all of them.
fn ssim(rendition: &Path, source: &Path) -> Result<f64> {
    let pick = format!("select='not(mod(n\\,{SSIM_EVERY}))',setpts=N/30/TB");
    let graph = format!("[0:v]{pick},scale=1920:1080:flags=bicubic[a];[1:v]{pick}[b];[a][b]ssim");
    let output = Command::new("ffmpeg")
        .args(["-nostdin", "-hide_banner", "-nostats", "-v", "info", "-i"])
        .arg(rendition)
        .arg("-i")
        .arg(source)
        .args(["-lavfi", &graph, "-f", "null", "-"])
        .stdin(Stdio::null())
        .output()
        .context("running ffmpeg")?;
    let log = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ssim of {}: {log}", rendition.display());
    let (_, rest) = log.rsplit_once("All:").context("the filter's verdict")?;
    Ok(rest.split_whitespace().next().context("a number")?.parse()?)
}

/// Looks in the kernel's table: a connection would take the only one that the command accepts.
fn is_listening(port: u16) -> Result<bool> {
    let wanted = format!("0100007F:{port:04X}");
    let table = fs::read_to_string("/proc/net/tcp")?;
    Ok(table.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next() == Some(&wanted) && fields.nth(1) == Some("0A")
    }))
}

fn megabytes(bytes: u64) -> f64 {
    f64::from(u32::try_from(bytes / 1024).unwrap_or(u32::MAX)) / 1024.0
}
