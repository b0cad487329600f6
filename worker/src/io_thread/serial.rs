//! Serials of sessions as keys of a map.

use std::hash::Hasher;

/// Serials are ours and one after the other: spreading their bits is all the hashing they need.
#[derive(Default)]
pub struct SerialHasher(u64);

impl Hasher for SerialHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, serial: u64) {
        // 2⁶⁴ divided by the golden ratio.
        self.0 = (self.0 ^ serial).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}
