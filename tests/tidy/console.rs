//! The console's page is built with node, and its result is committed so that building the server
//! needs none: it must be of the sources that lie beside it.

use crate::{none_of, top, tracked};
use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

const CONSOLE: &str = "worker/console/";
const LIST: &str = "dist/SOURCES.sha256";

#[test]
fn the_console_that_is_embedded_was_built_from_its_sources() {
    let directory = top().join(CONSOLE);
    let list = fs::read_to_string(directory.join(LIST)).expect("the console is built");
    let listed: BTreeSet<&str> = list.lines().filter_map(|line| line.split("  ").nth(1)).collect();
    let files = tracked();
    let sources: BTreeSet<&str> = files
        .iter()
        .filter_map(|file| file.path.strip_prefix(CONSOLE))
        .filter(|path| is_source(path))
        .collect();
    let findings: Vec<String> = listed
        .symmetric_difference(&sources)
        .map(|path| format!("{CONSOLE}{path} is not in both {LIST} and the sources"))
        .collect();
    none_of(&findings);
    let checked = Command::new("sha256sum")
        .args(["--check", "--strict", "--quiet", LIST])
        .current_dir(&directory)
        .output()
        .expect("sha256sum runs");
    let told = String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success(), "run `npm run build` in {CONSOLE}: {told}");
}

/// What build.mjs makes dist/ of.
fn is_source(path: &str) -> bool {
    let is_page = path.ends_with(".html") && !path.contains('/');
    let is_build = ["build.mjs", "package.json", "package-lock.json"].contains(&path);
    path.starts_with("src/") || is_page || is_build
}
