//! Publishers as people use them: ffmpeg, GStreamer, librtmp.

use crate::child::{self, Child};
use crate::place;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// How fast a file is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// As its timestamps say.
    RealTime,
    /// As fast as the receiver takes it.
    Unpaced,
}

/// ffmpeg sends the packets of a file unchanged.
pub fn ffmpeg(run: &Path, name: &str, file: &Path, url: &str, pace: Pace) -> Result<Child> {
    child::require("ffmpeg")?;
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-hide_banner", "-nostats", "-v", "warning"]);
    if pace == Pace::RealTime {
        command.arg("-re");
    }
    command.arg("-i").arg(file).args([
        "-c",
        "copy",
        "-f",
        "flv",
        "-flvflags",
        "no_duration_filesize",
    ]);
    command.arg(url).stdin(Stdio::null()).stdout(Stdio::null());
    Child::start(name, run, &mut command)
}

/// ffmpeg with a command line of the test's own making; the URL comes last.
pub fn ffmpeg_with(run: &Path, name: &str, arguments: &[&str], url: &str) -> Result<Child> {
    child::require("ffmpeg")?;
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-hide_banner", "-nostats", "-v", "warning"]).args(arguments);
    command.args(["-f", "flv", url]).stdin(Stdio::null()).stdout(Stdio::null());
    Child::start(name, run, &mut command)
}

/// GStreamer's `rtmp2sink` sends the packets of an FLV file with H.264 and AAC, in real time.
pub fn gstreamer(run: &Path, name: &str, file: &Path, url: &str) -> Result<Child> {
    child::require("gst-launch-1.0")?;
    let mut command = Command::new("gst-launch-1.0");
    command.args(["-q", "flvmux", "name=mux", "streamable=true", "!", "rtmp2sink", "sync=true"]);
    command.arg(format!("location={url}"));
    command.args(["filesrc"]).arg(format!("location={}", file.display()));
    command.args(["!", "flvdemux", "name=demux"]);
    command.args(["demux.video", "!", "queue", "!", "h264parse", "!", "mux."]);
    command.args(["demux.audio", "!", "queue", "!", "aacparse", "!", "mux."]);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    Child::start(name, run, &mut command)
}

/// A program of sixty lines that sends an FLV file through librtmp.
pub fn librtmp(run: &Path, name: &str, file: &Path, url: &str, pace: Pace) -> Result<Child> {
    let mut command = Command::new(librtmp_program()?);
    command.arg(file).arg(url).arg(match pace {
        Pace::RealTime => "realtime",
        Pace::Unpaced => "unpaced",
    });
    command.stdin(Stdio::null()).stdout(Stdio::null());
    Child::start(name, run, &mut command)
}

/// Compiles the librtmp publisher, once per target directory.
fn librtmp_program() -> Result<PathBuf> {
    child::require("cc")?;
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/librtmp_publish.c");
    let directory = place::target_directory()?.join("fixtures");
    fs::create_dir_all(&directory)?;
    let program = directory.join("librtmp_publish");
    let is_fresh = fs::metadata(&program)
        .and_then(|built| Ok(built.modified()? >= fs::metadata(&source)?.modified()?))
        .unwrap_or(false);
    if is_fresh {
        return Ok(program);
    }
    let unfinished = directory.join(format!("librtmp_publish.{}", std::process::id()));
    let output = Command::new("cc")
        .args(["-std=c11", "-O1", "-Wall", "-Wextra", "-o"])
        .arg(&unfinished)
        .arg(&source)
        .arg("-lrtmp")
        .output()
        .context("running cc")?;
    ensure!(
        output.status.success(),
        "the librtmp publisher does not compile: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    fs::rename(&unfinished, &program)?;
    Ok(program)
}
