//! The reader against a reference writer, and each legal oddity that other readers trip over.

mod model;

use super::*;
use model::{Collector, Event, Script, run};
use proptest::prelude::*;

const REPEATED: model::Extended = model::Extended::Repeated;
const LEFT_OUT: model::Extended = model::Extended::LeftOut;

fn message(chunk_stream: u32, kind: u8, length: u32, timestamp_ms: u32) -> MessageHeader {
    MessageHeader { chunk_stream, kind, length, timestamp_ms, stream_id: 1 }
}

fn full(chunk_stream: u8, timestamp: u32, length: u32, kind: u8) -> Vec<u8> {
    let mut bytes = vec![chunk_stream];
    bytes.extend(&timestamp.to_be_bytes()[1..]);
    bytes.extend(&length.to_be_bytes()[1..]);
    bytes.push(kind);
    bytes.extend(1_u32.to_le_bytes());
    bytes
}

fn control(kind: u8, value: u32) -> Vec<u8> {
    let mut bytes = full(2, 0, 4, kind);
    bytes.extend(value.to_be_bytes());
    bytes
}

fn read(bytes: &[u8]) -> Result<Vec<Event>, ChunkError> {
    let mut reader = ChunkReader::new();
    let mut collector = Collector::default();
    run(&mut reader, bytes, &mut collector)?;
    Ok(collector.events)
}

fn timestamps(events: &[Event]) -> Vec<u32> {
    let of = |event: &Event| match event {
        Event::Message { header, .. } => Some(header.timestamp_ms),
        Event::Aborted { .. } => None,
    };
    events.iter().filter_map(of).collect()
}

proptest! {
    #[test]
    fn any_legal_script_is_read_back_whatever_the_split(
        script in model::script(),
        cuts in prop::collection::vec(1_usize..400, 1..40),
    ) {
        let Script { bytes, events } = script;
        prop_assert_eq!(&read(&bytes).unwrap(), &events);
        let mut reader = ChunkReader::new();
        let mut collector = Collector::default();
        let (mut from, mut to) = (0, 0);
        for cut in cuts.iter().cycle() {
            to = (to + cut).min(bytes.len());
            from += run(&mut reader, &bytes[from..to], &mut collector).unwrap();
            if to == bytes.len() { break; }
        }
        prop_assert_eq!(from, bytes.len());
        prop_assert_eq!(&collector.events, &events);
    }

    #[test]
    fn exporting_and_importing_at_every_byte_changes_nothing(script in model::script()) {
        let Script { bytes, events } = script;
        let mut reader = ChunkReader::new();
        let mut collector = Collector::default();
        let mut from = 0;
        for to in 1..=bytes.len() {
            from += run(&mut reader, &bytes[from..to], &mut collector).unwrap();
            let state = reader.export();
            let mut stored = [0; ChunkState::SIZE];
            state.to_bytes(&mut stored);
            let mut short = Vec::new();
            state.encode(&mut short);
            assert_eq!(ChunkState::encoded_bytes(short[0]), Some(short.len() - 1));
            assert_eq!(ChunkState::decode(&short[1..]), state, "the short form holds the same");
            let loaded = ChunkState::from_bytes(&stored).unwrap();
            prop_assert_eq!(loaded, state);
            let imported = ChunkReader::import(&loaded).unwrap();
            prop_assert_eq!(&imported, &reader);
            reader = imported;
        }
        prop_assert_eq!(&collector.events, &events);
    }

    #[test]
    fn any_bytes_and_any_imported_state_are_read_without_panic(
        words in prop::collection::vec(prop_oneof![
            Just(0_u32), Just(1), Just(2), Just(4), Just(9), Just(20), Just(128), any::<u32>(),
        ], ChunkState::SIZE / 4),
        bytes in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        let stored: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let _ = read(&bytes);
        if let Ok(mut reader) = ChunkReader::import(&ChunkState::from_bytes(&stored).unwrap()) {
            let _ = run(&mut reader, &bytes, &mut Collector::default());
        }
    }

    #[test]
    fn one_changed_word_of_a_state_is_refused_or_harmless(
        script in model::script(),
        at in any::<prop::sample::Index>(),
        place in any::<prop::sample::Index>(),
        value in prop_oneof![Just(0_u32), Just(1), Just(u32::MAX), 0_u32..300, any::<u32>()],
    ) {
        let mut reader = ChunkReader::new();
        let cut = at.index(script.bytes.len() + 1);
        let from = run(&mut reader, &script.bytes[..cut], &mut Collector::default()).unwrap();
        let mut stored = [0; ChunkState::SIZE];
        reader.export().to_bytes(&mut stored);
        let word = 4 * place.index(ChunkState::SIZE / 4);
        stored[word..word + 4].copy_from_slice(&value.to_le_bytes());
        let state = ChunkState::from_bytes(&stored).unwrap();
        if let Ok(mut damaged) = ChunkReader::import(&state) {
            prop_assert_eq!(damaged.export(), state);
            let _ = run(&mut damaged, &script.bytes[from..], &mut Collector::unchecked());
        }
    }
}

