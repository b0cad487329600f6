//! A client that may publish, as the commit record has it: what was heard of the origin so far.
//!
//! A commit record may have been written by a hostile worker: decoding accepts only what a client
//! can be in, and refuses everything else by name.

use super::{PushClient, PushTarget, Stage, is_heard};
use crate::rtmp::chunk::{ChunkReader, ChunkState};
use crate::session::record::{BadSection, Put, Take};
use std::collections::BTreeMap;
use tasuki_shared::limits::{OPEN_MESSAGES_MAX, PUSH_OPEN_BYTES_MAX};

/// Bytes received are counted; no connection lives long enough to come near this.
const RECEIVED_MAX: u64 = 1 << 60;

impl PushClient {
    /// Most bytes that [`Self::encode`] appends.
    pub const RECORD_BYTES_MAX: usize =
        4 + 3 * 8 + 1 + ChunkState::SIZE + 1 + OPEN_MESSAGES_MAX + PUSH_OPEN_BYTES_MAX;

    /// Bytes of the origin that were parsed.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }

    /// The message stream that media is written on; `None` before the origin lets us publish.
    #[must_use]
    pub fn stream_id(&self) -> Option<u32> {
        match self.stage {
            Stage::Live { stream_id } => Some(stream_id),
            Stage::Handshake(_)
            | Stage::Connecting
            | Stage::Creating
            | Stage::Publishing { .. } => None,
        }
    }

    /// Appends what the commit record must know of a client that may publish.
    pub fn encode(&self, into: &mut Vec<u8>) {
        let Self { stage: _, target: _, reader, open, received, acknowledged, window } = self;
        into.put_u32(self.stream_id().unwrap_or(0));
        into.put_u64(*received);
        into.put_u64(*acknowledged);
        into.put_u64(*window);
        reader.export().encode(into);
        into.put_u8(u8::try_from(open.len()).expect("a few open messages"));
        for (slot, (_, payload)) in open {
            // The reader knows how much of each came.
            into.put_u8(u8::try_from(*slot).expect("a few slots"));
            into.put_bytes(payload);
        }
    }

    /// Reads what [`Self::encode`] wrote.
    pub fn decode(target: PushTarget, take: &mut Take<'_>) -> Result<Self, BadSection> {
        let stream_id = take.u32()?;
        let (received, acknowledged, window) = (take.u64()?, take.u64()?, take.u64()?);
        if stream_id == 0 || stream_id > 1 << 16 {
            return Err(take.bad("an impossible message stream"));
        }
        if received > RECEIVED_MAX || acknowledged > received || window > u64::from(u32::MAX) {
            return Err(take.bad("impossible counts of an origin's bytes"));
        }
        let streams = take.u8()?;
        let length =
            ChunkState::encoded_bytes(streams).ok_or(take.bad("too many chunk streams"))?;
        let state = ChunkState::decode(take.bytes(length)?);
        let reader = ChunkReader::import(&state)
            .map_err(|_| take.bad("an impossible position in an origin's chunk stream"))?;
        let mut open = BTreeMap::new();
        let mut announced = 0;
        for _ in 0..take.u8()? {
            let slot = usize::from(take.u8()?);
            let known = reader.open_messages().find(|(known, ..)| known.index() == slot);
            let (_, message, filled) = known.ok_or(take.bad("a message that is not open"))?;
            announced += message.length as usize;
            if !is_heard(message.kind) || announced > PUSH_OPEN_BYTES_MAX {
                return Err(take.bad("an open message that would not be kept"));
            }
            let payload = take.bytes(filled as usize)?.to_vec();
            if open.insert(slot, (message, payload)).is_some() {
                return Err(take.bad("an open message appears twice"));
            }
        }
        let stage = Stage::Live { stream_id };
        Ok(Self { stage, target, reader, open, received, acknowledged, window })
    }
}
