use super::*;
use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

const SIZE: LogSize = LogSize { payload_bytes: 16 * 1024, index_entries: 64 };

fn pair() -> (OwnedFd, LogWriter, LogReader) {
    let fd = create(SIZE).unwrap();
    let writer = LogWriter::resume(&fd, LogHeads::empty()).unwrap();
    let reader = LogReader::open(&fd, Access::ReadWrite).unwrap();
    (fd, writer, reader)
}

/// A payload that tells its own index and checks itself.
fn payload(index: u64, length: usize) -> Vec<u8> {
    let mut bytes = index.to_le_bytes().to_vec();
    bytes.extend((0..length).map(|at| u8::try_from((index * 31 + at as u64) % 251).unwrap()));
    bytes
}

#[test]
fn a_packet_reads_back_whole_after_publication_and_not_before() {
    let (_fd, mut writer, reader) = pair();
    let mut got = Vec::new();
    writer.put(&[b"hea", b"der"], EntryKind::VideoHeader, 0, 0, 0).unwrap();
    writer.put(&[b"frame"], EntryKind::VideoIdr, 40, 80, 9).unwrap();
    assert_eq!(reader.read(0, &mut got), Err(Miss::NotYet));
    writer.publish();
    let entry = reader.read(1, &mut got).unwrap();
    assert_eq!(
        (&got[..], entry.pts_ms(), entry.keyframe, entry.mark),
        (&b"frame"[..], 120, Some(1), 9)
    );
    assert_eq!(reader.header(HeaderKind::Video, entry.headers.video).unwrap(), b"header");
}

#[test]
fn a_lapped_reader_is_told_so_and_finds_the_newest_keyframe() {
    let (_fd, mut writer, reader) = pair();
    for index in 0..100_u64 {
        let kind = if index % 20 == 0 { EntryKind::VideoIdr } else { EntryKind::VideoInter };
        writer.put(&[&payload(index, 300)], kind, index.cast_signed(), 0, 0).unwrap();
    }
    writer.publish();
    let mut got = Vec::new();
    assert_eq!(reader.read(3, &mut got), Err(Miss::Lapped));
    assert_eq!(reader.keyframe(), Some(80));
    assert!(reader.read(80, &mut got).is_ok());
    assert_eq!(got, payload(80, 300));
}

#[test]
fn a_reader_beside_a_fast_writer_never_returns_overwritten_bytes() {
    let (_fd, mut writer, reader) = pair();
    let done = Arc::new(AtomicBool::new(false));
    let reading = {
        let done = Arc::clone(&done);
        std::thread::spawn(move || {
            let (mut good, mut lapped, mut got) = (0_u64, 0_u64, Vec::new());
            while !done.load(Ordering::Relaxed) || good == 0 {
                // Rides the tail on purpose: the oldest entry that is there.
                let index = reader.memory.index_tail().load(Ordering::Relaxed) + 1;
                match reader.read(index, &mut got) {
                    Ok(_) => {
                        assert_eq!(got, payload(index, got.len() - 8), "entry {index}");
                        good += 1;
                    }
                    Err(Miss::Lapped) => lapped += 1,
                    Err(Miss::NotYet) => {}
                }
            }
            (good, lapped)
        })
    };
    for index in 0..200_000_u64 {
        let length = usize::try_from(index % 700).unwrap();
        writer.put(&[&payload(index, length)], EntryKind::VideoInter, 0, 0, 0).unwrap();
        writer.publish();
    }
    done.store(true, Ordering::Relaxed);
    let (good, _lapped) = reading.join().unwrap();
    assert!(good > 0);
}

#[test]
fn a_waiting_reader_is_woken_by_a_publish() {
    let (_fd, mut writer, reader) = pair();
    let waiting = std::thread::spawn(move || {
        // Far longer than the test may take: only a wake-up ends it in time.
        let mut rounds = 0;
        while reader.head() == 0 && rounds < 3 {
            reader.wait_beyond(0, Duration::from_secs(60));
            rounds += 1;
        }
        reader.head()
    });
    writer.put(&[b"x"], EntryKind::Audio, 0, 0, 0).unwrap();
    writer.publish();
    assert_eq!(waiting.join().unwrap(), 1);
}

#[test]
fn an_open_message_survives_being_overtaken_by_relocation() {
    let (fd, mut writer, _reader) = pair();
    let mut open = writer.reserve(2000);
    let whole = payload(7, 1992);
    writer.fill(&mut open, &whole[..900]);
    let mut relocations = 0;
    for index in 0..80 {
        let small = payload(index, 700);
        let length = u32::try_from(small.len()).unwrap();
        writer.check(length, u64::from(open.length)).unwrap();
        if writer.would_overtake(&open, length, u64::from(open.length)) {
            writer.relocate(&mut open).unwrap();
            relocations += 1;
        }
        writer.put(&[&small], EntryKind::Audio, 0, 0, 0).unwrap();
    }
    assert!(relocations >= 2, "{relocations}");
    writer.fill(&mut open, &whole[900..]);
    let entry = writer.append(open, EntryKind::VideoIdr, 0, 0, 0);
    writer.publish();
    let mut got = Vec::new();
    LogReader::open(&fd, Access::Read).unwrap().read(entry.index, &mut got).unwrap();
    assert_eq!(got, whole);
}

