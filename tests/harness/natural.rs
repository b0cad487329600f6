//! A source that costs an encoder what a camera's picture does: a finely textured picture that is
//! panned at changing speed, with an object in it and the noise of a sensor; tones and noise beside.

use crate::{child, place};
use anyhow::{Context, Result, ensure};
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};

pub const FPS: u32 = 30;
/// Raise this when the same call gives another file.
const GENERATION: u32 = 3;

/// How large it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub width: u32,
    pub height: u32,
    pub kbps: u32,
}

/// The FLV file, made now if it was never made: H.264 with a keyframe each `gop` frames, AAC.
pub fn file(size: Size, seconds: u32, gop: u32) -> Result<PathBuf> {
    child::require("ffmpeg")?;
    let directory = place::target_directory()?.join("fixtures");
    fs::create_dir_all(&directory)?;
    let Size { width, height, kbps } = size;
    let name = format!("natural-{GENERATION}-{width}x{height}-{kbps}-{seconds}-{gop}");
    let path = directory.join(format!("{name}.flv"));
    let lock = File::create(directory.join(format!("{name}.lock")))?;
    let lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
    if !path.is_file() {
        let unfinished = directory.join(format!("{name}.{}.tmp", std::process::id()));
        let (texture, picture, rate) = (texture(size), picture(size), format!("{kbps}k"));
        let object = format!("testsrc2=size={}x{}:rate={FPS}", width / 4, height / 4);
        let (gop, seconds) = (gop.to_string(), seconds.to_string());
        let output = Command::new("ffmpeg")
            .args(["-nostdin", "-hide_banner", "-nostats", "-y", "-v", "error"])
            .args(["-f", "lavfi", "-i", &texture, "-f", "lavfi", "-i", &object])
            .args(["-f", "lavfi", "-i", SOUND, "-filter_complex", &picture])
            .args(["-map", "[v]", "-map", "2:a", "-t", &seconds, "-r", &FPS.to_string()])
            .args(["-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p", "-bf", "0"])
            .args(["-b:v", &rate, "-maxrate", &rate, "-bufsize", &rate, "-threads", "1"])
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

/// One picture of blurred noise, twice as wide and high as what is seen of it, over and over.
fn texture(size: Size) -> String {
    let (width, height) = (2 * size.width, 2 * size.height);
    format!(
        "color=gray:size={width}x{height}:rate={FPS},trim=end_frame=1,\
         noise=alls=100:all_seed=7:allf=u,gblur=sigma=2.5,eq=contrast=3,\
         loop=loop=-1:size=1,setpts=N/({FPS}*TB)"
    )
}

/// The texture panned under the object, with noise.
fn picture(size: Size) -> String {
    let Size { width, height, .. } = size;
    format!(
        "[0:v]crop={width}:{height}:x='{width}/2*(1+0.9*sin(0.8*t))':\
         y='{height}/2*(1+0.9*sin(0.5*t))',noise=alls=5:all_seed=11:allf=t[scene];\
         [scene][1:v]overlay=x='{width}/3*(1+0.9*cos(0.9*t))':\
         y='{height}/3*(1+0.9*sin(1.3*t))'[v]"
    )
}

const SOUND: &str = "aevalsrc=exprs='0.25*sin(2*PI*(330*t+20*sin(2*PI*t)))+0.15*sin(2*PI*1777*t)\
                     +0.02*(random(0)-0.5)':sample_rate=48000";
