//! The checks on streams whose worker was killed see what an adoption leaves out: each omission is
//! made on purpose, in the very place, and the same checks that pass a sound adoption must name it.

use anyhow::{Context, ensure};
use tasuki_shared::failpoint::Point;
use tasuki_tests::kill_controls::{self, finding};
use tasuki_tests::place::in_run_directory;

const SECONDS: u32 = 8;
/// What is said of a packet that comes twice: a picture that a decoder cannot place is no longer
/// readable, sound has the same time once more.
const TWICE: [&str; 4] = ["frames repeated", "unreadable pictures", "ms follows", "more audio"];

/// A worker dies at `death`, whoever adopts its stream makes the omission, and what the checks say
/// of that must have one of these words.
fn found(label: &'static str, death: Point, omission: Point, words: &[&str]) {
    in_run_directory(label, |run| {
        let dying = kill_controls::kill(run.path(), SECONDS, &[death], Some(omission))?;
        let error = dying.finish().err().context("the omission was not found")?;
        let finding = finding(&error);
        println!("{finding}");
        ensure!(
            words.iter().any(|word| finding.contains(word)),
            "it says something else: {error:#}"
        );
        Ok(())
    });
}

/// Nothing left out: deaths at the same points cost nothing.
#[test]
fn deaths_at_the_points_of_the_controls_cost_nothing() {
    const DEATHS: [Point; 4] =
        [Point::MidChunk, Point::BetweenMessages, Point::PushWrote, Point::CommitFlipped];
    in_run_directory("kill-sound", |run| {
        kill_controls::kill(run.path(), 2 * SECONDS, &DEATHS, None)?.finish()?;
        Ok(())
    });
}

#[test]
fn an_adopter_that_does_not_ask_what_was_received_is_found() {
    // Lost are whole messages, pictures or sound, or the reader's place in one and with it the
    // connection.
    let words = ["missing", "audio packet", "A/V skew", "a publisher was disconnected"];
    found("kill-inbound", Point::MidChunk, Point::InboundCount, &words);
}

#[test]
fn an_adopter_that_does_not_ask_what_was_sent_is_found() {
    found("kill-outbound", Point::PushWrote, Point::OutboundCount, &TWICE);
}

#[test]
fn an_adopter_that_takes_an_older_record_is_found() {
    // The kernel has more than the older record covers: the push is dialled anew.
    found("kill-stale", Point::PushWrote, Point::NewestRecord, &["was published 2 times"]);
}

#[test]
fn an_adopter_that_ignores_what_was_encoded_is_found() {
    found("kill-encoded", Point::CommitFlipped, Point::EncodedFrames, &["frames repeated"]);
}

#[test]
fn an_adopter_that_trusts_the_uncommitted_tail_of_a_log_is_found() {
    found("kill-tail", Point::BetweenMessages, Point::CommittedHeads, &TWICE);
}
