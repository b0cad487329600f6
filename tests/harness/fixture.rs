//! Source material: a moving picture with machine-readable numbers and a tone burst a second.
//!
//! ffmpeg draws the moving picture, this process stamps the number into each raw frame, a
//! second ffmpeg encodes. Files are made once and kept under `target/fixtures`, named by their
//! recipe's hash.

use crate::child::Child;
use crate::frames::read_whole;
use crate::picture::{self, Band, Beat, Layout};
use crate::place;
use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Length of the tone burst at each full second.
pub const BURST_S: f64 = 0.04;
/// Raise this when the same recipe gives another file.
const GENERATION: u32 = 1;
/// How long making one file may take.
const MAKE_BOUND: Duration = Duration::from_secs(300);
/// Pipes are widened to this, so that a raw frame takes few turns.
const PIPE_BYTES: i32 = 1 << 20;

/// What sounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Audio {
    None,
    /// A 1 kHz burst each second, AAC-LC stereo at 48 kHz.
    Beat {
        kbps: u32,
    },
    /// Tones that glide and never come again, so that every sample has one place only.
    Glide {
        kbps: u32,
    },
}

/// What is to be made.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Recipe {
    pub width: usize,
    pub height: usize,
    pub fps: u32,
    pub seconds: u32,
    /// Distance of keyframes in frames; there are no others.
    pub gop: u32,
    pub b_frames: u32,
    pub video_kbps: u32,
    pub audio: Audio,
    /// x264 preset.
    pub preset: &'static str,
    /// The lowest band that carries the number; the top one always does.
    pub band: Band,
}

impl Recipe {
    /// 1080p30 at 5 Mb/s with a 2 s GOP and no B-frames.
    #[must_use]
    pub fn full_hd(seconds: u32) -> Self {
        Self {
            width: 1920,
            height: 1080,
            fps: 30,
            seconds,
            gop: 60,
            b_frames: 0,
            video_kbps: 5000,
            audio: Audio::Beat { kbps: 128 },
            preset: "veryfast",
            band: Band::Top,
        }
    }

    /// 160×90 at 30 fps: what most kill and move tests publish.
    #[must_use]
    pub fn small(seconds: u32) -> Self {
        let audio = Audio::Beat { kbps: 64 };
        Self { width: 160, height: 90, video_kbps: 250, audio, ..Self::full_hd(seconds) }
    }

    /// Number of pictures; their numbers are `0..frames()`.
    #[must_use]
    pub fn frames(&self) -> u32 {
        self.fps * self.seconds
    }

    #[must_use]
    pub fn layout(&self) -> Layout {
        Layout::new(self.width, self.height)
    }

    /// The FLV file, made now if it was never made.
    pub fn file(&self) -> Result<PathBuf> {
        let directory = place::target_directory()?.join("fixtures");
        fs::create_dir_all(&directory)?;
        let description = format!("{self:?} {GENERATION}");
        let name = format!("{}x{}-{:016x}", self.width, self.height, fnv1a(description.as_bytes()));
        let path = directory.join(format!("{name}.flv"));
        let lock = File::create(directory.join(format!("{name}.lock")))?;
        let lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
        if !path.is_file() {
            self.make(&directory, &name, &path).with_context(|| format!("making {self:?}"))?;
        }
        drop(lock);
        Ok(path)
    }

    fn make(&self, directory: &Path, name: &str, path: &Path) -> Result<()> {
        let unfinished = directory.join(format!("{name}.{}.tmp", std::process::id()));
        let sink = Sink::File { path: &unfinished, frames: self.frames() };
        let mut generator = Generator::start(self, sink, directory, name)?;
        generator.run(|_| Continue::Yes)?;
        generator.finish(MAKE_BOUND)?;
        fs::rename(&unfinished, path)?;
        for log in [format!("{name}-draw.log"), format!("{name}-encode.log")] {
            fs::remove_file(directory.join(log))?;
        }
        Ok(())
    }
}

/// Where the encoded picture goes.
#[derive(Clone, Copy, Debug)]
pub enum Sink<'a> {
    /// A file of so many frames, as fast as it can be made.
    File { path: &'a Path, frames: u32 },
    /// A publish in real time, with a clock burnt in, until it is stopped.
    Live { url: &'a str },
}

/// Whether another frame is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Continue {
    Yes,
    No,
}

/// The two ffmpeg processes and the stamping between them.
#[derive(Debug)]
pub struct Generator {
    layout: Layout,
    fps: u32,
    band: Band,
    draw: Child,
    encode: Child,
    stamped: u32,
}

impl Generator {
    /// Starts both; their logs go to `directory`.
    pub fn start(recipe: &Recipe, sink: Sink, directory: &Path, name: &str) -> Result<Self> {
        let draw = Child::start(
            &format!("{name}-draw"),
            directory,
            draw_command(recipe, sink).stdin(Stdio::null()).stdout(Stdio::piped()),
        )?;
        let encode = Child::start(
            &format!("{name}-encode"),
            directory,
            encode_command(recipe, sink).stdin(Stdio::piped()).stdout(Stdio::null()),
        )?;
        let (layout, fps, band) = (recipe.layout(), recipe.fps, recipe.band);
        Ok(Self { layout, fps, band, draw, encode, stamped: 0 })
    }

