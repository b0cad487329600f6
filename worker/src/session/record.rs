//! How the sections of the commit record are encoded: little-endian, field after field.
//!
//! Decoding is total: a worker that was taken over may have written the record.

use tasuki_shared::memory::MemoryError;

/// Appends fields.
pub trait Put {
    fn put_u8(&mut self, value: u8);
    fn put_u32(&mut self, value: u32);
    fn put_u64(&mut self, value: u64);
    fn put_bytes(&mut self, bytes: &[u8]);
}

impl Put for Vec<u8> {
    fn put_u8(&mut self, value: u8) {
        self.push(value);
    }

    fn put_u32(&mut self, value: u32) {
        self.extend(value.to_le_bytes());
    }

    fn put_u64(&mut self, value: u64) {
        self.extend(value.to_le_bytes());
    }

    fn put_bytes(&mut self, bytes: &[u8]) {
        self.extend(bytes);
    }
}

/// A section could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the commit record's {section} section is damaged: {why}")]
pub struct BadSection {
    pub section: &'static str,
    pub why: &'static str,
}

impl From<BadSection> for MemoryError {
    fn from(bad: BadSection) -> Self {
        Self::Damaged { what: bad.section, why: bad.why }
    }
}

/// Takes fields off the front of a section.
pub struct Take<'a> {
    section: &'static str,
    rest: &'a [u8],
}

impl<'a> Take<'a> {
    #[must_use]
    pub fn new(section: &'static str, bytes: &'a [u8]) -> Self {
        Self { section, rest: bytes }
    }

    pub fn bad(&self, why: &'static str) -> BadSection {
        BadSection { section: self.section, why }
    }

    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], BadSection> {
        if count > self.rest.len() {
            return Err(self.bad("it is too short"));
        }
        let (taken, rest) = self.rest.split_at(count);
        self.rest = rest;
        Ok(taken)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], BadSection> {
        Ok(self.bytes(N)?.try_into().expect("N bytes were taken"))
    }

    pub fn u8(&mut self) -> Result<u8, BadSection> {
        Ok(self.array::<1>()?[0])
    }

    pub fn u32(&mut self) -> Result<u32, BadSection> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> Result<u64, BadSection> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Nothing may follow.
    pub fn end(self) -> Result<(), BadSection> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.bad("bytes follow its end")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_back_in_order_and_a_short_or_long_section_is_refused() {
        let mut bytes = Vec::new();
        bytes.put_u8(7);
        bytes.put_u32(8);
        bytes.put_u64(9);
        let mut take = Take::new("test", &bytes);
        assert_eq!((take.u8(), take.u32()), (Ok(7), Ok(8)));
        assert!(Take { section: "test", rest: take.rest }.end().is_err());
        assert_eq!(take.u64(), Ok(9));
        assert!(take.u8().is_err());
        assert!(take.end().is_ok());
    }
}
