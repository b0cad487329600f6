//! Pushes over real TCP connections whose owner dies: no warning, its dup of the socket stays.

mod inbound;

use super::*;
use crate::output::cursor::PipelineState;
use crate::rtmp::chunk::{ChunkReader, Piece, Step, kind};
use crate::rtmp::write::MessageStart;
use crate::rtmp::{amf, handshake};
use crate::session::record::Take;
use inbound::chatter;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::JoinHandle;
use tasuki_shared::clock;
use tasuki_shared::id::RungId;
use tasuki_shared::memory::log::{self, EntryKind, LogHeads, LogWriter};
use tasuki_shared::memory::push as push_memory;
use tasuki_shared::plan::LogSize;

const POLL_MS: u16 = 10_000;

/// A message as it came over the wire: type, time, payload.
type Message = (u8, u32, Vec<u8>);

fn logs(payload_bytes: u64) -> Logs {
    let fd = log::create(LogSize { payload_bytes, index_entries: 256 }).unwrap();
    let source = LogWriter::resume(&fd, LogHeads::empty()).unwrap();
    Logs { source, audio: None, rungs: Vec::new(), pipeline: PipelineState::Empty }
}

fn put(logs: &mut Logs, kind: EntryKind, dts_ms: i64, length: usize) {
    let payload: Vec<u8> = (0..length).map(|at| (at * 7 + length).to_le_bytes()[0]).collect();
    logs.source.put(&[&payload], kind, dts_ms, 0, 0).unwrap();
}

/// Headers, pictures and sound of a few batches; the time passes the extended timestamp's bound.
fn small_stream() -> Logs {
    let mut logs = logs(1 << 20);
    put(&mut logs, EntryKind::Metadata, 0, 30);
    put(&mut logs, EntryKind::VideoHeader, 0, 20);
    put(&mut logs, EntryKind::AudioHeader, 0, 4);
    for picture in 0..4 {
        let dts_ms = 0xFF_FFFF - 40 + picture * 33;
        let kind = if picture == 0 { EntryKind::VideoIdr } else { EntryKind::VideoInter };
        put(&mut logs, kind, dts_ms, 50 + 10 * usize::try_from(picture).unwrap());
        put(&mut logs, EntryKind::Audio, dts_ms + 10, 15);
    }
    logs
}

/// The same with a picture of three chunks.
fn stream_with_long_messages() -> Logs {
    let mut logs = small_stream();
    put(&mut logs, EntryKind::VideoInter, 0x100_0200, 150_000);
    put(&mut logs, EntryKind::Audio, 0x100_0210, 15);
    logs
}

fn plan() -> PushPlan {
    PushPlan {
        rung: RungId(0),
        host: "127.0.0.1".into(),
        port: 1935,
        app: "live".into(),
        stream: "cam".into(),
    }
}

/// What outlives an owner: push memory and the supervisor's dup.
struct Kept {
    memory: OwnedFd,
    socket: OwnedFd,
}

impl Kept {
    fn push(&self) -> Push {
        let memory = PushMemory::open(&self.memory).unwrap();
        Push::new(PushId(0), plan(), Feed::Source, memory)
    }

    fn connection(&self) -> Connection {
        Connection::of(self.socket.try_clone().unwrap())
    }

    fn resume(&self, record: &[u8], logs: &Logs) -> Push {
        self.resume_with(record, self.connection(), logs)
    }

    fn resume_with(&self, record: &[u8], connection: Connection, logs: &Logs) -> Push {
        let mut push = self.push();
        let mut take = Take::new("pushes", record);
        push.resume(&mut take, Some(connection), logs, clock::now()).unwrap();
        take.end().unwrap();
        push
    }
}

fn poll(fd: BorrowedFd<'_>, flags: nix::poll::PollFlags) {
    let mut polled = [nix::poll::PollFd::new(fd, flags)];
    assert_eq!(nix::poll::poll(&mut polled, POLL_MS).unwrap(), 1, "nothing for ten seconds");
}

fn tcp() -> (OwnedFd, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let active = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let accepted = listener.accept().unwrap().0;
    // As the dialer makes them.
    active.set_nodelay(true).unwrap();
    accepted.set_nodelay(true).unwrap();
    (active.into(), accepted)
}

/// The far end of a connection: what it says, and a thread that reads what it gets.
struct Origin {
    socket: TcpStream,
    reader: JoinHandle<Vec<u8>>,
}

