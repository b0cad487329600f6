//! `./dev bench NAME`: figures, each beside those of a peer in the same run.

mod fixture;

use std::process::ExitCode;
use tasuki_tests::named::{self, Named};

const BENCHES: &[Named] = &[Named {
    name: "fixture",
    about: "how fast a file is decoded and its numbers are read",
    run: fixture::run,
}];

fn main() -> ExitCode {
    named::main("bench", BENCHES)
}
