//! OBS Studio as a publisher, on a screen that nobody sees.
//!
//! OBS draws one colour at 720p30 and publishes it with x264 and AAC from its start to its end.

use crate::child::{self, Child};
use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const END_BOUND: Duration = Duration::from_secs(20);

const GLOBAL: &str = "[General]
FirstRun=true
LastVersion=486539266
EnableAutoUpdates=false
[Basic]
Profile=T
ProfileDir=T
SceneCollection=T
SceneCollectionFile=T
";

const PROFILE: &str = "[General]
Name=T
[Video]
BaseCX=1280
BaseCY=720
OutputCX=1280
OutputCY=720
FPSCommon=30
[Output]
Mode=Simple
[SimpleOutput]
VBitrate=2500
ABitrate=128
StreamEncoder=x264
Preset=veryfast
[Audio]
SampleRate=48000
ChannelSetup=Stereo
";

const SCENE: &str = r#"{"current_scene":"S","current_program_scene":"S","name":"T",
"scene_order":[{"name":"S"}],"sources":[
{"id":"color_source_v3","name":"C","settings":{"color":4278190335,"width":1280,"height":720}},
{"id":"scene","name":"S","settings":{"id_counter":1,"items":[{"name":"C","id":1,
"visible":true,"pos":{"x":0,"y":0},"scale":{"x":1,"y":1}}]}}]}"#;

/// What is missing here to run it, if anything.
#[must_use]
pub fn missing() -> Option<&'static str> {
    ["obs", "Xvfb"].into_iter().find(|program| !child::installed(program))
}

/// OBS and its screen; both end with the value.
#[derive(Debug)]
pub struct Obs {
    obs: Child,
    _screen: Child,
}

impl Obs {
    /// Publishes to `server` (`rtmp://HOST/APP`) under `key` until it is stopped.
    pub fn start(run: &Path, server: &str, key: &str) -> Result<Self> {
        let home = run.join("obs");
        let settings = home.join(".config/obs-studio");
        let profile = settings.join("basic/profiles/T");
        let scenes = settings.join("basic/scenes");
        let runtime = home.join("run");
        for directory in [&profile, &scenes, &runtime] {
            fs::create_dir_all(directory)?;
        }
        fs::write(settings.join("global.ini"), GLOBAL)?;
        fs::write(profile.join("basic.ini"), PROFILE)?;
        fs::write(scenes.join("T.json"), SCENE)?;
        let service = serde_json::json!({
            "type": "rtmp_custom",
            "settings": { "server": server, "key": key, "use_auth": false },
        });
        fs::write(profile.join("service.json"), service.to_string())?;

        let mut xvfb = Command::new("Xvfb");
        xvfb.args(["-displayfd", "1", "-screen", "0", "1280x800x24", "-nolisten", "tcp"]);
        let mut screen =
            Child::start("xvfb", run, xvfb.stdin(Stdio::null()).stdout(Stdio::piped()))?;
        let mut display = String::new();
        // It writes its number as soon as it takes clients, and closes the pipe if it cannot.
        BufReader::new(screen.take_stdout()?).read_line(&mut display)?;
        let display = format!(":{}", display.trim().parse::<u32>().context("a display number")?);

        let mut command = Command::new("obs");
        command.args(["--profile", "T", "--collection", "T", "--scene", "S"]);
        command.args(["--startstreaming", "--multi", "--disable-updater"]);
        command.env("HOME", &home).env("XDG_RUNTIME_DIR", &runtime);
        command.env_remove("XDG_CONFIG_HOME").env_remove("WAYLAND_DISPLAY");
        command.env("LIBGL_ALWAYS_SOFTWARE", "1").env("QT_QPA_PLATFORM", "xcb");
        command.env("DISPLAY", display).stdin(Stdio::null()).stdout(Stdio::null());
        let obs = Child::start("obs", run, &mut command)?;
        Ok(Self { obs, _screen: screen })
    }

    #[must_use]
    pub fn log(&self) -> String {
        self.obs.log()
    }

    pub fn must_run(&mut self) -> Result<()> {
        self.obs.must_run()
    }

    /// Asks it to end, as closing its window does, and waits until it has.
    pub fn stop(mut self) -> Result<()> {
        self.obs.signal(Signal::SIGTERM)?;
        self.obs.wait(END_BOUND)?;
        Ok(())
    }
}
