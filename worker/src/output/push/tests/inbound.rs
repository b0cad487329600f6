//! What an origin says, cut anywhere by a death.

use super::*;
use tasuki_shared::limits::PUSH_INBOUND_RING_BYTES;

/// What an origin says: pings, a command in many chunks with a ping inside, media that is not for
/// us, and a long command.
pub(super) fn chatter() -> Vec<u8> {
    let ping = |number: u8| message(2, kind::USER_CONTROL, &[0, 6, 0, 0, 0, number], 128);
    let command = amf::Writer::new().string("onStatus").number(0.0).null();
    let command = command.object(|w| w.name("level").string("status").name("code").string("Any"));
    let command = message(3, kind::COMMAND_AMF0, &command.finish(), 16);
    // Chunk by chunk: a full header, then one byte each.
    let (start, rest) = command.split_at(12 + 16);
    [
        &ping(1)[..],
        &message(2, kind::SET_CHUNK_SIZE, &16_u32.to_be_bytes(), 128),
        &message(2, kind::WINDOW_ACKNOWLEDGEMENT_SIZE, &4000_u32.to_be_bytes(), 128),
        start,
        &ping(2),
        rest,
        &message(8, kind::COMMAND_AMF0, &[2; 530], 16),
        &ping(3),
        &message(6, kind::VIDEO, &[3; 40], 16),
        &ping(4),
    ]
    .concat()
}

/// What an origin got: media, and our answers without acknowledgements, which may differ.
fn heard_and_seen(bytes: &[u8]) -> (Vec<Message>, Vec<Message>) {
    let is_media =
        |(kind, ..): &Message| matches!(*kind, kind::AUDIO | kind::VIDEO | kind::DATA_AMF0);
    let messages = messages(bytes).into_iter();
    messages.filter(|(kind, ..)| *kind != kind::ACKNOWLEDGEMENT).partition(is_media)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dies {
    /// With bytes in the ring that no commit knows of.
    BeforeTheCommit,
    AfterTheCommit,
    AfterTheWrite,
}

/// The origin says `chatter`, cut in two at `split`, where the owner dies.
fn with_chatter(
    logs: &Logs,
    split: usize,
    dies: Dies,
    counts: impl FnOnce(Counts, u64) -> Counts,
) -> Option<Vec<u8>> {
    let chatter = chatter();
    let (mut push, kept, mut origin) = live(logs);
    let before = push.received;
    let mut record = commit(&push);
    origin.socket.write_all(&chatter[..split]).unwrap();
    hear(&mut push, before + split as u64);
    if dies != Dies::BeforeTheCommit && push.compose(logs, StreamEnd::Going) == Composed::Changed {
        record = commit(&push);
        if dies == Dies::AfterTheWrite {
            push.write(logs, clock::now());
        }
    }
    drop(push);
    let socket = kept.socket.try_clone().unwrap();
    let connection = Connection::with_counts(socket, |found| counts(found, before));
    let mut push = kept.resume_with(&record, connection, logs);
    origin.socket.write_all(&chatter[split..]).unwrap();
    while push.received < before + chatter.len() as u64 {
        let (socket, _) = push.socket()?;
        let mut polled = [nix::poll::PollFd::new(socket, nix::poll::PollFlags::POLLIN)];
        // With a wrong count it waits for bytes that never come.
        if nix::poll::poll(&mut polled, 200_u16).unwrap() == 0 {
            return None;
        }
        push.readable(clock::now());
    }
    send_rest(&mut push, logs);
    Some(origin.finish())
}

/// Wherever the origin's words are cut by a death, each is answered once, and the media is whole.
#[test]
fn a_death_at_any_inbound_byte_loses_and_repeats_no_answer() {
    let logs = small_stream();
    let whole = with_chatter(&logs, 0, Dies::BeforeTheCommit, |counts, _| counts).unwrap();
    let (media, answers) = heard_and_seen(&whole);
    assert_eq!(media, heard_and_seen(&uninterrupted(&logs)).0);
    let pongs = answers.iter().filter(|(kind, ..)| *kind == kind::USER_CONTROL);
    let pongs: Vec<&[u8]> = pongs.map(|(.., payload)| &payload[5..]).collect();
    assert_eq!(pongs, [[1], [2], [3], [4]]);
    for split in 0..=chatter().len() {
        let by_turns = [Dies::AfterTheCommit, Dies::AfterTheWrite][split % 2];
        for dies in [Dies::BeforeTheCommit, by_turns] {
            let got = with_chatter(&logs, split, dies, |counts, _| counts).unwrap();
            let got = heard_and_seen(&got);
            assert!(got.0 == media, "media of {dies:?} at {split}");
            assert!(got.1 == answers, "{dies:?} at {split}: {:?}", got.1);
        }
    }
}

/// Negative control: an adopter that takes only what was committed for received loses an answer.
#[test]
fn without_the_kernels_inbound_count_an_answer_would_be_lost() {
    let logs = small_stream();
    let split = chatter().len();
    let forgets = |counts: Counts, committed| Counts { received: committed, ..counts };
    let got = with_chatter(&logs, split, Dies::BeforeTheCommit, forgets);
    assert_eq!(got, None, "the four pings are in the ring, and nobody looks at them");
}

/// More of the origin's words than the ring holds wait for the commit, and none is lost.
#[test]
fn inbound_bytes_are_overwritten_only_behind_the_committed_position() {
    let logs = small_stream();
    let (mut push, kept, mut origin) = live(&logs);
    let (before, mut record) = (push.received, commit(&push));
    let words = message(6, kind::VIDEO, &[9; 3 * PUSH_INBOUND_RING_BYTES], 128);
    let ping = message(2, kind::USER_CONTROL, &[0, 6, 0, 0, 0, 7], 128);
    let all = [&ping[..], &words, &ping].concat();
    let end = before + all.len() as u64;
    origin.socket.write_all(&all).unwrap();
    let mut turns = 0;
    while push.received < end {
        poll(kept.socket.as_fd(), nix::poll::PollFlags::POLLIN);
        push.readable(clock::now());
        assert!(push.received - push.parsed_committed <= PUSH_INBOUND_RING_BYTES as u64);
        // Each turn's owner dies before its commit: the next hears the same again.
        drop(push);
        push = kept.resume(&record, &logs);
        push.compose(&logs, StreamEnd::Going);
        record = commit(&push);
        push.write(&logs, clock::now());
        turns += 1;
    }
    assert!(turns >= 3, "{turns}");
    send_rest(&mut push, &logs);
    let (_, answers) = heard_and_seen(&origin.finish());
    let pongs = answers.iter().filter(|(kind, ..)| *kind == kind::USER_CONTROL).count();
    assert_eq!(pongs, 2);
}
