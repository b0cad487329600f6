//! A reader of bits that ends instead of failing: every read past the end is `None`.

/// Reads big-endian bit fields and Exp-Golomb codes.
#[derive(Clone, Debug)]
pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Bits<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    /// The next `count` bits, at most 32.
    pub(super) fn take(&mut self, count: u32) -> Option<u32> {
        let mut value = 0_u32;
        for _ in 0..count {
            value = value << 1 | self.bit()?;
        }
        Some(value)
    }

    pub(super) fn skip(&mut self, count: usize) -> Option<()> {
        let position = self.position.checked_add(count)?;
        if position > self.bytes.len().saturating_mul(8) {
            return None;
        }
        self.position = position;
        Some(())
    }

    /// ue(v) of ISO/IEC 23008-2, 9.2: at most 31 leading zeros.
    pub(super) fn golomb(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while self.bit()? == 0 {
            zeros += 1;
            if zeros > 31 {
                return None;
            }
        }
        let suffix = self.take(zeros)?;
        Some(((1_u32 << zeros) - 1).saturating_add(suffix))
    }

    fn bit(&mut self) -> Option<u32> {
        let byte = *self.bytes.get(self.position / 8)?;
        let bit = byte >> (7 - self.position % 8) & 1;
        self.position += 1;
        Some(u32::from(bit))
    }
}

/// A NAL unit without its emulation prevention bytes (00 00 03 → 00 00).
pub(super) fn unescape(nal: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(nal.len());
    let mut zeros = 0;
    for &byte in nal {
        if zeros >= 2 && byte == 3 {
            zeros = 0;
            continue;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        plain.push(byte);
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_golomb_codes_read_as_in_the_specification() {
        // 1 | 010 | 011 | 00100 | 00101 → 0 1 2 3 4
        let mut bits = Bits::new(&[0b1010_0110, 0b0100_0010, 0b1000_0000]);
        let read: Vec<_> = (0..5).map(|_| bits.golomb()).collect();
        assert_eq!(read, [Some(0), Some(1), Some(2), Some(3), Some(4)]);
    }

    #[test]
    fn reading_past_the_end_is_none_not_a_panic() {
        let mut bits = Bits::new(&[0]);
        assert_eq!(bits.golomb(), None);
        assert_eq!(Bits::new(&[0; 8]).golomb(), None);
        assert_eq!(Bits::new(&[1]).take(9), None);
        assert_eq!(Bits::new(&[1]).skip(usize::MAX), None);
    }

    #[test]
    fn emulation_prevention_is_removed_also_twice_in_a_row() {
        assert_eq!(unescape(&[1, 0, 0, 3, 0, 0, 3, 1]), [1, 0, 0, 0, 0, 1]);
        assert_eq!(unescape(&[0, 3, 0, 3]), [0, 3, 0, 3]);
    }
}
