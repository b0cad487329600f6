//! `./dev soak NAME`: the long versions of what `./dev test` asserts.

mod browser;
mod clients;
mod deaths;
mod duties;
mod flv;
mod handoff_faults;
mod harness;
mod leak;
mod main_path;
mod moves;
mod policy;
mod rotations;
mod seams;

use std::process::ExitCode;
use tasuki_tests::named::{self, Named};

const SOAKS: &[Named] = &[
    Named {
        name: "browser",
        about: "the player in a real Chromium through moves and deaths [--moves N] [--kills N] [--quiet N] [--deliveries N]",
        run: browser::run,
    },
    Named {
        name: "clients",
        about: "hls-parser, m3u8 and shaka-player through moves and kills [--seconds N] [--moves N] [--kills N]",
        run: clients::run,
    },
    Named {
        name: "harness",
        about: "publishes to the origin directly, over and over: the harness itself [--rounds N]",
        run: harness::run,
    },
    Named {
        name: "flv",
        about: "workers killed under viewers of FLV, every picture accounted for [--kills N]",
        run: flv::run,
    },
    Named {
        name: "duties",
        about: "what an LL-HLS server owes its clients, through moves and kills [--seconds N] [--moves N] [--kills N]",
        run: duties::run,
    },
    Named {
        name: "handoff-faults",
        about: "a fault at each step of a hand-off, one owner after each [--times N]",
        run: handoff_faults::run,
    },
    Named {
        name: "leak",
        about: "leaking workers recycled under live streams, plotted [--minutes N] [--rate-mib-per-minute N] [--streams N]",
        run: leak::run,
    },
    Named {
        name: "main-path",
        about: "1080p30 through the default ladder, every frame accounted for [--seconds N]",
        run: main_path::run,
    },
    Named {
        name: "kills",
        about: "workers killed at random moments and in each phase of their work [--recoveries N] [--each N] [--large N] [--lanes N]",
        run: deaths::run_kills,
    },
    Named {
        name: "failpoints",
        about: "every point of a worker, killed, aborted and hung [--times N] [--lanes N] [--only kill|abort|hang]",
        run: deaths::run_points,
    },
    Named {
        name: "kills-by-hand",
        about: "healthy workers killed by hand: nobody is blamed, nothing is lost [--kills N] [--streams N]",
        run: deaths::run_by_hand,
    },
    Named {
        name: "moves",
        about: "small streams moved from worker to worker, every frame accounted for [--moves N] [--streams N]",
        run: moves::run_small,
    },
    Named {
        name: "moves-large",
        about: "1080p30 and 720p60 moved, every frame accounted for [--moves N]",
        run: moves::run_large,
    },
    Named {
        name: "obs",
        about: "OBS Studio through a ladder, every picture accounted for [--pictures N]",
        run: main_path::run_obs,
    },
    Named {
        name: "policy",
        about: "the memory policy over many simulated lives [--seeds N]",
        run: policy::run,
    },
    Named {
        name: "rotations",
        about: "all workers replaced over and over, by command and by signals [--rotations N] [--in-full N] [--streams N]",
        run: rotations::run,
    },
    Named {
        name: "seams",
        about: "quality behind seams, against a run that was not moved [--seams N]",
        run: seams::run,
    },
];

fn main() -> ExitCode {
    named::main("soak", SOAKS)
}
