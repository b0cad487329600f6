//! A real Chromium without a screen, driven over the DevTools protocol on two pipes
//! (`--remote-debugging-pipe`: commands on its descriptor 3, answers on 4, each ended by a NUL).

use crate::child::{self, Child};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

/// Some distributions have no package of it.
pub const PROGRAM: &str = "chromium";
/// A busy machine starts it slowly.
const ANSWER_BOUND: Duration = Duration::from_secs(40);
/// The shell gives it its descriptors: what is piped to and from it becomes 3 and 4.
const WITH_PIPES: &str = r#"exec "$@" 3<&0 4>&1 </dev/null >/dev/null"#;

/// The size of a window, and which colours its user prefers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    pub width: u32,
    pub height: u32,
    pub scheme: Scheme,
    pub device: Device,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Light,
    Dark,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    Desktop,
    Phone,
}

impl Look {
    pub const DESKTOP: Self =
        Self { width: 1280, height: 800, scheme: Scheme::Light, device: Device::Desktop };
    pub const DARK: Self = Self { scheme: Scheme::Dark, ..Self::DESKTOP };
    pub const PHONE: Self =
        Self { width: 390, height: 844, scheme: Scheme::Light, device: Device::Phone };
}

/// A key, as the DevTools protocol wants to hear of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    Tab,
    Enter,
    Escape,
}

impl Key {
    fn name(self) -> &'static str {
        match self {
            Self::Tab => "Tab",
            Self::Enter => "Enter",
            Self::Escape => "Escape",
        }
    }

    /// Windows' number, and what it types.
    fn code(self) -> (u32, &'static str) {
        match self {
            Self::Tab => (9, ""),
            Self::Enter => (13, "\r"),
            Self::Escape => (27, ""),
        }
    }
}

/// A browser with one page.
#[derive(Debug)]
pub struct Browser {
    /// Closed first: that is its order to end, with all its processes.
    commands: ChildStdin,
    process: Child,
    answers: Receiver<Value>,
    asked: u64,
    /// Of the page; empty while there is none.
    session: String,
}

impl Browser {
    /// Starts it with a profile of its own below `run`; `name` is that of its log.
    pub fn start(run: &Path, name: &str) -> Result<Self> {
        child::require(PROGRAM)?;
        let mut command = Command::new("sh");
        command.args([
            "-c",
            WITH_PIPES,
            "sh",
            PROGRAM,
            "--headless=new",
            "--remote-debugging-pipe",
        ]);
        if nix::unistd::geteuid().is_root() {
            command.arg("--no-sandbox");
        }
        command.args([
            "--no-first-run",
            "--disable-gpu",
            "--mute-audio",
            "--autoplay-policy=no-user-gesture-required",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-extensions",
        ]);
        command.arg(format!("--user-data-dir={}", run.join(format!("{name}-profile")).display()));
        command.arg("about:blank").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Child::start(name, run, &mut command)?;
        let commands = process.take_stdin()?;
        let answers = receive(process.take_stdout()?);
        let mut browser = Self { process, commands, answers, asked: 0, session: String::new() };
        let target = browser.ask("Target.createTarget", json!({ "url": "about:blank" }))?;
        let target = target["targetId"].as_str().context("a target")?;
        let attach = json!({ "targetId": target, "flatten": true });
        let attached = browser.ask("Target.attachToTarget", attach)?;
        browser.session = attached["sessionId"].as_str().context("a session")?.to_owned();
        browser.ask("Page.enable", json!({}))?;
        browser.ask("Runtime.enable", json!({}))?;
        Ok(browser)
    }

    #[must_use]
    pub fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// Sends one command and waits for its result; events are passed over.
    pub fn ask(&mut self, method: &str, parameters: Value) -> Result<Value> {
        self.process.must_run()?;
        self.asked += 1;
        let mut command = json!({ "id": self.asked, "method": method, "params": parameters });
        if !self.session.is_empty() {
            command["sessionId"] = json!(self.session);
        }
        let mut bytes = serde_json::to_vec(&command)?;
        bytes.push(0);
        self.commands.write_all(&bytes).with_context(|| method.to_owned())?;
        loop {
            let answer = self.answers.recv_timeout(ANSWER_BOUND);
            let answer = answer.with_context(|| format!("no answer to {method}"))?;
            if answer["id"].as_u64() != Some(self.asked) {
                continue;
            }
            if let Some(error) = answer.get("error") {
                bail!("{method}: {error}");
            }
            return Ok(answer["result"].clone());
        }
    }

