//! AMF0 behind a guard: bounded in depth, count and bytes before anything is allocated for it.
//!
//! The values are `rml_rtmp`'s. Its own decoder recurses without bound, aborts the process on nested
//! containers and refuses long strings and dates; so decoding is done here, and is total: what
//! cannot be skipped for want of a known length ends the message with what was read so far.
//!
//! Writing keeps the order of properties, which a hash map would not: replies to the same bytes are
//! the same bytes.

use rml_rtmp::rml_amf0::Amf0Value;
use std::collections::HashMap;
use tasuki_shared::limits::{AMF_DEPTH_MAX, AMF_VALUES_MAX, COMMAND_MESSAGE_BYTES_MAX};

pub use rml_rtmp::rml_amf0::Amf0Value as Value;

mod marker {
    pub const NUMBER: u8 = 0;
    pub const BOOLEAN: u8 = 1;
    pub const STRING: u8 = 2;
    pub const OBJECT: u8 = 3;
    pub const MOVIE_CLIP: u8 = 4;
    pub const NULL: u8 = 5;
    pub const UNDEFINED: u8 = 6;
    pub const REFERENCE: u8 = 7;
    pub const ECMA_ARRAY: u8 = 8;
    pub const OBJECT_END: u8 = 9;
    pub const STRICT_ARRAY: u8 = 10;
    pub const DATE: u8 = 11;
    pub const LONG_STRING: u8 = 12;
    pub const UNSUPPORTED: u8 = 13;
    pub const RECORD_SET: u8 = 14;
    pub const XML_DOCUMENT: u8 = 15;
    pub const TYPED_OBJECT: u8 = 16;
}

/// Why an AMF0 message is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AmfError {
    #[error("AMF message of {0} bytes, {COMMAND_MESSAGE_BYTES_MAX} are allowed")]
    TooLong(usize),
    #[error("AMF values nested deeper than {AMF_DEPTH_MAX}")]
    TooDeep,
    #[error("more than {AMF_VALUES_MAX} AMF values in one message")]
    TooMany,
    #[error("AMF message ends inside a value")]
    Truncated,
}

/// Decodes all values of a message.
pub fn decode(bytes: &[u8]) -> Result<Vec<Amf0Value>, AmfError> {
    if bytes.len() > COMMAND_MESSAGE_BYTES_MAX {
        return Err(AmfError::TooLong(bytes.len()));
    }
    let mut reader = Reader { rest: bytes, values: 0, readable: Readable::Yes };
    let mut values = Vec::new();
    while !reader.rest.is_empty() && reader.readable == Readable::Yes {
        // A stray end-of-object between values is skipped, as other servers do.
        if reader.rest[0] == marker::OBJECT_END {
            reader.rest = &reader.rest[1..];
        } else {
            values.push(reader.value(0)?);
        }
    }
    Ok(values)
}

