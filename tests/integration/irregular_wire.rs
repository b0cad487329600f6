//! What the specification allows on the wire and few servers read: extended timestamps in both
//! ways, interleaved chunk streams, compressed headers, aborts, aggregates, acknowledgements.

use anyhow::{Context, Result, ensure};
use tasuki_tests::fixture::Recipe;
use tasuki_tests::flv::{self, Flv, Kind, Tag};
use tasuki_tests::place::{RunDirectory, in_run_directory};
use tasuki_tests::raw_publisher::{
    Continuation, Format, Message, Pace, RawPublisher, Reply, aggregate,
};
use tasuki_tests::scene::{BOUND, Scene, fault, is_picture, is_sound};

/// Faster than real time, so that a test takes less of it; the pipeline follows easily.
const SPEED: u32 = 2;

fn scene(run: &RunDirectory, seconds: u32) -> Result<Scene> {
    Scene::start(run.path(), Recipe { gop: 30, ..Recipe::small(seconds) }, |_| {})
}

#[test]
fn extended_timestamps_are_read_with_and_without_repetition_and_across_the_wrap() {
    in_run_directory("extended", |run| {
        let mut scene = scene(run, 6)?;
        let cases = [
            ("a", 0xFF_FFFF - 2000, Continuation::Repeats),
            ("b", 0xFF_FFFF - 2000, Continuation::Omits),
            ("c", u32::MAX - 2000, Continuation::Repeats),
            ("d", u32::MAX - 2000, Continuation::Omits),
        ];
        let mut publishers = Vec::new();
        for (name, start_ms, continuation) in cases {
            let mut publisher = RawPublisher::publish(scene.server.address(), name, 100)?;
            publisher.continuation = continuation;
            publishers.push((publisher, start_ms));
        }
        let mut pace = Pace::new(&scene.source.tags, SPEED);
        for tag in &scene.source.tags {
            pace.wait_for(tag);
            for (publisher, start_ms) in &mut publishers {
                publisher.send_tag(tag, start_ms.wrapping_add(tag.dts_ms))?;
            }
        }
        for (name, start_ms, _) in cases {
            let session = scene.wait_encoded(name, 180)?;
            let wraps = fault(&session, "timestamp_wrap");
            let expected = if start_ms > 1 << 31 { 1..=2 } else { 0..=0 };
            ensure!(expected.contains(&wraps), "{name}: {:?}", session.faults);
        }
        for (publisher, _) in publishers {
            publisher.finish(BOUND)?;
        }
        scene.settle()?;
        for (name, ..) in cases {
            scene.check_both(name, 0..=179).context(name)?;
        }
        scene.server.stop()
    });
}

#[test]
fn interleaved_chunk_streams_compressed_headers_aborts_and_aggregates_are_read() {
    in_run_directory("interleaved", |run| {
        let mut scene = scene(run, 6)?;
        let mut publisher = RawPublisher::publish(scene.server.address(), "cam", 90)?;
        let tags = scene.source.tags.clone();
        let mut pace = Pace::new(&tags, SPEED);
        let mut at = 0;
        while at < tags.len() {
            pace.wait_for(&tags[at]);
            let used = match tags[at].dts_ms {
                0..2000 => send_interleaved(&mut publisher, &tags[at..])?,
                2000..4000 => send_aborted(&mut publisher, &tags[at])?,
                _ => send_aggregate(&mut publisher, &tags[at..])?,
            };
            at += used;
        }
        let session = scene.wait_encoded("cam", 180)?;
        ensure!(session.faults.is_empty(), "{:?}", session.faults);
        publisher.finish(BOUND)?;
        scene.settle()?;
        scene.check_both("cam", 0..=179)?;
        flv::check_payloads_identical(
            &scene.source,
            &Flv::read(&scene.recording("cam", "source")?)?,
        )?;
        scene.server.stop()
    });
}

/// A picture and the sound after it, chunk about chunk, on chunk streams with two- and three-byte
/// names; a tag that has no partner goes alone. Returns how many tags were sent.
fn send_interleaved(publisher: &mut RawPublisher, tags: &[Tag]) -> Result<usize> {
    let size = publisher.chunk_size();
    let pair = matches!(tags, [a, b, ..] if is_picture(a) && is_sound(b));
    let count = if pair { 2 } else { 1 };
    let mut queues = Vec::new();
    for tag in &tags[..count] {
        let chunk_stream = if tag.kind == Kind::Audio { 70 } else { 65_599 };
        let message = Message { chunk_stream, ..Message::of_tag(tag, tag.dts_ms) };
        queues.push(message.chunks(size, Format::Full, Continuation::Repeats).into_iter());
    }
    loop {
        let round: Vec<Vec<u8>> = queues.iter_mut().filter_map(Iterator::next).collect();
        if round.is_empty() {
            return Ok(count);
        }
        publisher.send_bytes(&round.concat())?;
    }
}

/// Half a picture that is given up, then the tag under a header of type 1 on a stream whose last
/// message stands at the same time.
fn send_aborted(publisher: &mut RawPublisher, tag: &Tag) -> Result<usize> {
    let size = publisher.chunk_size();
    let chunk_stream = 9;
    let given_up = Message { chunk_stream, ..Message::of_tag(tag, tag.dts_ms) };
    if tag.body.len() > size {
        let chunks = given_up.chunks(size, Format::Full, Continuation::Repeats);
        publisher.send_bytes(&chunks[0])?;
        publisher.abort(chunk_stream)?;
        let format = Format::SameStream { delta_ms: 0 };
        let chunks = given_up.chunks(size, format, Continuation::Repeats);
        publisher.send_bytes(&chunks.concat())?;
    } else {
        publisher.send(&given_up)?;
    }
    Ok(1)
}

/// Five tags in one message.
fn send_aggregate(publisher: &mut RawPublisher, tags: &[Tag]) -> Result<usize> {
    let parts: Vec<(&Tag, u32)> = tags.iter().take(5).map(|tag| (tag, tag.dts_ms)).collect();
    let payload = aggregate(&parts);
    publisher.send(&Message {
        chunk_stream: 6,
        kind: 22,
        timestamp_ms: parts[0].1,
        stream_id: 1,
        payload: &payload,
    })?;
    Ok(parts.len())
}

#[test]
fn acknowledgements_come_once_per_window_and_count_from_the_first_byte() {
    in_run_directory("acknowledge", |run| {
        let mut scene = scene(run, 4)?;
        let mut publisher = scene.publish("cam")?;
        let window = 20_000;
        publisher.set_window(window)?;
        publisher.send_tags(&scene.source.tags, SPEED, |tag| Some(tag.dts_ms))?;
        publisher.ping(77)?;
        let mut heard = Vec::new();
        publisher.wait_reply("the pong", |reply| match reply {
            Reply::Acknowledgement(count) => {
                heard.push(*count);
                None
            }
            Reply::Pong(timestamp) => (*timestamp == 77).then_some(()),
            Reply::Command { .. } | Reply::Other { .. } => None,
        })?;
        let sent = publisher.sent_bytes();
        ensure!(!heard.is_empty(), "no acknowledgement of {sent} bytes");
        ensure!(heard.windows(2).all(|pair| pair[1] - pair[0] >= window), "{heard:?}");
        let last = u64::from(heard[heard.len() - 1]);
        ensure!(last <= sent && sent - last < 2 * u64::from(window), "{last} of {sent}");
        publisher.finish(BOUND)?;
        scene.settle()?;
        scene.server.stop()
    });
}