impl Origin {
    /// Everything that was written on the live connection.
    fn finish(self) -> Vec<u8> {
        drop(self.socket);
        self.reader.join().unwrap()
    }
}

fn message(chunk_stream: u8, kind: u8, payload: &[u8], chunk_size: u32) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap();
    let start = MessageStart { chunk_stream, timestamp_ms: 0, length, kind, stream_id: 0 };
    let mut out = Vec::new();
    start.put_message(payload, chunk_size, &mut out);
    out
}

fn said(transaction: f64, name: &str, code: &str) -> Vec<u8> {
    let payload = amf::Writer::new().string(name).number(transaction).null();
    let payload = match transaction {
        4.0 => payload.number(1.0),
        _ => payload.object(|w| w.name("level").string("status").name("code").string(code)),
    };
    message(3, kind::COMMAND_AMF0, &payload.finish(), 128)
}

/// A push that an origin lets publish, up to its first commit.
fn live(logs: &Logs) -> (Push, Kept, Origin) {
    let (socket, mut origin) = tcp();
    let dup = socket.try_clone().unwrap();
    let kept = Kept { memory: push_memory::create().unwrap(), socket: dup };
    let (mut push, now) = (kept.push(), clock::now());
    assert_eq!(push.tick(logs, StreamEnd::Going, now), Some(PushNews::WantsDial));
    assert_eq!(push.dialed(Ok(socket), now), None);
    push.write(logs, now);
    let mut hello = vec![0; handshake::C0_C1_BYTES];
    origin.read_exact(&mut hello).unwrap();
    origin.write_all(&handshake::answer(&hello).unwrap().unwrap()).unwrap();
    hear(&mut push, handshake::ANSWER_BYTES as u64);
    push.write(logs, now);
    let replies = [
        said(1.0, "_result", "NetConnection.Connect.Success"),
        said(4.0, "_result", ""),
        said(0.0, "onStatus", "NetStream.Publish.Start"),
    ]
    .concat();
    origin.write_all(&replies).unwrap();
    hear(&mut push, (handshake::ANSWER_BYTES + replies.len()) as u64);
    assert_eq!(push.state_name(), "live");
    let mut before = vec![0; usize::try_from(place(&push).0).unwrap()];
    origin.read_exact(&mut before[handshake::C0_C1_BYTES..]).unwrap();
    let mut far = origin.try_clone().unwrap();
    let reader = std::thread::spawn(move || {
        let mut got = Vec::new();
        far.read_to_end(&mut got).unwrap();
        got
    });
    (push, kept, Origin { socket: origin, reader })
}

/// Reads until so many bytes of the connection have come.
fn hear(push: &mut Push, received: u64) {
    while push.received < received {
        let Some((socket, _)) = push.socket() else { panic!("lost: {}", push.last_error) };
        poll(socket, nix::poll::PollFlags::POLLIN);
        push.readable(clock::now());
    }
}

/// Where the batch in flight begins and ends.
fn place(push: &Push) -> (u64, u64) {
    let State::Live(live) = &push.state else { panic!("not live: {}", push.last_error) };
    live.batch.place()
}

fn commit(push: &Push) -> Vec<u8> {
    let mut record = Vec::new();
    push.encode(&mut record);
    record
}

/// Sends all there is, to the goodbye.
fn send_rest(push: &mut Push, logs: &Logs) {
    while push.state_name() != "closing" {
        push.compose(logs, StreamEnd::Over);
        push.write(logs, clock::now());
        if let Some((socket, Writability::Wanted)) = push.socket() {
            poll(socket, nix::poll::PollFlags::POLLOUT);
        }
        assert_eq!(push.last_error, "");
    }
}

/// What an origin gets when nobody dies.
fn uninterrupted(logs: &Logs) -> Vec<u8> {
    let (mut push, _kept, origin) = live(logs);
    send_rest(&mut push, logs);
    origin.finish()
}

/// Lets the owner work until the origin's stream has `death` bytes of `expected`; then it is gone,
/// in the middle of a write where it must be. `first` is where that stream begins. Gives the last
/// commit.
fn die_at(
    mut push: Push,
    kept: &Kept,
    logs: &Logs,
    (expected, first): (&[u8], u64),
    death: usize,
) -> Vec<u8> {
    let mut record = commit(&push);
    loop {
        if push.compose(logs, StreamEnd::Over) == Composed::Changed {
            record = commit(&push);
        }
        let (begins, ends) = place(&push);
        if first + death as u64 > ends {
            while !matches!(&push.state, State::Live(live) if live.batch.is_written()) {
                poll(kept.socket.as_fd(), nix::poll::PollFlags::POLLOUT);
                assert_eq!(push.try_write(logs, clock::now()).err(), None);
            }
            continue;
        }
        // What its sendmsg(2) got out of the batch before the end.
        let State::Live(live) = &push.state else { panic!("not live") };
        let out = usize::try_from(begins + live.batch.written() - first).unwrap();
        write_all(kept, expected.get(out..death).unwrap_or_default());
        return record;
    }
}

