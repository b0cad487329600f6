//! Where the payload of each unfinished message is kept: media in the source log, commands in the
//! scratch, what nobody wants nowhere.

use super::record::{BadSection, Put, Take};
use crate::rtmp::chunk::{MessageHeader, Slot};
use tasuki_shared::limits::{CHUNK_STREAMS_MAX, OPEN_MESSAGES_MAX, SCRATCH_BYTES};
use tasuki_shared::memory::log::Reservation;

/// One unfinished message's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Scratch {
        offset: u32,
        length: u32,
        fill: u32,
    },
    Log(Reservation),
    /// Media before publish, or after unpublish.
    Nowhere,
}

/// A message on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    pub header: MessageHeader,
    pub place: Place,
}

impl Open {
    /// What it takes of the source log.
    fn reserved(&self) -> Option<u64> {
        match self.place {
            Place::Log(reservation) => Some(u64::from(reservation.length)),
            Place::Scratch { .. } | Place::Nowhere => None,
        }
    }
}

/// The open messages of one connection, by the chunk reader's slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    open: [Option<Open>; CHUNK_STREAMS_MAX],
    /// How many of them are in the source log, and their bytes.
    reserved: Reserved,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Reserved {
    messages: u64,
    bytes: u64,
}

impl Placement {
    pub fn begin(&mut self, slot: Slot, header: MessageHeader, place: Place) {
        self.end(slot);
        let open = Open { header, place };
        if let Some(bytes) = open.reserved() {
            self.reserved.messages += 1;
            self.reserved.bytes += bytes;
        }
        self.open[slot.index()] = Some(open);
    }

    /// The place of an open message, to be filled further.
    pub fn get_mut(&mut self, slot: Slot) -> Option<&mut Place> {
        self.open[slot.index()].as_mut().map(|open| &mut open.place)
    }

    pub fn end(&mut self, slot: Slot) -> Option<Open> {
        let open = self.open[slot.index()].take()?;
        if let Some(bytes) = open.reserved() {
            self.reserved.messages -= 1;
            self.reserved.bytes -= bytes;
        }
        Some(open)
    }

    /// Reservations of unfinished media messages, oldest place first.
    pub fn reservations(&mut self) -> Vec<&mut Reservation> {
        if self.reserved.messages == 0 {
            return Vec::new();
        }
        let mut found: Vec<_> = self
            .open
            .iter_mut()
            .flatten()
            .filter_map(|open| match &mut open.place {
                Place::Log(reservation) => Some(reservation),
                Place::Scratch { .. } | Place::Nowhere => None,
            })
            .collect();
        found.sort_by_key(|reservation| reservation.position);
        found
    }

    /// Has a message begun that is not complete?
    #[must_use]
    pub fn is_inside_a_message(&self) -> bool {
        self.open.iter().any(Option::is_some)
    }

    /// Bytes of unfinished media messages.
    #[must_use]
    pub fn reserved_bytes(&self) -> u64 {
        self.reserved.bytes
    }

    /// First gap of `length` bytes in the scratch.
    #[must_use]
    pub fn scratch_room(&self, length: u32) -> Option<u32> {
        let mut free = 0;
        for (offset, taken_bytes) in self.scratch_taken() {
            if offset.saturating_sub(free) >= length {
                break;
            }
            free = free.max(offset + taken_bytes);
        }
        let end = u64::from(free) + u64::from(length);
        (end <= SCRATCH_BYTES as u64).then_some(free)
    }

    /// Offset and length of each place in the scratch, in their order.
    fn scratch_taken(&self) -> Vec<(u32, u32)> {
        let place = |open: &Open| match open.place {
            Place::Scratch { offset, length, .. } => Some((offset, length)),
            Place::Log(_) | Place::Nowhere => None,
        };
        let mut taken: Vec<_> = self.open.iter().flatten().filter_map(place).collect();
        taken.sort_unstable();
        taken
    }

    fn scratch_overlaps(&self) -> bool {
        self.scratch_taken().windows(2).any(|pair| pair[0].0 + pair[0].1 > pair[1].0)
    }

    pub fn encode(&self, into: &mut Vec<u8>) {
        let count = self.open.iter().flatten().count();
        into.put_u8(u8::try_from(count).expect("at most 16 chunk streams"));
        for (slot, open) in (0_u8..).zip(&self.open) {
            let Some(Open { header: _, place }) = open else { continue };
            into.put_u8(slot);
            match *place {
                Place::Scratch { offset, length, fill } => {
                    into.put_u8(1);
                    into.put_u64(u64::from(offset));
                    into.put_u32(length);
                    into.put_u32(fill);
                }
                Place::Log(Reservation { position, length, fill }) => {
                    into.put_u8(2);
                    into.put_u64(position);
                    into.put_u32(length);
                    into.put_u32(fill);
                }
                Place::Nowhere => {
                    into.put_u8(3);
                    into.put_u64(0);
                    into.put_u32(0);
                    into.put_u32(0);
                }
            }
        }
    }