#[test]
fn chunk_streams_may_interleave_inside_messages() {
    let mut bytes = full(6, 5, 200, kind::VIDEO);
    bytes.extend([7; 128]);
    bytes.extend(full(4, 6, 3, kind::AUDIO));
    bytes.extend([9; 3]);
    bytes.push(0xC6);
    bytes.extend([7; 72]);
    let events = read(&bytes).unwrap();
    let audio = Event::Message { header: message(4, kind::AUDIO, 3, 6), payload: vec![9; 3] };
    let video = Event::Message { header: message(6, kind::VIDEO, 200, 5), payload: vec![7; 200] };
    assert_eq!(events, [audio, video]);
}

#[test]
fn an_extended_timestamp_below_its_threshold_is_taken_as_it_stands() {
    // Absolute 5 and delta 7, both written in the extended form.
    let mut bytes = full(4, 0xFF_FFFF, 1, kind::AUDIO);
    bytes.extend([0, 0, 0, 5, 0xAA]);
    bytes.extend([0x84, 0xFF, 0xFF, 0xFF, 0, 0, 0, 7, 0xBB]);
    assert_eq!(timestamps(&read(&bytes).unwrap()), [5, 12]);
}

#[test]
fn deltas_wrap_at_32_bits() {
    let mut bytes = full(4, 0xFF_FFFF, 1, kind::AUDIO);
    bytes.extend([0xFF, 0xFF, 0xFF, 0xFE, 0xAA]);
    bytes.extend([0x84, 0, 0, 5, 0xBB]);
    assert_eq!(timestamps(&read(&bytes).unwrap()), [0xFFFF_FFFE, 3]);
}

#[test]
fn the_threshold_itself_needs_the_extended_form() {
    let mut bytes = full(4, 0xFF_FFFE, 1, kind::AUDIO);
    bytes.push(0xAA);
    bytes.extend(full(4, 0xFF_FFFF, 1, kind::AUDIO));
    bytes.extend([0, 0xFF, 0xFF, 0xFF, 0xBB]);
    assert_eq!(timestamps(&read(&bytes).unwrap()), [0xFF_FFFE, 0xFF_FFFF]);
}

#[test]
fn a_type_3_header_begins_a_message_with_the_last_delta() {
    let mut bytes = full(4, 100, 1, kind::AUDIO);
    bytes.push(1);
    bytes.extend([0x84, 0, 0, 23, 2]);
    bytes.extend([0xC4, 3, 0xC4, 4]);
    assert_eq!(timestamps(&read(&bytes).unwrap()), [100, 123, 146, 169]);
}

#[test]
fn a_type_3_header_after_a_full_one_repeats_its_timestamp_as_delta() {
    let mut bytes = full(4, 40, 1, kind::AUDIO);
    bytes.extend([1, 0xC4, 2]);
    assert_eq!(timestamps(&read(&bytes).unwrap()), [40, 80]);
}

