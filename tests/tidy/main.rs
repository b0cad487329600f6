//! What the style asks of every file, checked on the files that git tracks.

mod console;
mod prose;
mod sources;
mod tree;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A tracked file: its path from the top, and its text if it is text.
struct Tracked {
    path: String,
    text: String,
}

impl Tracked {
    fn is_rust(&self) -> bool {
        has_extension(&self.path, "rs")
    }

    fn is_markdown(&self) -> bool {
        has_extension(&self.path, "md")
    }

    /// Lines with their numbers, from 1.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }
}

fn has_extension(path: &str, extension: &str) -> bool {
    Path::new(path).extension().is_some_and(|found| found == extension)
}

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace").into()
}

/// Every tracked or new file that is not ignored; binary ones have no text.
fn tracked() -> Vec<Tracked> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"])
        .current_dir(top())
        .output()
        .expect("git runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let paths = output.stdout.split(|byte| *byte == 0).filter(|path| !path.is_empty());
    paths
        .map(|path| String::from_utf8_lossy(path).into_owned())
        .filter_map(|path| {
            // A file may be deleted and not yet committed.
            let bytes = fs::read(top().join(&path)).ok()?;
            Some(Tracked { path, text: String::from_utf8(bytes).unwrap_or_default() })
        })
        .collect()
}

/// Fails with one line per finding.
fn none_of(findings: &[String]) {
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings.join("\n"));
}
