//! A batch: the few messages a push has composed, which are committed before their first byte is
//! written and derived again from the record by whoever adopts the session.

use super::commands::Commands;
use crate::output::cursor::{LogName, Logs};
use crate::rtmp::chunk::kind;
use crate::rtmp::write::{MessageStart, WrittenHeader};
use crate::session::record::{BadSection, Put, Take};
use std::io;
use std::os::fd::BorrowedFd;
use tasuki_shared::limits::CHUNK_SIZE_OUT;
use tasuki_shared::memory::log::{Entry, EntryKind, HeaderKind};
use tasuki_shared::memory::map::Gather;
use tasuki_shared::memory::push::PushMemory;

/// Items of one batch: three headers and a packet.
pub(super) const ITEMS_MAX: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// Bytes in the push memory's command ring, chunked already.
    Command {
        position: u64,
    },
    Header {
        log: LogName,
        id: u32,
    },
    Packet {
        log: LogName,
        index: u64,
    },
}

/// One message of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Item {
    what: What,
    /// RTMP message type; 0 for a command.
    kind: u8,
    timestamp_ms: u32,
    length: u32,
}

impl Item {
    /// Encoded size.
    pub const BYTES: usize = 19;

    fn header(log: LogName, id: u32, kind: HeaderKind, dts_ms: i64, bytes: &[u8]) -> Self {
        let length = u32::try_from(bytes.len()).expect("a page at most");
        let kind = match kind {
            HeaderKind::Video => kind::VIDEO,
            HeaderKind::Audio => kind::AUDIO,
            HeaderKind::Metadata => kind::DATA_AMF0,
        };
        let timestamp_ms = wire_time(dts_ms);
        Self { what: What::Header { log, id }, kind, timestamp_ms, length }
    }

    fn packet(log: LogName, entry: &Entry) -> Self {
        let what = What::Packet { log, index: entry.index };
        let kind = message_kind(entry.kind);
        let timestamp_ms = wire_time(entry.dts_ms);
        Self { what, kind, timestamp_ms, length: entry.length }
    }

    fn start(&self, stream_id: u32) -> MessageStart {
        let chunk_stream = match self.kind {
            kind::AUDIO => 4,
            kind::VIDEO => 6,
            _ => 5,
        };
        let Self { what: _, kind, timestamp_ms, length } = *self;
        MessageStart { chunk_stream, timestamp_ms, length, kind, stream_id }
    }

    fn wire_bytes(&self, stream_id: u32) -> u64 {
        match self.what {
            What::Command { .. } => u64::from(self.length),
            What::Header { .. } | What::Packet { .. } => {
                self.start(stream_id).wire_bytes(CHUNK_SIZE_OUT)
            }
        }
    }

    fn encode(&self, into: &mut Vec<u8>) {
        let (tag, log, place) = match self.what {
            What::Command { position } => (0, 0, position),
            What::Header { log, id } => (1, log.to_byte(), u64::from(id)),
            What::Packet { log, index } => (2, log.to_byte(), index),
        };
        into.put_u8(tag);
        into.put_u8(log);
        into.put_u8(self.kind);
        into.put_u64(place);
        into.put_u32(self.length);
        into.put_u32(self.timestamp_ms);
    }

    fn decode(commands: Commands, take: &mut Take<'_>) -> Result<Self, BadSection> {
        let [tag, log, kind] = take.array()?;
        let (place, length, timestamp_ms) = (take.u64()?, take.u32()?, take.u32()?);
        let log = LogName::from_byte(log);
        let what = match tag {
            0 => What::Command { position: place },
            1 => {
                let id = u32::try_from(place).map_err(|_| take.bad("an impossible header"))?;
                What::Header { log, id }
            }
            2 => What::Packet { log, index: place },
            _ => return Err(take.bad("an unknown item of a batch")),
        };
        if let What::Command { position } = what
            && (position, u64::from(length))
                != (commands.begins, commands.batched - commands.begins)
        {
            return Err(take.bad("a command that is not in the ring"));
        }
        Ok(Self { what, kind, timestamp_ms, length })
    }

