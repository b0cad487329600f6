//! `./dev bench NAME`: figures, each beside those of a peer in the same run.
//!
//! No bench asserts a time; one whose run was not what it should be (frames missing, publishers
//! refused or held up) fails.

mod connect;
mod crowd;
mod fixture;
mod fleet;
mod handoff;
mod kill;
mod ladder;
mod measure;
mod moves;
mod relay;
mod rtmp;
mod sink;
mod viewers;
mod watch;

use std::process::ExitCode;
use tasuki_tests::named::{self, Named};

const BENCHES: &[Named] = &[
    Named {
        name: "ladder",
        about: "CPU, memory and quality of a ladder, against the ffmpeg command",
        run: ladder::run,
    },
    Named {
        name: "relay",
        about: "CPU of pass-through streams, against nginx-rtmp's push",
        run: relay::run,
    },
    Named {
        name: "handoff",
        about: "what accepting a connection and handing it over costs",
        run: handoff::run,
    },
    Named {
        name: "move",
        about: "pause, gap at the origin and CPU of moves, against streams that stay [--moves N]",
        run: moves::run,
    },
    Named {
        name: "kill",
        about: "kill -9 of a worker to its streams' going on elsewhere [--streams N --kills N --rounds N]",
        run: kill::run,
    },
    Named {
        name: "connect",
        about: "connect to publish accepted under load, against nginx-rtmp",
        run: connect::run,
    },
    Named {
        name: "viewers",
        about: "delay and cost of LL-HLS viewers, against nginx serving the same files [--few N --many N --streams N --seconds N]",
        run: viewers::run,
    },
    Named {
        name: "watch",
        about: "glass to glass in a real Chromium, our player beside hls.js as it is [--seconds N]",
        run: watch::run,
    },
    Named {
        name: "fixture",
        about: "how fast a file is decoded and its numbers are read",
        run: fixture::run,
    },
];

fn main() -> ExitCode {
    named::main("bench", BENCHES)
}