#[test]
fn a_header_in_force_survives_any_number_of_headers_of_other_kinds() {
    let (_fd, mut writer, reader) = pair();
    writer.put(&[b"sps"], EntryKind::VideoHeader, 0, 0, 0).unwrap();
    for round in 0..50_u64 {
        writer.put(&[&round.to_le_bytes()], EntryKind::Metadata, 0, 0, 0).unwrap();
    }
    let ids = writer.heads().headers;
    assert_eq!((ids.video, ids.metadata), (1, 50));
    assert_eq!(reader.header(HeaderKind::Video, 1).unwrap(), b"sps");
    assert_eq!(reader.header(HeaderKind::Metadata, 50).unwrap(), 49_u64.to_le_bytes());
    assert_eq!(reader.header(HeaderKind::Metadata, 48), None, "overwritten by 50");
}

#[test]
fn a_relocation_never_touches_its_own_source() {
    // As long as the capacity rule holds, every relocation that is due is accepted.
    for length in [500_u32, 1500, 3000] {
        let (_fd, mut writer, _reader) = pair();
        let mut open = writer.reserve(length);
        writer.fill(&mut open, &vec![7; length as usize]);
        for index in 0..200 {
            let small = payload(index, 900);
            let small_length = u32::try_from(small.len()).unwrap();
            if writer.would_overtake(&open, small_length, u64::from(length)) {
                writer.relocate(&mut open).unwrap();
            }
            writer.put(&[&small], EntryKind::Audio, 0, 0, 0).unwrap();
            assert_eq!(writer.bytes(open.position, open.length), vec![7; length as usize]);
        }
    }
}

#[test]
fn without_relocation_the_open_message_would_be_damaged() {
    // Negative control of the test above.
    let (_fd, mut writer, _reader) = pair();
    let mut open = writer.reserve(2000);
    let whole = payload(7, 1992);
    writer.fill(&mut open, &whole);
    for index in 0..40 {
        writer.put(&[&payload(index, 700)], EntryKind::Audio, 0, 0, 0).unwrap();
    }
    assert_ne!(writer.bytes(open.position, open.length), whole);
}

#[test]
fn what_was_appended_after_the_committed_heads_does_not_exist_for_a_successor() {
    let (fd, mut writer, reader) = pair();
    writer.put(&[b"kept"], EntryKind::VideoIdr, 0, 0, 0).unwrap();
    let committed = writer.heads();
    writer.publish();
    writer.put(&[b"lost"], EntryKind::VideoInter, 0, 0, 0).unwrap();
    drop(writer);
    let mut encoded = Vec::new();
    committed.encode(&mut encoded);
    let heads = LogHeads::decode(&encoded.try_into().unwrap());
    assert_eq!(heads, committed);
    let mut successor = LogWriter::resume(&fd, heads).unwrap();
    assert_eq!(reader.head(), 1);
    successor.put(&[b"next"], EntryKind::VideoInter, 0, 0, 0).unwrap();
    successor.publish();
    let mut got = Vec::new();
    reader.read(1, &mut got).unwrap();
    assert_eq!(got, b"next");
}

#[test]
fn messages_that_cannot_be_relocated_safely_are_refused_by_name() {
    let (_fd, writer, _reader) = pair();
    assert!(matches!(writer.check(5000, 0), Err(LogError::TooLong { .. })));
    assert!(matches!(writer.check(4000, 7000), Err(LogError::OpenTooLarge { .. })));
    assert_eq!(writer.check(4000, 6000), Ok(()));
}

proptest! {
    /// Any mixture of lengths and kinds reads back in order, each packet whole or known lapped.
    #[test]
    fn any_sequence_of_packets_reads_back(lengths in prop::collection::vec(0_usize..4000, 1..200)) {
        let (_fd, mut writer, reader) = pair();
        let mut got = Vec::new();
        for (index, &length) in lengths.iter().enumerate() {
            let index = index as u64;
            let whole = payload(index, length);
            writer.put(&[&whole], EntryKind::VideoInter, 0, 0, 0).unwrap();
            writer.publish();
            reader.read(index, &mut got).unwrap();
            prop_assert_eq!(&got, &whole);
            let mut bytes = 0;
            for older in (0..=index).rev() {
                let size = lengths[usize::try_from(older).unwrap()] + 8;
                bytes += size;
                let there = bytes <= 16 * 1024 && index - older < 64;
                prop_assert_eq!(reader.read(older, &mut got).is_ok(), there, "{} of {}", older, index);
            }
        }
    }

    /// An index entry that a hostile writer filled with anything decodes or is refused.
    #[test]
    fn any_words_are_an_entry_or_none(words in prop::array::uniform8(any::<u64>())) {
        if let Some(entry) = Entry::from_words(words) {
            prop_assert_eq!(Entry::from_words(entry.to_words()), Some(entry));
        }
    }
}