    /// `known` is what the chunk reader has open: each must have its place, with the same fill.
    pub fn decode(
        take: &mut Take<'_>,
        known: &[(Slot, MessageHeader, u32)],
    ) -> Result<Self, BadSection> {
        let count = usize::from(take.u8()?);
        if count > OPEN_MESSAGES_MAX || count != known.len() {
            return Err(take.bad("it places another number of messages than are open"));
        }
        let mut placement = Self::default();
        for _ in 0..count {
            let index = usize::from(take.u8()?);
            if placement.open.get(index).is_none_or(Option::is_some) {
                return Err(take.bad("it places a message twice"));
            }
            let (tag, position, length, fill) = (take.u8()?, take.u64()?, take.u32()?, take.u32()?);
            let (slot, header, filled) = *known
                .iter()
                .find(|(slot, ..)| slot.index() == index)
                .ok_or_else(|| take.bad("it places a message that is not open"))?;
            let whole = length == header.length && fill == filled && fill <= length;
            let place = match tag {
                1 if whole
                    && position.saturating_add(u64::from(length)) <= SCRATCH_BYTES as u64 =>
                {
                    let offset = u32::try_from(position).expect("inside the scratch");
                    Place::Scratch { offset, length, fill }
                }
                2 if whole => Place::Log(Reservation { position, length, fill }),
                3 => Place::Nowhere,
                _ => return Err(take.bad("an impossible place")),
            };
            placement.begin(slot, header, place);
        }
        if placement.scratch_overlaps() {
            return Err(take.bad("two messages share a place"));
        }
        Ok(placement)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtmp::chunk::{ChunkReader, Piece, Step};
    use crate::rtmp::write::MessageStart;
    use proptest::prelude::*;

    /// A reader in which a command of 300 bytes and a video message of 5000 are open.
    fn two_open() -> ChunkReader {
        let mut reader = ChunkReader::new();
        for (chunk_stream, kind, length) in [(3, 20, 300_u32), (6, 9, 5000)] {
            let start = MessageStart { chunk_stream, timestamp_ms: 0, length, kind, stream_id: 1 };
            let mut wire = start.first_header().as_slice().to_vec();
            wire.extend([7; 128]);
            let mut at = 0;
            while let Step::Advance { consumed, piece } = reader.next(&wire[at..]).unwrap() {
                at += consumed;
                assert!(!matches!(piece, Piece::End { .. }));
            }
        }
        reader
    }

    fn placed(known: &[(Slot, MessageHeader, u32)]) -> Placement {
        let mut placement = Placement::default();
        for &(slot, header, fill) in known {
            let length = header.length;
            let place = match header.kind {
                9 => Place::Log(Reservation { position: 1 << 30, length, fill }),
                _ => Place::Scratch { offset: 100, length, fill },
            };
            placement.begin(slot, header, place);
        }
        placement
    }

    #[test]
    fn places_come_back_from_the_record_and_only_with_the_messages_they_belong_to() {
        let known: Vec<_> = two_open().open_messages().collect();
        assert_eq!(known.len(), 2);
        let placement = placed(&known);
        let mut bytes = Vec::new();
        placement.encode(&mut bytes);
        let decode = |known: &[_]| Placement::decode(&mut Take::new("test", &bytes), known);
        assert_eq!(decode(&known), Ok(placement));
        assert!(decode(&known[..1]).is_err());
        assert!(decode(&[]).is_err());
    }

    #[test]
    fn the_scratch_gives_gaps_that_nobody_has() {
        let known: Vec<_> = two_open().open_messages().collect();
        let mut placement = placed(&known);
        assert_eq!(placement.scratch_room(100), Some(0));
        assert_eq!(placement.scratch_room(101), Some(400));
        assert_eq!(placement.scratch_room(u32::try_from(SCRATCH_BYTES).unwrap()), None);
        assert_eq!(placement.reserved_bytes(), 5000);
        for &(slot, ..) in &known {
            placement.end(slot);
        }
        assert_eq!((placement.reserved_bytes(), placement.reservations().len()), (0, 0));
        assert_eq!(placement, Placement::default());
    }

    proptest! {
        /// What a hostile owner wrote is read or refused: never a panic, never a shared place.
        #[test]
        fn a_damaged_record_is_read_or_refused(
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        ) {
            let known: Vec<_> = two_open().open_messages().collect();
            let mut bytes = Vec::new();
            placed(&known).encode(&mut bytes);
            for (at, with) in damage {
                let at = at.index(bytes.len());
                bytes[at] = with;
            }
            if let Ok(placement) = Placement::decode(&mut Take::new("test", &bytes), &known) {
                prop_assert!(!placement.scratch_overlaps());
                let _total = placement.scratch_room(1);
            }
        }
    }
}
