//! A list of named runs, as `./dev soak NAME` and `./dev bench NAME` offer it.

use anyhow::{Result, bail};
use std::process::ExitCode;

/// One run that can be asked for by name.
#[derive(Clone, Copy)]
pub struct Named {
    pub name: &'static str,
    /// What it measures or proves, in a line.
    pub about: &'static str,
    /// Gets the arguments that follow the name.
    pub run: fn(&[String]) -> Result<()>,
}

/// Runs what the command line names; `list` shows what there is.
pub fn main(kind: &str, entries: &[Named]) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(kind, entries, &arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{kind}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(kind: &str, entries: &[Named], arguments: &[String]) -> Result<()> {
    let Some((name, rest)) = arguments.split_first() else {
        print!("{}", listing(kind, entries));
        bail!("a name is missing");
    };
    if name == "list" {
        print!("{}", listing(kind, entries));
        return Ok(());
    }
    match entries.iter().find(|entry| entry.name == name) {
        Some(entry) => (entry.run)(rest),
        None => bail!("there is no {kind} called {name}\n{}", listing(kind, entries)),
    }
}

fn listing(kind: &str, entries: &[Named]) -> String {
    entries.iter().fold(format!("./dev {kind} NAME, where NAME is one of\n"), |text, entry| {
        format!("{text}  {:<16} {}\n", entry.name, entry.about)
    })
}

/// A word given as `--name WORD`.
pub fn text<'a>(arguments: &'a [String], name: &str) -> Result<Option<&'a str>> {
    let flag = format!("--{name}");
    let Some(at) = arguments.iter().position(|argument| *argument == flag) else {
        return Ok(None);
    };
    match arguments.get(at + 1) {
        Some(word) => Ok(Some(word)),
        None => bail!("{flag} needs a word"),
    }
}

/// A number given as `--name N`, or `default`.
pub fn number(arguments: &[String], name: &str, default: u32) -> Result<u32> {
    let flag = format!("--{name}");
    let Some(at) = arguments.iter().position(|argument| *argument == flag) else {
        return Ok(default);
    };
    match arguments.get(at + 1).map(|text| text.parse()) {
        Some(Ok(number)) => Ok(number),
        Some(Err(_)) | None => bail!("{flag} needs a number"),
    }
}