    /// Looks whether what is to be written is still there, unchanged; gives a header's bytes.
    fn find(&self, logs: &Logs) -> Result<Option<Vec<u8>>, &'static str> {
        const GONE: &str = "what was being written to the origin is overwritten";
        match self.what {
            What::Command { .. } => Ok(None),
            What::Header { log, id } => {
                let kind = match self.kind {
                    kind::VIDEO => HeaderKind::Video,
                    kind::AUDIO => HeaderKind::Audio,
                    _ => HeaderKind::Metadata,
                };
                let bytes = logs.get(log).and_then(|log| log.header(kind, id)).ok_or(GONE)?;
                let is_same = bytes.len() == self.length as usize;
                if is_same { Ok(Some(bytes)) } else { Err(GONE) }
            }
            What::Packet { log: name, index } => {
                let entry = logs.get(name).and_then(|log| log.entry(index)).ok_or(GONE)?;
                if Self::packet(name, &entry) == *self { Ok(None) } else { Err(GONE) }
            }
        }
    }
}

/// See the module.
pub(super) struct Batch {
    stream_id: u32,
    /// Position in the connection's outbound stream at which it begins.
    begins: u64,
    bytes: u64,
    written: u64,
    items: Vec<Item>,
    /// Bytes of the header items, resolved when composed.
    headers: Vec<Vec<u8>>,
}

impl Batch {
    /// An empty one behind `begins` bytes of handshake.
    pub fn new(stream_id: u32, begins: u64) -> Self {
        let items = Vec::with_capacity(ITEMS_MAX);
        Self { stream_id, begins, bytes: 0, written: 0, items, headers: Vec::new() }
    }

    /// Where the record says that the connection's outbound stream is.
    pub fn begins(&self) -> u64 {
        self.begins
    }

