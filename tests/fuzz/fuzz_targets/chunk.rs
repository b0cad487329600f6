//! The chunk reader on arbitrary bytes: in one piece, and in random splits with an export and an
//! import between them, must be the same. The input's head is also tried as an exported state.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tasuki_worker::rtmp::chunk::{ChunkError, ChunkReader, ChunkState, Piece, Slot, Step};

/// Payload pieces differ with the split, so they are compared as bytes, one by one.
#[derive(Debug, PartialEq)]
enum Seen {
    Piece(Piece),
    Byte(Slot, u8),
}

fn run(reader: &mut ChunkReader, bytes: &[u8], seen: &mut Vec<Seen>) -> Result<usize, ChunkError> {
    let mut at = 0;
    loop {
        match reader.next(&bytes[at..])? {
            Step::NeedMore => return Ok(at),
            Step::Advance { consumed, piece } => {
                match piece {
                    Piece::Payload { slot, length } => {
                        assert_eq!(length, consumed);
                        seen.extend(bytes[at..at + length].iter().map(|b| Seen::Byte(slot, *b)));
                    }
                    // How many of them there are depends on the split.
                    Piece::Nothing => {}
                    Piece::Begin { .. } | Piece::End { .. } | Piece::Abort { .. } => {
                        seen.push(Seen::Piece(piece));
                    }
                }
                at += consumed;
            }
        }
    }
}

fuzz_target!(|data: &[u8]| {
    if let Some(state) = ChunkState::from_bytes(data)
        && let Ok(mut reader) = ChunkReader::import(&state)
    {
        assert_eq!(reader.export(), state);
        let _ = run(&mut reader, &data[ChunkState::SIZE..], &mut Vec::new());
    }
    let Some((seed, bytes)) = data.split_first() else { return };
    let mut straight = Vec::new();
    let ended = run(&mut ChunkReader::new(), bytes, &mut straight);

    let (mut reader, mut seen, mut split) = (ChunkReader::new(), Vec::new(), u32::from(*seed) + 1);
    let (mut from, mut to) = (0, 0);
    while to < bytes.len() {
        split = split.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        to = bytes.len().min(to + 1 + (split >> 26) as usize);
        match run(&mut reader, &bytes[from..to], &mut seen) {
            Ok(consumed) => from += consumed,
            Err(error) => {
                assert_eq!(ended, Err(error));
                assert_eq!(seen, straight);
                return;
            }
        }
        let mut stored = [0; ChunkState::SIZE];
        reader.export().to_bytes(&mut stored);
        let state = ChunkState::from_bytes(&stored).expect("it is of full size");
        reader = ChunkReader::import(&state).expect("a reader's own state is sound");
    }
    assert_eq!(ended, Ok(from));
    assert_eq!(seen, straight);
});
