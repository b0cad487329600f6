//! `./dev soak NAME`: the long versions of what `./dev test` asserts.

mod harness;

use std::process::ExitCode;
use tasuki_tests::named::{self, Named};

const SOAKS: &[Named] = &[Named {
    name: "harness",
    about: "publishes to the origin directly, over and over: the harness itself [--rounds N]",
    run: harness::run,
}];

fn main() -> ExitCode {
    named::main("soak", SOAKS)
}
