//! Rust sources: length, purity of `core/`, words, unsafe.

use crate::{Tracked, none_of, tracked};
use tasuki_shared::failpoint::Point;

const LINES_WARN: usize = 500;
const LINES_MAX: usize = 600;
/// Files that may be longer, with the reason.
const LONG_FILES: &[(&str, &str)] = &[];

/// `core/` gets time, bytes and chance as inputs.
const IMPURE: &[&str] = &[
    "std::fs",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "ToSocketAddrs",
    "std::thread",
    "std::process",
    "std::time::Instant::now",
    "SystemTime",
    "clock::now",
    "clock::unix_ms",
    "clock::pause",
    "nix::",
    "libc::",
    "tokio::",
    "tracing::",
    "rand::",
];

/// Words that name nothing: say what the thing is.
const BANNED: &[&str] = &["manager", "helper", "util", "utils", "handler"];
/// Where a foreign interface has such a word: path or directory, word, whose word it is.
const BANNED_ALLOWED: &[(&str, &str, &str)] = &[
    ("worker/src/package/fmp4.rs", "handler", "a box of ISO/IEC 14496-12"),
    ("worker/src/libav/", "util", "libavutil's name"),
    ("worker/src/delivery/", "util", "names of hyper's crates"),
    ("worker/src/console/", "util", "names of hyper's crates"),
    ("worker/src/fatal.rs", "handler", "sigaction(2)"),
    ("supervisor/src/fatal.rs", "handler", "sigaction(2)"),
];

/// Where unsafe may be, as path or directory.
const UNSAFE_ALLOWED: &[&str] = &[
    "shared/src/inherit.rs",
    "shared/src/kernel.rs",
    "shared/src/memory/map.rs",
    "worker/src/allocator.rs",
    "worker/src/fatal.rs",
    "supervisor/src/fatal.rs",
    "worker/src/libav/",
];

#[test]
fn no_source_is_longer_than_can_be_held_in_mind() {
    let mut findings = Vec::new();
    for file in tracked().iter().filter(|file| file.is_rust()) {
        let lines = file.text.lines().count();
        let is_excused = LONG_FILES.iter().any(|(path, _)| *path == file.path);
        if lines > LINES_MAX && !is_excused {
            findings.push(format!("{}: {lines} lines, at most {LINES_MAX}", file.path));
        } else if lines > LINES_WARN {
            eprintln!("{}: {lines} lines; split it before {LINES_MAX}", file.path);
        }
    }
    for (path, reason) in LONG_FILES {
        assert!(!reason.is_empty(), "{path} is excused without a reason");
    }
    none_of(&findings);
}

#[test]
fn core_is_pure() {
    let mut findings = Vec::new();
    for file in tracked().iter().filter(|file| file.is_rust() && file.path.contains("/core/")) {
        for (number, line) in code_lines(file) {
            for word in IMPURE.iter().filter(|word| line.contains(**word)) {
                findings.push(format!("{}:{number}: {word}", file.path));
            }
        }
    }
    none_of(&findings);
}

#[test]
fn nothing_is_called_by_a_word_that_names_nothing() {
    let mut findings = Vec::new();
    // This file has to spell the words.
    for file in
        tracked().iter().filter(|file| file.is_rust() && !file.path.starts_with("tests/tidy/"))
    {
        for word in words(&file.path).filter(|word| BANNED.contains(&word.as_str())) {
            findings.push(format!("{}: the file is called {word}", file.path));
        }
        for (number, line) in code_lines(file) {
            for word in words(line).filter(|word| is_banned(&file.path, word)) {
                findings.push(format!("{}:{number}: {word}", file.path));
            }
        }
    }
    none_of(&findings);
}

#[test]
fn unsafe_is_only_where_the_style_lists_it() {
    let mut findings = Vec::new();
    for file in tracked().iter().filter(|file| file.is_rust()) {
        let is_allowed = UNSAFE_ALLOWED.iter().any(|allowed| {
            file.path == *allowed || (allowed.ends_with('/') && file.path.starts_with(allowed))
        });
        if is_allowed || file.path.starts_with("tests/tidy/") {
            continue;
        }
        for (number, line) in code_lines(file) {
            let has_unsafe =
                ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "unsafe trait"]
                    .iter()
                    .any(|form| line.contains(form));
            if has_unsafe {
                findings.push(format!("{}:{number}: {}", file.path, line.trim()));
            }
        }
    }
    none_of(&findings);
}

#[test]
fn words_of_an_identifier_are_told_apart_in_every_case_style() {
    let of = |text| words(text).collect::<Vec<_>>();
    assert_eq!(of("StreamManager::new"), ["stream", "manager", "new"]);
    assert_eq!(of("path_util/HTTPHelper.rs"), ["path", "util", "httphelper", "rs"]);
    assert_eq!(of("utility"), ["utility"]);
}

#[test]
fn each_failpoint_stands_in_exactly_one_place_of_the_code() {
    let files = tracked();
    let product: Vec<&Tracked> = files
        .iter()
        .filter(|file| file.is_rust() && !file.path.starts_with("tests/"))
        .filter(|file| !file.path.starts_with("shared/src/failpoint"))
        .collect();
    let mut findings = Vec::new();
    for point in Point::ALL {
        let place = format!("Point::{}", point.name());
        let stands = |line: &str| {
            line.match_indices(&place).any(|(at, _)| {
                let next = line[at + place.len()..].chars().next();
                next.is_none_or(|character| !character.is_alphanumeric())
            })
        };
        let places: usize = product
            .iter()
            .map(|file| code_lines(file).filter(|(_, line)| stands(line)).count())
            .sum();
        if places != 1 {
            findings.push(format!("{} stands in {places} places", point.name()));
        }
    }
    none_of(&findings);
}

fn is_banned(path: &str, word: &str) -> bool {
    let is_foreign =
        |(place, foreign, _): &(&str, &str, &str)| path.starts_with(place) && word == *foreign;
    BANNED.contains(&word) && !BANNED_ALLOWED.iter().any(is_foreign)
}

/// Lines that are not comments, with strings left in: a name in a message counts as well.
fn code_lines(file: &Tracked) -> impl Iterator<Item = (usize, &str)> {
    file.lines().filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// Lower-case words of snake_case, CamelCase and paths.
fn words(text: &str) -> impl Iterator<Item = String> {
    let mut separated = String::with_capacity(text.len() * 2);
    let mut before = ' ';
    for character in text.chars() {
        if before.is_lowercase() && character.is_uppercase() {
            separated.push(' ');
        }
        let is_part = character.is_alphanumeric();
        separated.extend(if is_part { character.to_lowercase().next() } else { Some(' ') });
        before = character;
    }
    separated.split_whitespace().map(str::to_owned).collect::<Vec<_>>().into_iter()
}