    /// Runs a script in every page before its own.
    pub fn before_pages(&mut self, script: &str) -> Result<()> {
        self.ask("Page.addScriptToEvaluateOnNewDocument", json!({ "source": script })).map(drop)
    }

    pub fn navigate(&mut self, url: &str) -> Result<()> {
        let went = self.ask("Page.navigate", json!({ "url": url }))?;
        ensure!(went.get("errorText").is_none(), "{url}: {}", went["errorText"]);
        Ok(())
    }

    /// The value of an expression, which may be a promise.
    pub fn evaluate(&mut self, expression: &str) -> Result<Value> {
        let parameters =
            json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let answer = self.ask("Runtime.evaluate", parameters)?;
        if let Some(thrown) = answer.get("exceptionDetails") {
            bail!("{expression}: {thrown}");
        }
        Ok(answer["result"]["value"].clone())
    }

    /// Presses a key and lets it go.
    pub fn press(&mut self, key: Key) -> Result<()> {
        let (code, text) = key.code();
        for way in ["keyDown", "keyUp"] {
            let stroke = json!({
                "type": way, "key": key.name(), "code": key.name(), "text": text,
                "windowsVirtualKeyCode": code
            });
            self.ask("Input.dispatchKeyEvent", stroke)?;
        }
        Ok(())
    }

    /// Presses the mouse's first button there and lets it go.
    pub fn click(&mut self, x: f64, y: f64) -> Result<()> {
        for (way, button) in
            [("mouseMoved", "none"), ("mousePressed", "left"), ("mouseReleased", "left")]
        {
            let event = json!({ "type": way, "x": x, "y": y, "button": button, "clickCount": 1 });
            self.ask("Input.dispatchMouseEvent", event)?;
        }
        Ok(())
    }

    pub fn show_as(&mut self, look: Look) -> Result<()> {
        let Look { width, height, scheme, device } = look;
        let (scale, mobile) = match device {
            Device::Desktop => (1, false),
            Device::Phone => (3, true),
        };
        let metrics = json!({
            "width": width, "height": height, "deviceScaleFactor": scale, "mobile": mobile
        });
        self.ask("Emulation.setDeviceMetricsOverride", metrics)?;
        let scheme = match scheme {
            Scheme::Light => "light",
            Scheme::Dark => "dark",
        };
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.ask("Emulation.setEmulatedMedia", media).map(drop)
    }

    /// What the window shows, as a PNG.
    pub fn screenshot(&mut self, into: &Path) -> Result<()> {
        self.capture(json!({ "format": "png" }), into)
    }

    /// The whole page, as a PNG.
    pub fn screenshot_of_all(&mut self, into: &Path) -> Result<()> {
        self.capture(json!({ "format": "png", "captureBeyondViewport": true }), into)
    }

    fn capture(&mut self, parameters: Value, into: &Path) -> Result<()> {
        let shot = self.ask("Page.captureScreenshot", parameters)?;
        let text = shot["data"].as_str().context("no picture")?;
        let bytes = base64(text).context("the picture is not base64")?;
        std::fs::write(into, bytes).with_context(|| into.display().to_string())
    }
}

/// Everything it says, message by message, until it is gone.
fn receive(from: ChildStdout) -> Receiver<Value> {
    let (to, answers) = mpsc::channel();
    thread::spawn(move || {
        let mut reader = BufReader::new(from);
        let mut message = Vec::new();
        while reader.read_until(0, &mut message).is_ok_and(|read| read > 0) {
            message.pop();
            let Ok(value) = serde_json::from_slice(&message) else { break };
            if to.send(value).is_err() {
                break;
            }
            message.clear();
        }
    });
    answers
}

/// RFC 4648, 4.
fn base64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut held) = (0_u32, 0_u32);
    for character in text.bytes().filter(|byte| *byte != b'=') {
        let value = match character {
            b'A'..=b'Z' => character - b'A',
            b'a'..=b'z' => character - b'a' + 26,
            b'0'..=b'9' => character - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push(u8::try_from((bits >> held) & 0xff).ok()?);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::base64;

    #[test]
    fn base64_is_read() {
        assert_eq!(base64("VGFzdWtpIQ==").as_deref(), Some(&b"Tasuki!"[..]));
        assert_eq!(base64("/+8=").as_deref(), Some(&[0xff, 0xef][..]));
        assert_eq!(base64("V*"), None);
    }
}
