//! Discontinuities of several renditions: what they have in common has one number.

use super::*;
use crate::output::hls::packager::Key;

const LABELS: [&str; 3] = ["source", "720p", "480p"];

/// An owner of several renditions, fed each for itself.
struct Owner {
    renditions: Renditions<Memory>,
    orders: Vec<u64>,
    now: Instant,
}

impl Owner {
    fn new(memory: &Memory, series: u8, labels: &[&str]) -> Self {
        let now = clock::now();
        let series = SeriesId([series; SeriesId::SIZE]);
        let directory = PathBuf::from("/hls/live/cam");
        let config = HlsConfig { directory, series, about: about(labels) };
        let (renditions, _) = Renditions::open(config, memory.clone(), now);
        let orders = renditions.news.orders.iter().map(|(_, order)| order.number).collect();
        let mut owner = Self { renditions, orders, now };
        (0..labels.len()).for_each(|at| owner.mark(at, Joins::Yes));
        owner
    }

    fn mark(&mut self, at: usize, joins: Joins) {
        let (order, kind) = (self.orders[at], RenditionKind::Encoded);
        self.renditions.take(at, HlsItem::Mark { order, kind, joins }, NOW_MS, self.now);
        self.header(at, AVCC);
    }

    fn header(&mut self, at: usize, config: &[u8]) {
        let header = HlsItem::VideoHeader { codec: VideoCodec::H264, config: config.to_vec() };
        self.renditions.take(at, header, NOW_MS, self.now);
    }

    fn take(&mut self, at: usize, packets: &[HlsPacket]) {
        for packet in packets {
            let item = HlsItem::Packet(Box::new(packet.clone()));
            self.renditions.take(at, item, NOW_MS, self.now);
        }
    }

    /// With something lost in front.
    fn take_behind_a_loss(&mut self, at: usize, packets: &[HlsPacket]) {
        self.mark(at, Joins::No);
        self.take(at, packets);
    }
}

/// Of the newest part of each rendition.
fn numbers(memory: &Memory, labels: &[&str]) -> Vec<u64> {
    let newest = |label: &&str| {
        let inside = memory.0.lock().unwrap();
        let parts = inside.files.iter().filter_map(|(name, file)| match FileName::parse(name)? {
            FileName::Part { label: of, number } if of.as_str() == *label => {
                Some((number, PartNote::split(file)?.0.discontinuities))
            }
            FileName::Part { .. }
            | FileName::Init { .. }
            | FileName::Left { .. }
            | FileName::Stream
            | FileName::Ended => None,
        });
        parts.max().map(|(_, discontinuities)| discontinuities).unwrap()
    };
    labels.iter().map(newest).collect()
}

/// Ten seconds each.
fn pieces(count: usize) -> Vec<Vec<HlsPacket>> {
    let packets = packets(i64::try_from(count).unwrap() * 10);
    packets.chunks(packets.len() / count + 1).map(<[HlsPacket]>::to_vec).collect()
}

/// A loss of one alone is its own; the next that all have has one number in all, and so has what a new
/// publisher sends, also in a rendition that only it has.
#[test]
fn renditions_that_have_the_same_break_have_the_same_number() {
    let (memory, pieces) = (Memory::of(usize::MAX), pieces(4));
    let mut owner = Owner::new(&memory, 5, &LABELS[..2]);
    (0..2).for_each(|at| owner.take(at, &pieces[0]));
    owner.take_behind_a_loss(1, &pieces[1][20..]);
    owner.take(0, &pieces[1]);
    assert_eq!(numbers(&memory, &LABELS[..2]), [0, 1]);
    owner.take_behind_a_loss(1, &pieces[2][70..]);
    owner.take_behind_a_loss(0, &pieces[2][68..]);
    assert_eq!(numbers(&memory, &LABELS[..2]), [2, 2]);
    owner.take_behind_a_loss(0, &pieces[3][70..]);
    assert_eq!(numbers(&memory, &LABELS[..2]), [3, 2]);
    let mut next = Owner::new(&memory, 6, &LABELS);
    (0..3).for_each(|at| next.take(at, &pieces[0]));
    assert_eq!(numbers(&memory, &LABELS), [4, 4, 4]);
}

/// Owners that die between two renditions' parts of the same break: the next one learns its number.
#[test]
fn the_next_owner_gives_the_same_break_the_same_number() {
    let (memory, pieces) = (Memory::of(usize::MAX), pieces(5));
    let mut old = Owner::new(&memory, 5, &LABELS);
    (0..3).for_each(|at| old.take(at, &pieces[0]));
    old.take_behind_a_loss(0, &pieces[1][20..]);
    old.take_behind_a_loss(0, &pieces[2][20..]);
    (1..3).for_each(|at| old.take(at, &pieces[1]));
    (1..3).for_each(|at| old.take(at, &pieces[2]));
    assert_eq!(numbers(&memory, &LABELS), [2, 0, 0]);
    // The third has it of the first, and the second of both.
    old.take_behind_a_loss(0, &pieces[3][20..]);
    let mut new = Owner::new(&memory, 5, &LABELS);
    new.take_behind_a_loss(2, &pieces[3][22..]);
    assert_eq!(numbers(&memory, &LABELS), [3, 0, 3]);
    let mut third = Owner::new(&memory, 5, &LABELS);
    third.take_behind_a_loss(1, &pieces[3][20..]);
    assert_eq!(numbers(&memory, &LABELS), [3, 3, 3]);
    // A new publisher's stream, whose first owner dies before each rendition has begun.
    let mut first = Owner::new(&memory, 6, &LABELS);
    first.take(1, &pieces[0]);
    let mut last = Owner::new(&memory, 6, &LABELS);
    last.take(0, &pieces[0]);
    last.take(2, &pieces[0]);
    assert_eq!(numbers(&memory, &LABELS), [4, 4, 4]);
}

