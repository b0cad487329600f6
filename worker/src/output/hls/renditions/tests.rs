//! A directory that is full, and one that two owners are in.

mod breaks;

use super::*;
use crate::output::hls::packager::tests::{AVCC, packets};
use crate::output::hls::place::FileName;
use crate::output::hls::store::tests::about;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tasuki_shared::clock;

const NOW_MS: u64 = 1_790_000_000_000;

/// A directory in memory that takes so many bytes.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Inside>>);

#[derive(Default)]
struct Inside {
    files: BTreeMap<String, Vec<u8>>,
    room_bytes: usize,
}

impl Memory {
    fn of(room_bytes: usize) -> Self {
        Self(Arc::new(Mutex::new(Inside { files: BTreeMap::new(), room_bytes })))
    }

    fn set_room(&self, room_bytes: usize) {
        self.0.lock().unwrap().room_bytes = room_bytes;
    }

    fn bytes(&self) -> usize {
        self.0.lock().unwrap().files.values().map(Vec::len).sum()
    }

    fn parts(&self) -> Vec<(PartNumber, PartNote)> {
        let inside = self.0.lock().unwrap();
        let parts = inside.files.iter().filter_map(|(name, file)| match FileName::parse(name)? {
            FileName::Part { number, .. } => Some((number, PartNote::split(file)?.0)),
            FileName::Init { .. } | FileName::Left { .. } | FileName::Stream | FileName::Ended => {
                None
            }
        });
        let mut parts: Vec<_> = parts.collect();
        parts.sort_by_key(|(number, _)| *number);
        parts
    }
}

impl Files for Memory {
    fn create_directory(&self) -> io::Result<()> {
        Ok(())
    }

    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.0.lock().unwrap().files.keys().cloned().collect())
    }

    fn head(&self, name: &str, bytes: usize) -> io::Result<Vec<u8>> {
        let mut file = self.read(name)?;
        file.truncate(bytes);
        Ok(file)
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let inside = self.0.lock().unwrap();
        inside.files.get(name).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn commit(&mut self, name: &str, bytes: &[u8]) -> io::Result<Put> {
        if self.read(name).is_ok() {
            return Ok(Put::Theirs);
        }
        self.replace(name, bytes).map(|()| Put::Ours)
    }

    fn replace(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut inside = self.0.lock().unwrap();
        let used: usize = inside.files.values().map(Vec::len).sum();
        if used + bytes.len() > inside.room_bytes {
            return Err(io::ErrorKind::StorageFull.into());
        }
        inside.files.insert(name.to_owned(), bytes.to_vec());
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.lock().unwrap().files.remove(name);
        Ok(())
    }
}

fn config() -> HlsConfig {
    let series = SeriesId([5; SeriesId::SIZE]);
    HlsConfig { directory: PathBuf::from("/hls/live/cam"), series, about: about(&["720p"]) }
}

struct Owner {
    renditions: Renditions<Memory>,
    now: Instant,
}

impl Owner {
    fn new(memory: &Memory) -> Self {
        let now = clock::now();
        let (renditions, _) = Renditions::open(config(), memory.clone(), now);
        Self { renditions, now }
    }

    /// Answers the last order.
    fn mark(&mut self, joins: Joins) -> StartOrder {
        let (_, order) = self.renditions.news.orders.pop().unwrap();
        let kind = RenditionKind::Encoded;
        let mark = HlsItem::Mark { order: order.number, kind, joins };
        self.renditions.take(0, mark, NOW_MS, self.now);
        let config = AVCC.to_vec();
        let header = HlsItem::VideoHeader { codec: VideoCodec::H264, config };
        self.renditions.take(0, header, NOW_MS, self.now);
        order
    }

    fn take(&mut self, packets: &[HlsPacket]) {
        for packet in packets {
            let item = HlsItem::Packet(Box::new(packet.clone()));
            self.renditions.take(0, item, NOW_MS, self.now);
        }
    }

    fn report(&self) -> RenditionReport {
        self.renditions.reports().next().unwrap().clone()
    }
}

