//! Chunk headers as they stand on the wire; each function is `None` where bytes are missing.

use super::{EXTENDED, Progress, Stream, TimestampField};

/// The four forms of a message header, by what they leave to the last one.
#[derive(Clone, Copy)]
pub(super) enum Format {
    Full,
    SameStream,
    SameLength,
    Same,
}

pub(super) struct Fields {
    pub(super) timestamp: Option<u32>,
    pub(super) length: Option<u32>,
    pub(super) kind: Option<u8>,
    pub(super) stream_id: Option<u32>,
}

pub(super) fn basic_header(input: &[u8]) -> Option<(Format, u32, usize)> {
    let first = *input.first()?;
    let format = match first >> 6 {
        0 => Format::Full,
        1 => Format::SameStream,
        2 => Format::SameLength,
        _ => Format::Same,
    };
    match first & 0x3F {
        0 => Some((format, 64 + u32::from(*input.get(1)?), 2)),
        1 => {
            let (low, high) = (*input.get(1)?, *input.get(2)?);
            Some((format, 64 + u32::from(low) + u32::from(high) * 256, 3))
        }
        id => Some((format, u32::from(id), 1)),
    }
}

pub(super) fn message_header(input: &[u8], format: Format) -> Option<(Fields, usize)> {
    let mut fields = Fields { timestamp: None, length: None, kind: None, stream_id: None };
    let size = match format {
        Format::Full => 11,
        Format::SameStream => 7,
        Format::SameLength => 3,
        Format::Same => return Some((fields, 0)),
    };
    let bytes = input.get(..size)?;
    fields.timestamp = Some(be24(bytes[0], bytes[1], bytes[2]));
    if let Some(&[a, b, c, kind]) = bytes.get(3..7) {
        fields.length = Some(be24(a, b, c));
        fields.kind = Some(kind);
    }
    if let Some(&[a, b, c, d]) = bytes.get(7..11) {
        fields.stream_id = Some(u32::from_le_bytes([a, b, c, d]));
    }
    Some((fields, size))
}

/// The timestamp of a chunk: how it stands in the header, its value, and the bytes it took behind
/// the message header. `None`: they are not all here.
pub(super) fn timestamp(
    input: &[u8],
    in_header: Option<u32>,
    last: &Stream,
) -> Option<(TimestampField, u32, usize)> {
    match (in_header, last.field) {
        (Some(EXTENDED), _) => {
            let bytes = input.first_chunk::<4>()?;
            Some((TimestampField::Extended, u32::from_be_bytes(*bytes), 4))
        }
        (Some(short), _) => Some((TimestampField::Short, short, 0)),
        (None, TimestampField::Short) => Some((TimestampField::Short, last.delta_ms, 0)),
        (None, TimestampField::Extended) => {
            let size = if repeats_timestamp(input, last)? { 4 } else { 0 };
            Some((TimestampField::Extended, last.delta_ms, size))
        }
    }
}

/// Whether a type-3 header is followed by the extended timestamp again. The specification says
/// so, many senders leave it out; nothing but the bytes themselves tells. Senders that repeat it
/// repeat the field, or inside a message its absolute time. `None`: too few bytes to say.
fn repeats_timestamp(input: &[u8], last: &Stream) -> Option<bool> {
    let candidates = match last.progress {
        Progress::Idle => [last.delta_ms, last.delta_ms],
        Progress::Open { .. } => [last.delta_ms, last.message.timestamp_ms],
    };
    let seen = &input[..input.len().min(4)];
    let may_be = candidates.iter().any(|value| value.to_be_bytes().starts_with(seen));
    match (may_be, seen.len()) {
        (false, _) => Some(false),
        (true, 4) => Some(true),
        (true, _) => None,
    }
}

fn be24(a: u8, b: u8, c: u8) -> u32 {
    u32::from_be_bytes([0, a, b, c])
}