    /// Stamps frame after frame until there are no more, the encoder is gone, or `go_on` says
    /// so.
    pub fn run(&mut self, mut go_on: impl FnMut(u32) -> Continue) -> Result<()> {
        let mut from = self.draw.take_stdout()?;
        let mut to = self.encode.take_stdin()?;
        // Narrow pipes are only slower, and a user's allowance for wide ones can be used up.
        let _ = (widen(&from), widen(&to));
        let mut frame = vec![0; self.layout.frame_bytes()];
        while go_on(self.stamped) == Continue::Yes && read_whole(&mut from, &mut frame)? {
            let beat = if self.stamped.is_multiple_of(self.fps) { Beat::On } else { Beat::Off };
            picture::stamp(&mut frame, self.layout, self.stamped, beat);
            if self.band == Band::Low {
                picture::stamp_band(&mut frame, self.layout, self.stamped, Band::Low);
            }
            match to.write_all(&frame) {
                Ok(()) => self.stamped += 1,
                Err(error) if error.kind() == ErrorKind::BrokenPipe => break,
                Err(error) => return Err(error).context("writing a frame to the encoder"),
            }
        }
        Ok(())
    }

    /// How many frames went to the encoder.
    #[must_use]
    pub fn stamped(&self) -> u32 {
        self.stamped
    }

    /// Waits until the encoder has written everything.
    pub fn finish(mut self, bound: Duration) -> Result<()> {
        self.encode.finish(bound)
    }
}

fn draw_command(recipe: &Recipe, sink: Sink) -> Command {
    let mut source =
        format!("testsrc2=size={}x{}:rate={}", recipe.width, recipe.height, recipe.fps);
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-hide_banner", "-nostats", "-v", "error", "-f", "lavfi", "-i"]);
    match sink {
        Sink::File { frames, .. } => {
            command.arg(source).args(["-frames:v", &frames.to_string()]);
        }
        Sink::Live { .. } => {
            source.push_str(
                ",drawtext=font=DejaVu Sans:text='%{localtime\\:%T}  %{pts\\:hms}':fontsize=h/12:\
                 fontcolor=white:box=1:boxcolor=black@0.6:boxborderw=8:x=(w-tw)/2:y=h*0.8",
            );
            command.arg(source);
        }
    }
    command.args(["-pix_fmt", "yuv420p", "-f", "rawvideo", "pipe:1"]);
    command
}

fn encode_command(recipe: &Recipe, sink: Sink) -> Command {
    let mut command = Command::new("ffmpeg");
    let size = format!("{}x{}", recipe.width, recipe.height);
    let rate = format!("{}k", recipe.video_kbps);
    command.args(["-hide_banner", "-nostats", "-y", "-v", "error"]);
    if matches!(sink, Sink::Live { .. }) {
        command.arg("-re");
    }
    command.args(["-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", &size]);
    command.args(["-r", &recipe.fps.to_string(), "-i", "pipe:0"]);
    if let Some((tone, kbps)) = tone(recipe.audio) {
        if let Sink::File { .. } = sink {
            command.args(["-t", &recipe.seconds.to_string()]);
        }
        command.args(["-f", "lavfi", "-i", &tone]);
        command.args(["-c:a", "aac", "-b:a", &format!("{kbps}k"), "-ac", "2"]);
    }
    let gop = recipe.gop.to_string();
    command.args(["-c:v", "libx264", "-preset", recipe.preset, "-pix_fmt", "yuv420p"]);
    command.args(["-b:v", &rate, "-maxrate", &rate, "-bufsize", &rate]);
    command.args(["-g", &gop, "-keyint_min", &gop, "-sc_threshold", "0"]);
    command.args(["-bf", &recipe.b_frames.to_string()]);
    match sink {
        Sink::File { path, .. } => command.args(["-f", "flv"]).arg(path),
        Sink::Live { url } => command.args(["-shortest", "-f", "flv", url]),
    };
    command
}

/// What the source of the sound is given, and the bitrate of its encoder.
fn tone(audio: Audio) -> Option<(String, u32)> {
    let source = |exprs: &str| format!("aevalsrc=exprs='{exprs}':sample_rate=48000");
    match audio {
        Audio::None => None,
        Audio::Beat { kbps } => {
            Some((source(&format!("if(lt(mod(t,1),{BURST_S}),0.5*sin(2*PI*1000*t),0)")), kbps))
        }
        Audio::Glide { kbps } => {
            let up = "0.3*sin(2*PI*(300*t+30*t*t))";
            let steady = "0.2*sin(2*PI*1777*t)";
            let down = "0.1*sin(2*PI*(5000*t-20*t*t))";
            Some((source(&format!("{up}+{steady}+{down}")), kbps))
        }
    }
}

fn widen(pipe: &impl std::os::fd::AsFd) -> nix::Result<i32> {
    nix::fcntl::fcntl(pipe, nix::fcntl::FcntlArg::F_SETPIPE_SZ(PIPE_BYTES))
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