/// Payload of a data or command message of an AMF3 type: AMF0 behind one zero byte.
#[must_use]
pub fn without_amf3_prefix(payload: &[u8]) -> &[u8] {
    match payload {
        // A first value that is a number would begin with zero as well, but the first value of
        // every command and data message is a string.
        [0, rest @ ..] => rest,
        all => all,
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Readable {
    Yes,
    /// A value of unknown length was met: what follows cannot be told apart.
    No,
}

struct Reader<'a> {
    rest: &'a [u8],
    values: usize,
    readable: Readable,
}

impl<'a> Reader<'a> {
    fn value(&mut self, depth: usize) -> Result<Amf0Value, AmfError> {
        self.values += 1;
        if self.values > AMF_VALUES_MAX {
            return Err(AmfError::TooMany);
        }
        if depth > AMF_DEPTH_MAX {
            return Err(AmfError::TooDeep);
        }
        match self.array::<1>()?[0] {
            marker::NUMBER => Ok(Amf0Value::Number(f64::from_be_bytes(self.array()?))),
            marker::BOOLEAN => Ok(Amf0Value::Boolean(self.array::<1>()?[0] != 0)),
            marker::STRING => Ok(Amf0Value::Utf8String(self.short_text()?)),
            marker::LONG_STRING | marker::XML_DOCUMENT => {
                let length = usize::try_from(u32::from_be_bytes(self.array()?));
                let bytes = self.bytes(length.map_err(|_| AmfError::Truncated)?)?;
                Ok(Amf0Value::Utf8String(text(bytes)))
            }
            marker::OBJECT => self.object(depth),
            marker::TYPED_OBJECT => {
                self.short_text()?;
                self.object(depth)
            }
            marker::ECMA_ARRAY => {
                // The count is a hint that senders get wrong; the end marker counts.
                self.array::<4>()?;
                self.object(depth)
            }
            marker::STRICT_ARRAY => self.strict_array(depth),
            marker::DATE => {
                let milliseconds = f64::from_be_bytes(self.array()?);
                self.array::<2>()?;
                Ok(Amf0Value::Number(milliseconds))
            }
            marker::NULL => Ok(Amf0Value::Null),
            marker::REFERENCE => {
                self.array::<2>()?;
                Ok(Amf0Value::Undefined)
            }
            marker::UNDEFINED
            | marker::UNSUPPORTED
            | marker::MOVIE_CLIP
            | marker::RECORD_SET
            | marker::OBJECT_END => Ok(Amf0Value::Undefined),
            _ => {
                self.readable = Readable::No;
                Ok(Amf0Value::Undefined)
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Amf0Value, AmfError> {
        let mut properties = HashMap::new();
        // Some encoders leave the end of the last container out.
        while !self.rest.is_empty() && self.readable == Readable::Yes {
            let name = self.short_text()?;
            if name.is_empty() && self.rest.first() == Some(&marker::OBJECT_END) {
                self.rest = &self.rest[1..];
                break;
            }
            let value = self.value(depth + 1)?;
            properties.insert(name, value);
        }
        Ok(Amf0Value::Object(properties))
    }

    fn strict_array(&mut self, depth: usize) -> Result<Amf0Value, AmfError> {
        let count = u32::from_be_bytes(self.array()?);
        let mut values = Vec::new();
        for _ in 0..count {
            if self.readable == Readable::No {
                break;
            }
            values.push(self.value(depth + 1)?);
        }
        Ok(Amf0Value::StrictArray(values))
    }

    fn short_text(&mut self) -> Result<String, AmfError> {
        let length = u16::from_be_bytes(self.array()?);
        Ok(text(self.bytes(usize::from(length))?))
    }

    fn bytes(&mut self, length: usize) -> Result<&'a [u8], AmfError> {
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or(AmfError::Truncated)?;
        self.rest = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], AmfError> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(AmfError::Truncated)?;
        self.rest = rest;
        Ok(*bytes)
    }
}

/// Text as it was meant: bytes that are no UTF-8 are replaced, not refused.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Appends AMF0 values in the order of its calls.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn string(mut self, value: &str) -> Self {
        self.bytes.push(marker::STRING);
        self.text(value);
        self
    }

    #[must_use]
    pub fn number(mut self, value: f64) -> Self {
        self.bytes.push(marker::NUMBER);
        self.bytes.extend(value.to_be_bytes());
        self
    }

    #[must_use]
    pub fn null(mut self) -> Self {
        self.bytes.push(marker::NULL);
        self
    }

    /// An object; the properties are written by `fill` with [`Writer::name`] before each value.
    #[must_use]
    pub fn object(mut self, fill: impl FnOnce(Self) -> Self) -> Self {
        self.bytes.push(marker::OBJECT);
        self = fill(self);
        self.bytes.extend([0, 0, marker::OBJECT_END]);
        self
    }

    /// An associative array; its `count` properties are written as those of an object.
    #[must_use]
    pub fn array(mut self, count: u32, fill: impl FnOnce(Self) -> Self) -> Self {
        self.bytes.push(marker::ECMA_ARRAY);
        self.bytes.extend(count.to_be_bytes());
        self = fill(self);
        self.bytes.extend([0, 0, marker::OBJECT_END]);
        self
    }

    /// An array of strings.
    #[must_use]
    pub fn strings(mut self, values: &[&str]) -> Self {
        self.bytes.push(marker::STRICT_ARRAY);
        let count = u32::try_from(values.len()).expect("arrays of ours are short");
        self.bytes.extend(count.to_be_bytes());
        values.iter().fold(self, |writer, value| writer.string(value))
    }

    /// The name of the property whose value is written next.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.text(name);
        self
    }

    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }

    fn text(&mut self, value: &str) {
        let length = u16::try_from(value.len()).expect("strings of ours are short");
        self.bytes.extend(length.to_be_bytes());
        self.bytes.extend(value.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rml_rtmp::rml_amf0;

    fn value() -> impl Strategy<Value = Amf0Value> {
        let leaf = prop_oneof![
            (-1e9..1e9).prop_map(Amf0Value::Number),
            any::<bool>().prop_map(Amf0Value::Boolean),
            "[a-zé]{0,20}".prop_map(Amf0Value::Utf8String),
            Just(Amf0Value::Null),
            Just(Amf0Value::Undefined),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Amf0Value::StrictArray),
                prop::collection::hash_map("[a-z]{1,8}", inner, 0..6).prop_map(Amf0Value::Object),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_rml_amf0_writes_is_read_back(values in prop::collection::vec(value(), 0..6)) {
            let bytes = rml_amf0::serialize(&values).unwrap();
            prop_assert_eq!(decode(&bytes).unwrap(), values);
        }

        #[test]
        fn any_bytes_decode_or_are_refused(bytes in prop::collection::vec(0_u8..20, 0..500)) {
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn nesting_ten_thousand_deep_is_refused() {
        let arrays = [marker::STRICT_ARRAY, 0, 0, 0, 1].repeat(3000);
        assert_eq!(decode(&arrays), Err(AmfError::TooDeep));
        let objects = [marker::OBJECT, 0, 1, b'a'].repeat(4000);
        assert_eq!(decode(&objects), Err(AmfError::TooDeep));
        let ten_thousand = [marker::OBJECT, 0, 1, b'a'].repeat(10_000);
        assert_eq!(decode(&ten_thousand), Err(AmfError::TooLong(40_000)));
    }

    #[test]
    fn huge_counts_allocate_nothing() {
        assert_eq!(decode(&[marker::STRICT_ARRAY, 255, 255, 255, 255]), Err(AmfError::Truncated));
        assert_eq!(
            decode(&[marker::LONG_STRING, 255, 255, 255, 255, b'a']),
            Err(AmfError::Truncated)
        );
    }

    #[test]
    fn more_values_than_allowed_are_refused() {
        assert!(decode(&[marker::NULL].repeat(AMF_VALUES_MAX)).is_ok());
        assert_eq!(decode(&[marker::NULL].repeat(AMF_VALUES_MAX + 1)), Err(AmfError::TooMany));
        assert_eq!(
            decode(&vec![marker::NULL; COMMAND_MESSAGE_BYTES_MAX + 1]),
            Err(AmfError::TooLong(COMMAND_MESSAGE_BYTES_MAX + 1))
        );
    }

    #[test]
    fn long_strings_dates_and_other_rare_types_are_read() {
        let mut bytes = vec![marker::LONG_STRING, 0, 0, 0, 2, b'h', b'i', marker::DATE];
        bytes.extend(5_f64.to_be_bytes());
        bytes.extend([0, 0, marker::REFERENCE, 0, 1, marker::UNSUPPORTED]);
        bytes.extend([marker::TYPED_OBJECT, 0, 1, b'T', 0, 1, b'a', marker::NULL, 0, 0, 9]);
        let object = Amf0Value::Object(HashMap::from([("a".to_owned(), Amf0Value::Null)]));
        let values = [
            Amf0Value::Utf8String("hi".to_owned()),
            Amf0Value::Number(5.0),
            Amf0Value::Undefined,
            Amf0Value::Undefined,
            object,
        ];
        assert_eq!(decode(&bytes).unwrap(), values);
    }

    #[test]
    fn an_unknown_type_ends_the_message_and_keeps_what_came_before() {
        let mut bytes = Writer::new().string("onMetaData").finish();
        bytes.extend([marker::OBJECT, 0, 1, b'a', marker::NULL, 0, 1, b'b', 0x11, 1, 2, 3]);
        let values = decode(&bytes).unwrap();
        assert_eq!(values.len(), 2);
        assert!(matches!(&values[1], Amf0Value::Object(object) if object.len() == 2));
    }

    #[test]
    fn what_is_written_is_what_rml_amf0_reads() {
        let bytes = Writer::new()
            .string("a")
            .number(1.5)
            .null()
            .object(|object| object.name("list").strings(&["x", "y"]))
            .finish();
        let values = rml_amf0::deserialize(&mut &bytes[..]).unwrap();
        assert_eq!(values, decode(&bytes).unwrap());
        assert_eq!(values.len(), 4);
    }
}