#[test]
fn continuations_past_4_66_hours_are_read_with_and_without_the_repeated_timestamp() {
    for repeats in [REPEATED, LEFT_OUT] {
        let mut bytes = full(6, 0xFF_FFFF, 300, kind::VIDEO);
        bytes.extend(0x0100_0000_u32.to_be_bytes());
        for part in [128, 128, 44] {
            bytes.extend(vec![7; part]);
            if part == 128 {
                bytes.push(0xC6);
                if matches!(repeats, REPEATED) {
                    bytes.extend(0x0100_0000_u32.to_be_bytes());
                }
            }
        }
        let header = message(6, kind::VIDEO, 300, 0x0100_0000);
        let events = [Event::Message { header, payload: vec![7; 300] }];
        assert_eq!(read(&bytes).unwrap(), events);
    }
}

#[test]
fn a_last_chunk_shorter_than_a_timestamp_does_not_wait_for_one() {
    let mut bytes = control(kind::SET_CHUNK_SIZE, 3);
    bytes.extend(full(6, 0xFF_FFFF, 4, kind::VIDEO));
    bytes.extend([1, 0, 0, 0, 7, 7, 7, 0xC6, 7]);
    assert_eq!(read(&bytes).unwrap().len(), 1);
}

#[test]
fn an_abort_drops_the_open_message_and_only_that() {
    let mut bytes = full(6, 5, 200, kind::VIDEO);
    bytes.extend([7; 128]);
    bytes.extend(control(kind::ABORT, 6));
    bytes.extend(control(kind::ABORT, 6));
    bytes.extend(control(kind::ABORT, 77));
    bytes.extend(full(6, 9, 1, kind::VIDEO));
    bytes.push(8);
    let aborted = Event::Aborted { chunk_stream: 6 };
    let next = Event::Message { header: message(6, kind::VIDEO, 1, 9), payload: vec![8] };
    assert_eq!(read(&bytes).unwrap(), [aborted, next]);
}

#[test]
fn chunk_sizes_from_1_to_the_largest_are_obeyed_and_others_refused() {
    for size in [1, 2, 127, 129, 65_536, 0xFF_FFFF, 0x7FFF_FFFF_u32] {
        let mut bytes = control(kind::SET_CHUNK_SIZE, size);
        bytes.extend(full(4, 0, 300, kind::AUDIO));
        for (index, part) in [5_u8; 300].chunks(size as usize).enumerate() {
            if index > 0 {
                bytes.push(0xC4);
            }
            bytes.extend(part);
        }
        assert_eq!(read(&bytes).unwrap().len(), 1, "chunk size {size}");
    }
    for size in [0, 0x8000_0000, u32::MAX] {
        let error = read(&control(kind::SET_CHUNK_SIZE, size)).unwrap_err();
        assert_eq!(error, ChunkError::ChunkSize(size));
    }
}

