//! Documentation and traces of the machine that a file was written on.

use crate::{none_of, top, tracked};
use std::path::Path;

#[test]
fn relative_links_of_the_documents_lead_somewhere() {
    let mut findings = Vec::new();
    for file in tracked().iter().filter(|file| file.is_markdown()) {
        let directory = top().join(&file.path).parent().map(Path::to_path_buf).unwrap_or_default();
        for (number, line) in file.lines() {
            for target in links(line) {
                let path = target.split('#').next().unwrap_or_default();
                let is_elsewhere =
                    path.is_empty() || path.contains("://") || path.starts_with("mailto:");
                if !is_elsewhere && !directory.join(path).exists() {
                    findings.push(format!("{}:{number}: {target}", file.path));
                }
            }
        }
    }
    none_of(&findings);
}

#[test]
fn no_file_names_a_path_of_the_machine_it_was_written_on() {
    // Put together here so that this file does not contain them.
    let foreign = [["/wo", "rk/"].concat(), ["/ro", "ot/"].concat(), ["/ho", "me/"].concat()];
    let mut findings = Vec::new();
    for file in &tracked() {
        for (number, line) in file.lines() {
            for path in foreign.iter().filter(|path| begins_a_path(line, path)) {
                findings.push(format!("{}:{number}: {path}", file.path));
            }
        }
    }
    none_of(&findings);
}

#[test]
fn a_link_is_found_with_its_target_only() {
    assert_eq!(
        links("see [a](docs/A.md#x) and [b](https://b.example)"),
        ["docs/A.md#x", "https://b.example"]
    );
    assert_eq!(links("array[0](1)"), ["1"]);
    assert!(links("no link").is_empty());
}

/// Targets of the inline links of a line.
fn links(line: &str) -> Vec<&str> {
    line.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next()).collect()
}

/// Does the path stand at the beginning of a word, not inside a longer path?
fn begins_a_path(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        before.is_none_or(|character| !character.is_alphanumeric() && !"/._-}~".contains(character))
    })
}
