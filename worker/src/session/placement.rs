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

/// The open messages of one connection, by the chunk reader's slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    open: [Option<Open>; CHUNK_STREAMS_MAX],
}

impl Placement {
    pub fn begin(&mut self, slot: Slot, header: MessageHeader, place: Place) {
        self.open[slot.index()] = Some(Open { header, place });
    }

    pub fn get_mut(&mut self, slot: Slot) -> Option<&mut Open> {
        self.open[slot.index()].as_mut()
    }

    pub fn end(&mut self, slot: Slot) -> Option<Open> {
        self.open[slot.index()].take()
    }

    /// Reservations of unfinished media messages, oldest place first.
    pub fn reservations(&mut self) -> Vec<&mut Reservation> {
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

    /// Bytes of unfinished media messages.
    #[must_use]
    pub fn reserved_bytes(&self) -> u64 {
        self.open
            .iter()
            .flatten()
            .map(|open| match open.place {
                Place::Log(reservation) => u64::from(reservation.length),
                Place::Scratch { .. } | Place::Nowhere => 0,
            })
            .sum()
    }

    /// First gap of `length` bytes in the scratch.
    #[must_use]
    pub fn scratch_room(&self, length: u32) -> Option<u32> {
        let mut taken: Vec<(u32, u32)> = self
            .open
            .iter()
            .flatten()
            .filter_map(|open| match open.place {
                Place::Scratch { offset, length, .. } => Some((offset, length)),
                Place::Log(_) | Place::Nowhere => None,
            })
            .collect();
        taken.sort_unstable();
        let mut free = 0;
        for (offset, taken_bytes) in taken {
            if offset.saturating_sub(free) >= length {
                break;
            }
            free = free.max(offset + taken_bytes);
        }
        let end = u64::from(free) + u64::from(length);
        (end <= SCRATCH_BYTES as u64).then_some(free)
    }

    fn scratch_overlaps(&self) -> bool {
        let mut taken: Vec<(u32, u32)> = self
            .open
            .iter()
            .flatten()
            .filter_map(|open| match open.place {
                Place::Scratch { offset, length, .. } => Some((offset, length)),
                Place::Log(_) | Place::Nowhere => None,
            })
            .collect();
        taken.sort_unstable();
        taken.windows(2).any(|pair| pair[0].0 + pair[0].1 > pair[1].0)
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