fn write_all(kept: &Kept, bytes: &[u8]) {
    TcpStream::from(kept.socket.try_clone().unwrap()).write_all(bytes).unwrap();
}

fn with_a_death(logs: &Logs, expected: &[u8], death: usize) -> Vec<u8> {
    let (push, kept, origin) = live(logs);
    let first = place(&push).0;
    let record = die_at(push, &kept, logs, (expected, first), death);
    let mut push = kept.resume(&record, logs);
    send_rest(&mut push, logs);
    assert_eq!(push.unsaid, None);
    assert_eq!((push.messages, push.reconnects()), (logs_packets(logs), 0));
    origin.finish()
}

fn logs_packets(logs: &Logs) -> u64 {
    let head = logs.source.heads().index_head;
    let is_media = |index: &u64| logs.source.entry(*index).is_some_and(|e| !e.kind.is_header());
    u64::try_from((0..head).filter(is_media).count()).unwrap()
}

fn messages(bytes: &[u8]) -> Vec<Message> {
    let (mut reader, mut at, mut open, mut found) =
        (ChunkReader::new(), 0, BTreeMap::new(), Vec::new());
    // Announced in the part that came before: our chunk size.
    let announced = message(2, kind::SET_CHUNK_SIZE, &65_536_u32.to_be_bytes(), 128);
    let bytes = [&announced[..], bytes].concat();
    while let Step::Advance { consumed, piece } = reader.next(&bytes[at..]).unwrap() {
        match piece {
            Piece::Begin { message, slot } => {
                open.insert(slot, (message.kind, message.timestamp_ms, Vec::new()));
            }
            Piece::Payload { slot, .. } => {
                let (.., payload) = open.get_mut(&slot).unwrap();
                payload.extend(&bytes[at..at + consumed]);
            }
            Piece::End { slot } => found.push(open.remove(&slot).unwrap()),
            Piece::Abort { .. } => panic!("nothing is aborted"),
            Piece::Nothing => {}
        }
        at += consumed;
    }
    assert!(open.is_empty() && at == bytes.len(), "the stream ends in the middle of a message");
    found
}

/// Whatever byte of a connection its owner dies at, the origin gets the very same bytes.
#[test]
fn a_death_at_any_outbound_byte_changes_no_byte() {
    let logs = small_stream();
    let expected = uninterrupted(&logs);
    assert_eq!(expected, uninterrupted(&logs), "an uninterrupted run is always the same");
    for death in 0..=expected.len() {
        assert_eq!(with_a_death(&logs, &expected, death), expected, "death at byte {death}");
    }
}

