//! The messages inside an aggregate message (type 22): FLV tags one behind the other.
//!
//! The first tag's timestamp stands for that of the aggregate; the others keep their distance to
//! it. The size field behind each tag is skipped, and may be missing behind the last.
//!
//! Source: "rtmp_specification_1.0", section 7.1.6.

use super::chunk::{MessageHeader, kind};

const TAG_HEADER_BYTES: usize = 11;
const BACK_POINTER_BYTES: usize = 4;

/// One message of an aggregate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part<'a> {
    pub header: MessageHeader,
    pub payload: &'a [u8],
}

/// Why an aggregate cannot be read on. What came before is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AggregateError {
    #[error("an aggregate message ends inside a part")]
    Truncated,
    #[error("an aggregate message holds a part of type {0}, which is neither media nor data")]
    Kind(u8),
}

/// Iterates over the parts; ends after the first error. Each step consumes at least 11 bytes, so
/// the message's length bounds it.
#[derive(Clone, Debug)]
pub struct AggregateReader<'a> {
    header: MessageHeader,
    first_ms: Option<u32>,
    rest: &'a [u8],
}

impl<'a> AggregateReader<'a> {
    #[must_use]
    pub fn new(header: MessageHeader, payload: &'a [u8]) -> Self {
        Self { header, first_ms: None, rest: payload }
    }

    fn part(&mut self) -> Result<Part<'a>, AggregateError> {
        let (tag, rest) =
            self.rest.split_first_chunk::<TAG_HEADER_BYTES>().ok_or(AggregateError::Truncated)?;
        let [kind, l1, l2, l3, t1, t2, t3, t0, ..] = *tag;
        let length = u32::from_be_bytes([0, l1, l2, l3]);
        let timestamp_ms = u32::from_be_bytes([t0, t1, t2, t3]);
        if !matches!(kind, kind::AUDIO | kind::VIDEO | kind::DATA_AMF0 | kind::DATA_AMF3) {
            return Err(AggregateError::Kind(kind));
        }
        let bytes = usize::try_from(length).map_err(|_| AggregateError::Truncated)?;
        let (payload, rest) = rest.split_at_checked(bytes).ok_or(AggregateError::Truncated)?;
        self.rest = rest.get(BACK_POINTER_BYTES..).unwrap_or_default();
        let first_ms = *self.first_ms.get_or_insert(timestamp_ms);
        let since_first = timestamp_ms.wrapping_sub(first_ms);
        let timestamp_ms = self.header.timestamp_ms.wrapping_add(since_first);
        let header = MessageHeader { kind, length, timestamp_ms, ..self.header };
        Ok(Part { header, payload })
    }
}

impl<'a> Iterator for AggregateReader<'a> {
    type Item = Result<Part<'a>, AggregateError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let part = self.part();
        if part.is_err() {
            self.rest = &[];
        }
        Some(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(kind: u8, timestamp: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap();
        let [t0, t1, t2, t3] = timestamp.to_be_bytes();
        let mut bytes = vec![kind];
        bytes.extend(&length.to_be_bytes()[1..]);
        bytes.extend([t1, t2, t3, t0, 0, 0, 0]);
        bytes.extend(payload);
        bytes.extend((length + 11).to_be_bytes());
        bytes
    }

    fn header(length: usize) -> MessageHeader {
        let length = u32::try_from(length).unwrap();
        let kind = kind::AGGREGATE;
        MessageHeader { chunk_stream: 4, kind, length, timestamp_ms: 1000, stream_id: 1 }
    }

    #[test]
    fn parts_keep_their_distance_to_the_first_which_stands_at_the_aggregate() {
        let mut bytes = tag(kind::AUDIO, 0x0200_0005, &[1]);
        bytes.extend(tag(kind::VIDEO, 0x0200_0019, &[2, 3]));
        bytes.extend(tag(kind::AUDIO, 0x0200_0000, &[]));
        bytes.truncate(bytes.len() - 4);
        let reader = AggregateReader::new(header(bytes.len()), &bytes);
        let parts: Vec<_> = reader.map(Result::unwrap).collect();
        let seen: Vec<_> = parts
            .iter()
            .map(|part| (part.header.kind, part.header.timestamp_ms, part.payload))
            .collect();
        assert_eq!(seen, [(8, 1000, &[1][..]), (9, 1020, &[2, 3]), (8, 995, &[])]);
    }

    #[test]
    fn a_part_longer_than_its_aggregate_or_of_another_kind_ends_it_by_name() {
        let good = tag(kind::AUDIO, 0, &[1]);
        for cut in 1..good.len() - 5 {
            let bytes = [&good[..], &good[..cut]].concat();
            let parts: Vec<_> = AggregateReader::new(header(bytes.len()), &bytes).collect();
            assert_eq!(parts.len(), 2);
            assert_eq!(parts[1], Err(AggregateError::Truncated));
        }
        let nested = tag(kind::AGGREGATE, 0, &good);
        let mut reader = AggregateReader::new(header(nested.len()), &nested);
        assert_eq!(reader.next(), Some(Err(AggregateError::Kind(22))));
        assert_eq!(reader.next(), None);
    }
}
