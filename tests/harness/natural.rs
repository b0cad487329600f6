//! A source that costs an encoder what a camera's picture does: a finely textured picture that is
//! panned at changing speed, with an object in it and the noise of a sensor; tones and noise beside.

use crate::{child, place};
use anyhow::{Context, Result, ensure};
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};

pub const WIDTH: u32 = 1280;
pub const HEIGHT: u32 = 720;
pub const FPS: u32 = 30;
/// Raise this when the same call gives another file.
const GENERATION: u32 = 1;

/// The FLV file, made now if it was never made: H.264 with a keyframe each `gop` frames, AAC.
pub fn file(seconds: u32, gop: u32) -> Result<PathBuf> {
    child::require("ffmpeg")?;
    let directory = place::target_directory()?.join("fixtures");
    fs::create_dir_all(&directory)?;
    let name = format!("natural-{GENERATION}-{seconds}-{gop}");
    let path = directory.join(format!("{name}.flv"));
    let lock = File::create(directory.join(format!("{name}.lock")))?;
    let lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
    if !path.is_file() {
        let unfinished = directory.join(format!("{name}.{}.tmp", std::process::id()));
        let (texture, object) = (texture(), format!("testsrc2=size=320x180:rate={FPS}"));
        let (gop, seconds) = (gop.to_string(), seconds.to_string());
        let output = Command::new("ffmpeg")
            .args(["-nostdin", "-hide_banner", "-nostats", "-y", "-v", "error"])
            .args(["-f", "lavfi", "-i", &texture, "-f", "lavfi", "-i", &object])
            .args(["-f", "lavfi", "-i", SOUND, "-filter_complex", PICTURE])
            .args(["-map", "[v]", "-map", "2:a", "-t", &seconds, "-r", &FPS.to_string()])
            .args(["-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p", "-bf", "0"])
            .args(["-b:v", "5M", "-maxrate", "6M", "-bufsize", "6M", "-threads", "1"])
            .args(["-g", &gop, "-keyint_min", &gop, "-sc_threshold", "0"])
            .args(["-c:a", "aac", "-b:a", "192k", "-ac", "2", "-f", "flv"])
            .arg(&unfinished)
            .stdin(Stdio::null())
            .output()
            .context("running ffmpeg")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        fs::rename(&unfinished, &path)?;
    }
    drop(lock);
    Ok(path)
}

/// One picture of blurred noise, coarse and fine, over and over.
fn texture() -> String {
    format!(
        "color=gray:size=1920x1080:rate={FPS},trim=end_frame=1,noise=alls=100:all_seed=7:allf=u,\
         gblur=sigma=2.5,eq=contrast=3,loop=loop=-1:size=1,setpts=N/({FPS}*TB)"
    )
}

const PICTURE: &str = "[0:v]crop=1280:720:x='320+300*sin(1.1*t)':y='180+160*sin(0.7*t)',\
                       noise=alls=5:all_seed=11:allf=t[scene];\
                       [scene][1:v]overlay=x='480+440*cos(0.9*t)':y='270+240*sin(1.3*t)'[v]";
const SOUND: &str = "aevalsrc=exprs='0.25*sin(2*PI*(330*t+20*sin(2*PI*t)))+0.15*sin(2*PI*1777*t)\
                     +0.02*(random(0)-0.5)':sample_rate=48000";
