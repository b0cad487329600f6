//! What operators count of a stream since its publish, whoever owned it: a section of the commit
//! record, so that each owner counts on.

use super::record::{BadSection, Put, Take};
use tasuki_shared::limits::RUNGS_MAX;

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub media_bytes: u64,
    pub frames_in: u64,
    pub frames_out: u64,
    pub frames_dropped: u64,
    pub frames_lost: u64,
    pub rung_frames: [u64; RUNGS_MAX],
    pub rung_bytes: [u64; RUNGS_MAX],
}

impl Totals {
    pub fn encode(&self, into: &mut Vec<u8>) {
        let Self {
            media_bytes,
            frames_in,
            frames_out,
            frames_dropped,
            frames_lost,
            rung_frames,
            rung_bytes,
        } = self;
        for count in [media_bytes, frames_in, frames_out, frames_dropped, frames_lost] {
            into.put_u64(*count);
        }
        for count in rung_frames.iter().chain(rung_bytes) {
            into.put_u64(*count);
        }
    }

    /// An empty section is that of a stream of which nothing was counted.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadSection> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        let mut take = Take::new("totals", bytes);
        let mut totals = Self {
            media_bytes: take.u64()?,
            frames_in: take.u64()?,
            frames_out: take.u64()?,
            frames_dropped: take.u64()?,
            frames_lost: take.u64()?,
            ..Self::default()
        };
        for count in totals.rung_frames.iter_mut().chain(&mut totals.rung_bytes) {
            *count = take.u64()?;
        }
        take.end()?;
        Ok(totals)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tasuki_shared::memory::commit::Section;

    #[test]
    fn an_owner_counts_on_from_what_the_last_one_committed() {
        let mut totals = Totals { frames_in: 9, frames_lost: 2, ..Totals::default() };
        (totals.rung_frames[5], totals.rung_bytes[0]) = (7, u64::MAX);
        let mut bytes = Vec::new();
        totals.encode(&mut bytes);
        assert!(bytes.len() <= Section::Totals.bytes_max());
        assert_eq!(Totals::decode(&bytes), Ok(totals));
        assert_eq!(Totals::decode(&[]), Ok(Totals::default()));
        assert!(Totals::decode(&bytes[1..]).is_err());
    }
}