/// Other headers at one picture are one break, whichever rendition comes to it first.
#[test]
fn a_change_at_one_picture_has_one_number() {
    let (memory, pieces) = (Memory::of(usize::MAX), pieces(3));
    let mut owner = Owner::new(&memory, 5, &LABELS[..2]);
    (0..2).for_each(|at| owner.take(at, &pieces[0]));
    owner.take_behind_a_loss(0, &pieces[1][20..]);
    owner.take(1, &pieces[1]);
    let mut other = AVCC.to_vec();
    (other[3], other[11]) = (0x0c, 0x0c);
    for at in [1, 0] {
        owner.header(at, &other);
        owner.take(at, &pieces[2]);
    }
    assert_eq!(numbers(&memory, &LABELS[..2]), [2, 2]);
}

/// Other headers in the middle, which each rendition has from its next keyframe on, one second after the
/// other: one break, also for an owner that finds it half done.
#[test]
fn a_change_at_keyframes_far_apart_has_one_number() {
    let pieces = pieces(2);
    let mut other = AVCC.to_vec();
    (other[3], other[11]) = (0x0c, 0x0c);
    // The source's next keyframe is the sixtieth picture.
    let (source, mut rung) = (pieces[1].clone(), pieces[1].clone());
    rung[12].key = Key::Own;
    for order in [[0, 1], [1, 0]] {
        let memory = Memory::of(usize::MAX);
        let mut owner = Owner::new(&memory, 5, &LABELS[..2]);
        for at in 0..2 {
            owner.take(at, &pieces[0]);
            owner.take(at, &source[..10]);
            owner.header(at, &other);
        }
        for at in order {
            owner.take(at, if at == 0 { &source[10..] } else { &rung[10..] });
        }
        assert_eq!(numbers(&memory, &LABELS[..2]), [1, 1], "{order:?}");
    }
    let memory = Memory::of(usize::MAX);
    let mut old = Owner::new(&memory, 5, &LABELS[..2]);
    (0..2).for_each(|at| old.take(at, &pieces[0]));
    (0..2).for_each(|at| old.header(at, &other));
    old.take(0, &source[1..30]);
    old.take(1, &rung[1..]);
    assert_eq!(numbers(&memory, &LABELS[..2]), [0, 1]);
    let mut new = Owner::new(&memory, 5, &LABELS[..2]);
    new.header(0, &other);
    new.take(0, &source[30..]);
    assert_eq!(numbers(&memory, &LABELS[..2]), [1, 1]);
}

/// A power cut tears the newest files of one rendition: its count goes on from the last that is whole,
/// and what the others have with it has their number.
#[test]
fn torn_parts_take_no_number_back() {
    let (memory, pieces) = (Memory::of(usize::MAX), pieces(5));
    let mut old = Owner::new(&memory, 5, &LABELS[..2]);
    (0..2).for_each(|at| old.take(at, &pieces[0]));
    for piece in &pieces[1..3] {
        (0..2).for_each(|at| old.take_behind_a_loss(at, &piece[20..]));
    }
    assert_eq!(numbers(&memory, &LABELS[..2]), [2, 2]);
    tear(&memory, LABELS[1], 3);
    let mut new = Owner::new(&memory, 5, &LABELS[..2]);
    new.take(1, &pieces[3][20..]);
    new.take(0, &pieces[3]);
    assert_eq!(numbers(&memory, &LABELS[..2]), [2, 3]);
    (0..2).for_each(|at| new.take_behind_a_loss(at, &pieces[4][20..]));
    assert_eq!(numbers(&memory, &LABELS[..2]), [4, 4]);
    // All of them, and another stream begins behind: its number is higher than any before.
    LABELS[..2].iter().for_each(|label| tear(&memory, label, 2));
    let mut next = Owner::new(&memory, 6, &LABELS[..2]);
    (0..2).for_each(|at| next.take(at, &pieces[0]));
    assert_eq!(numbers(&memory, &LABELS[..2]), [5, 5]);
}

/// So many newest parts are there, and nothing is in them.
fn tear(memory: &Memory, label: &str, parts: usize) {
    let mut inside = memory.0.lock().unwrap();
    let number = |name: &String| match FileName::parse(name)? {
        FileName::Part { label: of, number } if of.as_str() == label => Some(number),
        FileName::Part { .. }
        | FileName::Init { .. }
        | FileName::Left { .. }
        | FileName::Stream
        | FileName::Ended => None,
    };
    let names = inside.files.keys();
    let mut found: Vec<_> = names.filter_map(|name| Some((number(name)?, name.clone()))).collect();
    found.sort();
    for (_, name) in found.iter().rev().take(parts) {
        inside.files.insert(name.clone(), Vec::new());
    }
}