    /// Everything is with the kernel.
    pub fn is_written(&self) -> bool {
        self.written == self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub fn has_room(&self) -> bool {
        self.items.len() < ITEMS_MAX
    }

    /// Begins the next batch behind this one, which must be written.
    pub fn go_on(&mut self) {
        self.begins += self.bytes;
        (self.bytes, self.written) = (0, 0);
        self.items.clear();
        self.headers.clear();
    }

    pub fn add_command(&mut self, position: u64, length: u32) {
        self.add(Item { what: What::Command { position }, kind: 0, timestamp_ms: 0, length });
    }

    pub fn add_header(
        &mut self,
        log: LogName,
        id: u32,
        kind: HeaderKind,
        dts_ms: i64,
        bytes: Vec<u8>,
    ) {
        self.add(Item::header(log, id, kind, dts_ms, &bytes));
        self.headers.push(bytes);
    }

    pub fn add_packet(&mut self, log: LogName, entry: &Entry) {
        self.add(Item::packet(log, entry));
    }

    /// Where it begins and ends in the connection's outbound stream.
    #[cfg(test)]
    pub fn place(&self) -> (u64, u64) {
        (self.begins, self.begins + self.bytes)
    }

    /// How much of it is with the kernel.
    pub fn written(&self) -> u64 {
        self.written
    }

    pub fn encode(&self, into: &mut Vec<u8>) {
        // Length and headers follow from the items, what is written is the kernel's to say.
        let Self { stream_id: _, begins: _, bytes: _, written: _, items: _, headers: _ } = self;
        into.put_u64(self.begins);
        into.put_u8(u8::try_from(self.items.len()).expect("a few items"));
        for item in &self.items {
            item.encode(into);
        }
    }

    /// Reads what [`Self::encode`] wrote, `begins` taken already. It must go on by
    /// [`Self::go_on_at`] before it is sent.
    pub fn decode(
        stream_id: u32,
        begins: u64,
        commands: Commands,
        take: &mut Take<'_>,
    ) -> Result<Self, BadSection> {
        let mut batch = Self::new(stream_id, begins);
        let items = usize::from(take.u8()?);
        if items > ITEMS_MAX {
            return Err(take.bad("more items than a batch has"));
        }
        for _ in 0..items {
            let item = Item::decode(commands, take)?;
            batch.add(item);
        }
        Ok(batch)
    }

    /// Goes on where the kernel has `written` bytes of the connection's outbound stream.
    pub fn go_on_at(&mut self, written: u64, logs: &Logs) -> Result<(), String> {
        let end = self.begins + self.bytes;
        if !(self.begins..=end).contains(&written) {
            let begins = self.begins;
            return Err(format!(
                "the record covers bytes {begins} to {end} of what the origin gets, the kernel has \
                 {written}"
            ));
        }
        self.written = written - self.begins;
        if !self.is_written() {
            for item in &self.items {
                self.headers.extend(item.find(logs)?);
            }
        }
        Ok(())
    }

    /// One sendmsg(2) of what is left. Returns the bytes that the kernel took.
    pub fn send(
        &mut self,
        socket: BorrowedFd<'_>,
        logs: &Logs,
        memory: &PushMemory,
    ) -> Result<u64, String> {
        if self.is_written() {
            return Ok(0);
        }
        let starts: [(WrittenHeader, WrittenHeader); ITEMS_MAX] = std::array::from_fn(|at| {
            let item = self.items.get(at).or(self.items.first()).expect("a batch has items");
            let start = item.start(self.stream_id);
            (start.first_header(), start.next_header())
        });
        let mut gather = Gather::new();
        let mut kept = self.headers.iter();
        for (item, (first, next)) in self.items.iter().zip(&starts) {
            match item.what {
                What::Command { position } => {
                    gather.ring(&memory.commands, position, item.length as usize);
                }
                What::Header { .. } => {
                    gather.slice(first.as_slice());
                    let bytes = kept.next().map_or(&[][..], Vec::as_slice);
                    for (at, chunk) in bytes.chunks(CHUNK_SIZE_OUT as usize).enumerate() {
                        if at > 0 {
                            gather.slice(next.as_slice());
                        }
                        gather.slice(chunk);
                    }
                }
                What::Packet { log, index } => {
                    let log = logs.get(log).ok_or("its log is gone")?;
                    let entry = log
                        .entry(index)
                        .ok_or("the origin was too slow: the message in flight was overwritten")?;
                    gather.slice(first.as_slice());
                    let mut at = 0;
                    while at < entry.length {
                        if at > 0 {
                            gather.slice(next.as_slice());
                        }
                        let length = (entry.length - at).min(CHUNK_SIZE_OUT);
                        gather.ring(log.payload(), entry.position + u64::from(at), length as usize);
                        at += length;
                    }
                }
            }
        }
        gather.advance(usize::try_from(self.written).expect("a batch fits memory"));
        let sent = send(&mut gather, socket)? as u64;
        self.written += sent;
        Ok(sent)
    }

    fn add(&mut self, item: Item) {
        self.bytes += item.wire_bytes(self.stream_id);
        self.items.push(item);
    }
}

/// sendmsg(2) that takes "not now" for nothing sent.
pub(super) fn send(gather: &mut Gather<'_>, socket: BorrowedFd<'_>) -> Result<usize, String> {
    if gather.bytes() == 0 {
        return Ok(0);
    }
    match gather.send(socket) {
        Ok(sent) => Ok(sent),
        Err(error)
            if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) =>
        {
            Ok(0)
        }
        Err(error) => Err(format!("the connection broke: {error}")),
    }
}

fn message_kind(kind: EntryKind) -> u8 {
    match kind {
        EntryKind::Audio | EntryKind::AudioHeader | EntryKind::AudioOther => kind::AUDIO,
        EntryKind::VideoIdr
        | EntryKind::VideoInter
        | EntryKind::VideoDisposable
        | EntryKind::VideoHeader
        | EntryKind::VideoOther => kind::VIDEO,
        EntryKind::Metadata => kind::DATA_AMF0,
    }
}

/// The timeline's milliseconds on the wire, modulo 2³².
fn wire_time(dts_ms: i64) -> u32 {
    u32::try_from(dts_ms.rem_euclid(1 << 32)).expect("below 2^32")
}
