//! Writing chunks: type-0 headers always, so the outbound side has no hidden state and a byte
//! stream can be derived again from the messages alone.
//!
//! Source: "rtmp_specification_1.0", section 5.3.1.

/// A timestamp from which on it travels in the extended field.
const EXTENDED: u32 = 0xFF_FFFF;

/// What stands before a message's payload on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageStart {
    /// 2 to 63: the one-byte form.
    pub chunk_stream: u8,
    pub timestamp_ms: u32,
    pub length: u32,
    pub kind: u8,
    pub stream_id: u32,
}

/// A chunk header of up to 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrittenHeader {
    bytes: [u8; 16],
    length: u8,
}

impl WrittenHeader {
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    fn empty() -> Self {
        Self { bytes: [0; 16], length: 0 }
    }

    fn put(&mut self, part: &[u8]) {
        let start = usize::from(self.length);
        self.bytes[start..start + part.len()].copy_from_slice(part);
        self.length += u8::try_from(part.len()).expect("a header is at most 16 bytes");
    }
}

impl MessageStart {
    /// Header of the first chunk (type 0).
    #[must_use]
    pub fn first_header(&self) -> WrittenHeader {
        let Self { chunk_stream, timestamp_ms, length, kind, stream_id } = *self;
        let mut header = WrittenHeader::empty();
        header.put(&[chunk_stream & 0x3F]);
        header.put(&timestamp_ms.min(EXTENDED).to_be_bytes()[1..]);
        header.put(&length.to_be_bytes()[1..]);
        header.put(&[kind]);
        header.put(&stream_id.to_le_bytes());
        self.put_extended(&mut header);
        header
    }

    /// Header of every further chunk (type 3).
    #[must_use]
    pub fn next_header(&self) -> WrittenHeader {
        let mut header = WrittenHeader::empty();
        header.put(&[0xC0 | (self.chunk_stream & 0x3F)]);
        self.put_extended(&mut header);
        header
    }

    /// Bytes of the whole message on the wire.
    #[must_use]
    pub fn wire_bytes(&self, chunk_size: u32) -> u64 {
        let extended = if self.timestamp_ms >= EXTENDED { 4 } else { 0 };
        let chunks = u64::from(self.length.div_ceil(chunk_size).max(1));
        12 + extended + (chunks - 1) * (1 + extended) + u64::from(self.length)
    }

    /// Appends the whole message.
    pub fn put_message(&self, payload: &[u8], chunk_size: u32, out: &mut Vec<u8>) {
        debug_assert_eq!(payload.len(), self.length as usize);
        out.extend(self.first_header().as_slice());
        for (position, chunk) in payload.chunks(chunk_size as usize).enumerate() {
            if position > 0 {
                out.extend(self.next_header().as_slice());
            }
            out.extend(chunk);
        }
    }

    fn put_extended(&self, header: &mut WrittenHeader) {
        if self.timestamp_ms >= EXTENDED {
            header.put(&self.timestamp_ms.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtmp::chunk::{ChunkReader, Piece, Step};
    use proptest::prelude::*;

    proptest! {
        /// What is written reads back, and takes exactly the bytes that were announced.
        #[test]
        fn a_written_message_reads_back(
            payload in prop::collection::vec(any::<u8>(), 1..2000),
            timestamp_ms in prop_oneof![any::<u32>(), 0xFF_FFF0..0x100_0010_u32],
            chunk_stream in 3_u8..64,
        ) {
            let start = MessageStart {
                chunk_stream,
                timestamp_ms,
                length: u32::try_from(payload.len()).unwrap(),
                kind: 9,
                stream_id: 1,
            };
            let mut wire = Vec::new();
            start.put_message(&payload, 128, &mut wire);
            prop_assert_eq!(wire.len() as u64, start.wire_bytes(128));
            let (mut reader, mut at, mut got) = (ChunkReader::new(), 0, Vec::new());
            loop {
                match reader.next(&wire[at..]).unwrap() {
                    Step::NeedMore => panic!("the message does not end"),
                    Step::Advance { consumed, piece } => {
                        match piece {
                            Piece::Begin { message, .. } => {
                                prop_assert_eq!(message.timestamp_ms, timestamp_ms);
                            }
                            Piece::Payload { length, .. } => got.extend(&wire[at..at + length]),
                            Piece::End { .. } => break,
                            Piece::Abort { .. } | Piece::Nothing => {}
                        }
                        at += consumed;
                    }
                }
            }
            prop_assert_eq!((got, at), (payload, wire.len()));
        }
    }
}