#[test]
fn a_directory_that_is_nearly_full_keeps_less_and_the_stream_goes_on() {
    let packets = packets(80);
    let whole = Memory::of(usize::MAX);
    let mut owner = Owner::new(&whole);
    assert_eq!(owner.mark(Joins::Yes).from, FeedFrom::Start);
    owner.take(&packets);
    let memory = Memory::of(whole.bytes() * 6 / 10);
    let mut owner = Owner::new(&memory);
    owner.mark(Joins::Yes);
    owner.take(&packets);
    assert_eq!(owner.report().state, HlsState::Packaging);
    assert_eq!(memory.parts().last(), whole.parts().last());
    let (oldest, newest) = (memory.parts()[0].1, memory.parts().last().unwrap().1);
    assert!(newest.start_ms - oldest.start_ms >= 22_000, "six target durations are kept");
    let started = Notice::HlsStarted { directory: "/hls/live/cam".to_owned() };
    assert_eq!(owner.renditions.news.notices, [started]);
}

#[test]
fn a_full_directory_stops_the_output_by_name_and_it_goes_on_later_where_it_was() {
    let packets = packets(60);
    let memory = Memory::of(usize::MAX);
    let mut owner = Owner::new(&memory);
    owner.mark(Joins::Yes);
    owner.take(&packets[..300]);
    let place = memory.parts().last().unwrap().1.place;
    memory.set_room(0);
    owner.take(&packets[300..600]);
    assert_eq!(owner.report().state, HlsState::Stopped);
    let stopped = Notice::HlsStopped { reason: "no space left in /hls/live/cam".to_owned() };
    assert_eq!(owner.renditions.news.notices[1..], [stopped]);
    assert_eq!(owner.renditions.wakes_at(), Some(owner.now + HLS_RETRY));
    memory.set_room(usize::MAX);
    owner.renditions.wake(owner.now + Duration::from_secs(1));
    assert!(owner.renditions.news.orders.is_empty(), "not yet");
    owner.now += HLS_RETRY;
    owner.renditions.wake(owner.now);
    // The logs hold what comes next, or do not.
    let before = memory.parts();
    let order = owner.mark(Joins::No);
    assert_eq!(order.from, FeedFrom::Place(place));
    owner.take(&packets[600..]);
    let parts = memory.parts();
    assert_eq!(parts[..before.len()], before);
    let (number, note) = parts[before.len()];
    assert_eq!((number.part, note.discontinuities), (0, 1));
    assert_eq!(number.segment, before.last().unwrap().0.segment + 1);
    assert_eq!((owner.report().state, owner.report().gaps), (HlsState::Packaging, 1));
}

#[test]
fn of_two_owners_the_slower_goes_on_behind_what_the_other_made() {
    let packets = packets(20);
    let whole = Memory::of(usize::MAX);
    let mut owner = Owner::new(&whole);
    owner.mark(Joins::Yes);
    owner.take(&packets);
    let memory = Memory::of(usize::MAX);
    let mut old = Owner::new(&memory);
    old.mark(Joins::Yes);
    old.take(&packets[..100]);
    let mut new = Owner::new(&memory);
    let FeedFrom::Place(place) = new.mark(Joins::Yes).from else { panic!("there are parts") };
    old.take(&packets[100..300]);
    let from = packets.iter().position(|packet| packet.packet.at == place).unwrap();
    new.take(&packets[from..]);
    assert!(new.renditions.news.orders.is_empty(), "what the other made is the same");
    assert_eq!(memory.parts(), whole.parts());
}

#[test]
fn an_owner_that_finds_other_parts_than_its_own_is_fed_anew_from_behind_them() {
    let packets = packets(20);
    let memory = Memory::of(usize::MAX);
    let mut old = Owner::new(&memory);
    old.mark(Joins::Yes);
    old.take(&packets[..100]);
    let known = memory.parts().len();
    let mut new = Owner::new(&memory);
    new.mark(Joins::Yes);
    // The old one was fed in another order, so that its parts end elsewhere.
    let mut others = packets[100..300].to_vec();
    others.remove(3);
    old.take(&others);
    let place = memory.parts()[known].1.place;
    new.take(&packets[80..90]);
    new.take(&packets[90..]);
    let order = new.mark(Joins::Yes);
    assert_eq!(order.from, FeedFrom::Place(place), "behind the part that is not its own");
    let at = packets.iter().position(|packet| packet.packet.at == place).unwrap();
    new.take(&packets[at..]);
    // So it is with each of those that differ, until it is ahead.
    for _ in 0..3 {
        if !new.renditions.news.orders.is_empty() {
            let FeedFrom::Place(place) = new.mark(Joins::Yes).from else { panic!("a part") };
            let at = packets.iter().position(|packet| packet.packet.at == place).unwrap();
            new.take(&packets[at..]);
        }
    }
    assert!(new.renditions.news.orders.is_empty() && new.report().parts > 10);
    assert_eq!(new.report().state, HlsState::Packaging);
}