/// The same at the edges of chunks of a message that has several.
#[test]
fn a_death_at_any_edge_of_a_chunk_changes_no_byte() {
    let logs = stream_with_long_messages();
    let expected = uninterrupted(&logs);
    let edges = (0..expected.len()).filter(|at| expected[*at] == 0xC6).filter(|at| {
        // Chunk stream 6 goes on with its extended time.
        expected.get(at + 1..at + 5) == Some(&0x100_0200_u32.to_be_bytes())
    });
    let edges: Vec<usize> = edges.collect();
    assert_eq!(edges.len(), 2);
    for death in edges.iter().flat_map(|edge| edge - 2..edge + 8) {
        assert!(with_a_death(&logs, &expected, death) == expected, "death at byte {death}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Any number of owners may die on one connection.
    #[test]
    fn deaths_in_a_row_change_no_byte(
        mut deaths in prop::collection::vec(any::<prop::sample::Index>(), 1..6),
    ) {
        let logs = stream_with_long_messages();
        let expected = uninterrupted(&logs);
        let (push, kept, origin) = live(&logs);
        let first = place(&push).0;
        deaths.sort_by_key(|death| death.index(expected.len() + 1));
        let mut owner = push;
        for death in deaths {
            let death = death.index(expected.len() + 1);
            let record = die_at(owner, &kept, &logs, (&expected, first), death);
            owner = kept.resume(&record, &logs);
        }
        send_rest(&mut owner, &logs);
        prop_assert!(origin.finish() == expected);
    }
}

/// Negative control: an adopter that does not ask the kernel repeats or leaves out bytes.
#[test]
fn without_the_kernels_count_the_origin_would_get_other_bytes() {
    let logs = small_stream();
    let expected = uninterrupted(&logs);
    let death = expected.len() / 2;
    for believed in [0, u64::MAX] {
        let (push, kept, origin) = live(&logs);
        let first = place(&push).0;
        let record = die_at(push, &kept, &logs, (&expected, first), death);
        let socket = kept.socket.try_clone().unwrap();
        let (begins, ends) = place(&kept.resume(&record, &logs));
        let counts = |counts: Counts| {
            assert!((begins + 1..ends).contains(&counts.written), "no write was interrupted");
            Counts { written: believed.clamp(begins, ends), ..counts }
        };
        let connection = Connection::with_counts(socket, counts);
        let mut push = kept.resume_with(&record, connection, &logs);
        send_rest(&mut push, &logs);
        assert_ne!(origin.finish(), expected);
    }
}

/// What was written before its commit is never taken for covered: the connection is cut by name.
#[test]
fn bytes_that_no_commit_covers_cut_the_connection_by_name() {
    let logs = small_stream();
    let (mut push, kept, _origin) = live(&logs);
    let before = commit(&push);
    assert!(push.compose(&logs, StreamEnd::Going) == Composed::Changed);
    // The order that must not be: write, then commit; and death in between.
    push.write(&logs, clock::now());
    drop(push);
    let mut push = kept.resume(&before, &logs);
    let news = push.tick(&logs, StreamEnd::Going, clock::now());
    let Some(PushNews::Closed(Some(reason))) = news else { panic!("{news:?}") };
    assert!(reason.contains("the record covers bytes"), "{reason}");
    assert_eq!(push.state_name(), "backoff");
}

/// A skip goes on from its commit; skipped and written before its commit, it is cut by name.
#[test]
fn a_skip_is_gone_on_with_only_if_it_was_committed_before_its_first_byte() {
    for committed in [true, false] {
        let mut logs = logs(1 << 18);
        put(&mut logs, EntryKind::VideoHeader, 0, 20);
        put(&mut logs, EntryKind::VideoIdr, 0, 1000);
        put(&mut logs, EntryKind::VideoInter, 33, 1000);
        let (mut push, kept, origin) = live(&logs);
        while push.compose(&logs, StreamEnd::Going) == Composed::Changed {
            push.write(&logs, clock::now());
        }
        let before = commit(&push);
        // The log laps the push, which goes on at the newest keyframe.
        for picture in 2..400 {
            let idr = picture % 20 == 0;
            let kind = if idr { EntryKind::VideoIdr } else { EntryKind::VideoInter };
            put(&mut logs, kind, picture * 33, 1000);
        }
        assert!(push.compose(&logs, StreamEnd::Going) == Composed::Changed);
        assert!(push.skipped() > 0);
        let record = if committed { commit(&push) } else { before };
        push.write(&logs, clock::now());
        drop(push);
        let mut push = kept.resume(&record, &logs);
        if committed {
            send_rest(&mut push, &logs);
            let times: Vec<u32> = messages(&origin.finish())
                .into_iter()
                .filter(|(kind, ..)| *kind == kind::VIDEO)
                .map(|(_, time, _)| time)
                .collect();
            assert!(times.is_sorted() && times.ends_with(&[398 * 33, 399 * 33]), "{times:?}");
        } else {
            let news = push.tick(&logs, StreamEnd::Going, clock::now());
            assert!(matches!(news, Some(PushNews::Closed(Some(_)))), "{news:?}");
        }
    }
}

/// What is overwritten before it is out cannot be gone on with.
#[test]
fn a_message_in_flight_that_was_lapped_cuts_the_connection_by_name() {
    let mut logs = logs(1 << 18);
    put(&mut logs, EntryKind::VideoHeader, 0, 20);
    put(&mut logs, EntryKind::VideoIdr, 0, 1000);
    let (mut push, kept, _origin) = live(&logs);
    push.compose(&logs, StreamEnd::Going);
    let record = commit(&push);
    write_all(&kept, b"x");
    drop(push);
    for picture in 1..400 {
        put(&mut logs, EntryKind::VideoInter, picture * 33, 1000);
    }
    let mut push = kept.resume(&record, &logs);
    let news = push.tick(&logs, StreamEnd::Going, clock::now());
    let Some(PushNews::Closed(Some(reason))) = news else { panic!("{news:?}") };
    assert!(reason.contains("overwritten"), "{reason}");
}

/// A connection that the last owner had given up is not gone on with.
#[test]
fn a_connection_that_was_shut_down_is_dialled_anew() {
    let logs = small_stream();
    let (mut push, kept, _origin) = live(&logs);
    let record = commit(&push);
    push.abandon();
    let mut push = kept.resume(&record, &logs);
    let news = push.tick(&logs, StreamEnd::Going, clock::now());
    assert!(matches!(news, Some(PushNews::Closed(Some(_)))), "{news:?}");
}

/// An unfinished dial is dialled again, and the supervisor is told to drop its dup first.
#[test]
fn a_connection_in_handshake_is_dialled_anew() {
    let logs = small_stream();
    let (socket, origin) = tcp();
    let dup = socket.try_clone().unwrap();
    let kept = Kept { memory: push_memory::create().unwrap(), socket: dup };
    let (mut push, now) = (kept.push(), clock::now());
    push.tick(&logs, StreamEnd::Going, now);
    push.dialed(Ok(socket), now);
    push.write(&logs, now);
    let record = commit(&push);
    drop(push);
    let mut push = kept.resume(&record, &logs);
    let mut said = Vec::new();
    (&origin).read_to_end(&mut said).unwrap();
    assert_eq!(said.len(), handshake::C0_C1_BYTES, "and then its end");
    assert_eq!(push.tick(&logs, StreamEnd::Going, now), Some(PushNews::Closed(None)));
    assert_eq!(push.tick(&logs, StreamEnd::Going, now), Some(PushNews::WantsDial));
}

/// A released connection is neither shut down nor spoken of: its next owner goes on.
#[test]
fn a_planned_release_leaves_the_connection_open() {
    let logs = small_stream();
    let expected = uninterrupted(&logs);
    let (mut push, kept, origin) = live(&logs);
    push.compose(&logs, StreamEnd::Over);
    let record = commit(&push);
    push.write(&logs, clock::now());
    assert_eq!(push.release().len(), 1);
    let mut push = kept.resume(&record, &logs);
    send_rest(&mut push, &logs);
    assert_eq!(origin.finish(), expected);
}

/// A goodbye that was said is not said again, and a closed push stays closed.
#[test]
fn an_end_is_gone_on_with() {
    let logs = small_stream();
    let expected = uninterrupted(&logs);
    let (mut push, kept, origin) = live(&logs);
    send_rest(&mut push, &logs);
    let record = commit(&push);
    drop(push);
    let mut push = kept.resume(&record, &logs);
    assert_eq!(push.state_name(), "closing");
    assert!(push.compose(&logs, StreamEnd::Over) != Composed::Changed);
    assert_eq!(origin.finish(), expected);
    poll(kept.socket.as_fd(), nix::poll::PollFlags::POLLIN);
    assert_eq!(push.readable(clock::now()), Some(PushNews::Closed(None)));
    assert!(push.is_over());
    let mut again = kept.push();
    let record = commit(&push);
    again.resume(&mut Take::new("pushes", &record), None, &logs, clock::now()).unwrap();
    assert!(again.is_over());
}

proptest! {
    /// A record that a hostile worker wrote is gone on with or refused, never a panic.
    #[test]
    fn any_record_is_gone_on_with_or_refused(
        noise in prop::collection::vec(any::<u8>(), 0..400),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        is_noise in any::<bool>(),
    ) {
        let logs = small_stream();
        let (mut push, kept, mut origin) = live(&logs);
        let before = push.received;
        // In the middle of a command of the origin.
        origin.socket.write_all(&chatter()[..100]).unwrap();
        hear(&mut push, before + 100);
        push.compose(&logs, StreamEnd::Going);
        let mut record = commit(&push);
        for (at, flip) in flips {
            let at = at.index(record.len());
            record[at] ^= flip;
        }
        if is_noise {
            record = noise;
        }
        let mut push = kept.push();
        let (now, mut take) = (clock::now(), Take::new("pushes", &record));
        if push.resume(&mut take, Some(kept.connection()), &logs, now).is_ok() {
            for end in [StreamEnd::Going, StreamEnd::Over, StreamEnd::Over] {
                push.tick(&logs, end, now);
                push.compose(&logs, end);
                push.encode(&mut Vec::new());
                push.write(&logs, now);
            }
        }
    }
}