#[test]
fn chunk_stream_ids_of_one_two_and_three_bytes_name_the_same_streams() {
    let tail = &full(0, 0, 1, kind::AUDIO)[1..];
    let id_of = |basic: &[u8]| {
        let bytes = [basic, tail, &[5]].concat();
        match &read(&bytes).unwrap()[..] {
            [Event::Message { header, .. }] => header.chunk_stream,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(id_of(&[2]), 2);
    assert_eq!(id_of(&[63]), 63);
    assert_eq!(id_of(&[0, 0]), 64);
    assert_eq!(id_of(&[0, 255]), 319);
    assert_eq!(id_of(&[1, 0, 0]), 64);
    assert_eq!(id_of(&[1, 0, 1]), 320);
    assert_eq!(id_of(&[1, 255, 255]), 65_599);
}

#[test]
fn messages_longer_than_their_bound_are_refused_at_their_header() {
    let media = full(6, 0, bound(MEDIA_MESSAGE_BYTES_MAX) + 1, kind::VIDEO);
    assert!(matches!(read(&media), Err(ChunkError::MessageTooLong { kind: kind::VIDEO, .. })));
    let command = full(3, 0, bound(COMMAND_MESSAGE_BYTES_MAX) + 1, kind::COMMAND_AMF0);
    assert!(matches!(read(&command), Err(ChunkError::MessageTooLong { .. })));
    let size = full(2, 0, 5, kind::SET_CHUNK_SIZE);
    let error = ChunkError::ControlLength { kind: kind::SET_CHUNK_SIZE, length: 5 };
    assert_eq!(read(&size), Err(error));
}

#[test]
fn open_messages_are_bounded() {
    let mut bytes = Vec::new();
    for id in (3_u8..).take(OPEN_MESSAGES_MAX + 1) {
        bytes.extend(full(id, 0, 129, kind::VIDEO));
        bytes.extend([0; 128]);
    }
    assert_eq!(read(&bytes), Err(ChunkError::TooManyOpenMessages));
}

#[test]
fn a_peer_may_use_ever_new_chunk_streams_but_not_lean_on_a_forgotten_one() {
    let mut bytes = Vec::new();
    for id in 3..60 {
        bytes.extend(full(id, u32::from(id), 1, kind::AUDIO));
        bytes.push(0);
    }
    assert_eq!(read(&bytes).unwrap().len(), 57);
    for format in [0x40_u8, 0x80, 0xC0] {
        let mut forgotten = bytes.clone();
        forgotten.extend([format | 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(read(&forgotten), Err(ChunkError::NoHeaderToReferTo(3)));
        let mut kept = bytes.clone();
        kept.extend([format | 59, 0, 0, 1, 0, 0, 1, 8, 0]);
        assert!(read(&kept).is_ok());
    }
}

#[test]
fn a_stream_with_an_open_message_is_not_forgotten() {
    let mut bytes = full(3, 1, 129, kind::VIDEO);
    bytes.extend([7; 128]);
    for id in 4..60 {
        bytes.extend(full(id, u32::from(id), 1, kind::AUDIO));
        bytes.push(0);
    }
    bytes.extend([0xC3, 7]);
    let last = Event::Message { header: message(3, kind::VIDEO, 129, 1), payload: vec![7; 129] };
    assert_eq!(read(&bytes).unwrap().last(), Some(&last));
}

#[test]
fn librtmp_may_begin_a_chunk_stream_with_a_type_1_header() {
    let bytes = [0x42, 0, 0, 0, 0, 0, 6, 4, 0, 7, 0, 0, 0, 1];
    assert_eq!(read(&bytes).unwrap().len(), 1);
    assert_eq!(read(&[0x82, 0, 0, 0]), Err(ChunkError::NoHeaderToReferTo(2)));
    assert_eq!(read(&[0xC2]), Err(ChunkError::NoHeaderToReferTo(2)));
}

#[test]
fn a_header_that_restates_the_open_message_continues_it_and_another_is_refused() {
    let mut bytes = full(6, 5, 200, kind::VIDEO);
    bytes.extend([7; 128]);
    let mut restated = bytes.clone();
    restated.extend(full(6, 5, 200, kind::VIDEO));
    restated.extend([7; 72]);
    assert_eq!(read(&restated).unwrap().len(), 1);
    bytes.extend(full(6, 6, 200, kind::VIDEO));
    assert_eq!(read(&bytes), Err(ChunkError::MessageInsideMessage(6)));
}

#[test]
fn an_empty_message_begins_and_ends() {
    let bytes = full(4, 3, 0, kind::AUDIO);
    let event = Event::Message { header: message(4, kind::AUDIO, 0, 3), payload: vec![] };
    assert_eq!(read(&bytes).unwrap(), [event]);
}

#[test]
fn an_error_leaves_the_reader_as_it_was() {
    let mut reader = ChunkReader::new();
    let before = reader.clone();
    assert!(reader.next(&[0xC3]).is_err());
    assert_eq!(reader, before);
}
