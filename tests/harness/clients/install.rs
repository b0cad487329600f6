//! Gets the clients of other people, in the versions of tests/clients, below the target directory.

use crate::child::{self, Child};
use crate::place;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Some megabytes, by whatever network there is.
const INSTALL_BOUND: Duration = Duration::from_secs(300);
const SCRIPTS: [&str; 2] = ["hls_parser.mjs", "python_m3u8.py"];
/// What says which versions: where one changed all is installed anew.
const LISTS: [&str; 3] = ["package.json", "package-lock.json", "requirements.txt"];
/// Holds the lists of what is installed, and is written last.
const STAMP: &str = "installed";

/// Where they are.
#[derive(Clone, Debug)]
pub struct Installed {
    pub directory: PathBuf,
}

impl Installed {
    #[must_use]
    pub fn python(&self) -> PathBuf {
        self.directory.join("venv/bin/python")
    }

    /// The scripts of shaka-player.
    #[must_use]
    pub fn shaka(&self) -> PathBuf {
        self.directory.join("node_modules/shaka-player/dist")
    }
}

/// Installs what is not there yet.
pub fn install() -> Result<Installed> {
    for program in ["node", "npm", "python3"] {
        child::require(program).context("./dev soak clients installs it")?;
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients");
    let directory = place::target_directory()?.join("clients");
    fs::create_dir_all(&directory)?;
    for file in SCRIPTS.iter().chain(&LISTS) {
        fs::copy(source.join(file), directory.join(file)).with_context(|| (*file).to_owned())?;
    }
    let mut lists = String::new();
    for file in LISTS {
        lists.push_str(&fs::read_to_string(directory.join(file))?);
    }
    let installed = Installed { directory };
    let stamp = installed.directory.join(STAMP);
    if fs::read_to_string(&stamp).is_ok_and(|found| found == lists) {
        return Ok(installed);
    }
    println!("getting hls-parser and shaka-player (npm) and m3u8 (PyPI), once");
    // Their own scripts have no business here.
    must(&installed, "npm", &["ci", "--ignore-scripts", "--no-audit", "--no-fund"])?;
    must(&installed, "python3", &["-m", "venv", "--clear", "venv"])
        .context("a package python3-venv is needed")?;
    let python = installed.python().display().to_string();
    let pip = ["-m", "pip", "install", "--require-hashes", "--requirement", "requirements.txt"];
    must(&installed, &python, &pip)?;
    fs::write(stamp, lists)?;
    Ok(installed)
}

fn must(installed: &Installed, program: &str, arguments: &[&str]) -> Result<()> {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(&installed.directory);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let mut process = Child::start("install", &installed.directory, &mut command)?;
    process.finish(INSTALL_BOUND).with_context(|| {
        format!("{program} {}: is there a way to the registries?", arguments.join(" "))
    })
}
