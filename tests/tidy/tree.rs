//! The shape of the repository.

use crate::{none_of, tracked};

/// Everything that may lie at the top, besides dotfiles.
const TOP: &[&str] = &[
    "shared",
    "supervisor",
    "worker",
    "systemd",
    "tests",
    "docs",
    "README.md",
    "LICENSE",
    "Cargo.toml",
    "Cargo.lock",
    "dev",
    "clippy.toml",
    "rustfmt.toml",
    "deny.toml",
];

#[test]
fn nothing_lies_at_the_top_that_does_not_belong_there() {
    let mut findings: Vec<String> = tracked()
        .iter()
        .filter_map(|file| file.path.split('/').next().map(str::to_owned))
        .filter(|entry| !entry.starts_with('.') && !TOP.contains(&entry.as_str()))
        .collect();
    findings.dedup();
    none_of(&findings);
}

#[test]
fn every_test_says_what_it_proves_by_its_name() {
    let mut findings = Vec::new();
    for file in tracked().iter().filter(|file| file.is_rust()) {
        let mut lines = file.lines().peekable();
        while let Some((_, line)) = lines.next() {
            if line.trim() != "#[test]" {
                continue;
            }
            let Some((number, next)) = lines.find(|(_, line)| line.contains("fn ")) else { break };
            let name = next.split("fn ").nth(1).and_then(|rest| rest.split('(').next());
            let is_sentence = name.is_some_and(|name| name.matches('_').count() >= 2);
            let is_commented =
                lines.peek().is_some_and(|(_, line)| line.trim_start().starts_with("//"));
            if !is_sentence && !is_commented {
                findings.push(format!("{}:{number}: {}", file.path, next.trim()));
            }
        }
    }
    none_of(&findings);
}
