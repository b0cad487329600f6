//! The file that tests and the processes under test share.
//!
//! A header, then for each point four words: its order, passes, fires, the process that fired last.

use super::point::{Offer, Point};
use crate::memory::map::{Access, Mapping};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

const HEADER_BYTES: usize = 64;
const LINE_BYTES: usize = 32;
const BYTES: usize = 4096;
const _: () = assert!(HEADER_BYTES + Point::ALL.len() * LINE_BYTES <= BYTES, "a page is enough");

const ORDER_AT: usize = 0;
const PASSED_AT: usize = 8;
const FIRED_AT: usize = 16;
const PROCESS_AT: usize = 24;

/// What happens at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// SIGKILL to the own process.
    Kill,
    /// abort(3).
    Abort,
    /// The thread stops for ever.
    Hang,
    /// The thread is late by so much; nothing else.
    Delay {
        ms: u16,
    },
    Fail,
    Skip,
}

/// What a point is armed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    pub action: Action,
    /// Only this process.
    pub process: Option<i32>,
    /// Passes that are let through first.
    pub after: u16,
    /// How often it is carried out; by different threads where one does not come back.
    pub times: u8,
}

impl Order {
    /// Once, by whoever comes first.
    #[must_use]
    pub const fn once(action: Action) -> Self {
        Self { action, process: None, after: 0, times: 1 }
    }

    #[must_use]
    pub const fn by(self, process: i32) -> Self {
        Self { process: Some(process), ..self }
    }

    /// 4 bits action, 8 times, 12 after, 16 delay, 24 process (Linux gives out 22). One word, so
    /// that nobody sees half of an order.
    fn encode(self) -> u64 {
        let Self { action, process, after, times } = self;
        let (kind, ms) = match action {
            Action::Kill => (1, 0),
            Action::Abort => (2, 0),
            Action::Hang => (3, 0),
            Action::Fail => (4, 0),
            Action::Skip => (5, 0),
            Action::Delay { ms } => (6, ms),
        };
        let process = u64::from(process.unwrap_or(0).unsigned_abs());
        debug_assert!(process < 1 << 24 && after < 1 << 12, "it fits its field");
        kind | (u64::from(times) << 4)
            | (u64::from(after) << 12)
            | (u64::from(ms) << 24)
            | (process << 40)
    }

    fn decode(word: u64) -> Option<Self> {
        let field = |at: u32, bits: u32| (word >> at) & ((1 << bits) - 1);
        let small = |at, bits| u16::try_from(field(at, bits)).expect("fewer bits than that");
        let action = match field(0, 4) {
            1 => Action::Kill,
            2 => Action::Abort,
            3 => Action::Hang,
            4 => Action::Fail,
            5 => Action::Skip,
            6 => Action::Delay { ms: small(24, 16) },
            _ => return None,
        };
        let process = i32::try_from(field(40, 24)).expect("fewer bits than that");
        let times = u8::try_from(field(4, 8)).expect("fewer bits than that");
        let process = (process != 0).then_some(process);
        Some(Self { action, process, after: small(12, 12), times })
    }
}

/// See the module.
pub struct Board(Mapping);

impl Board {
    /// Makes an empty board at `path`.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = File::create(path)?;
        file.set_len(BYTES as u64)?;
        drop(file);
        Self::open(path)
    }

    /// Maps the board at `path`.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(path)?;
        if file.metadata()?.len() != BYTES as u64 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no board of failpoints"));
        }
        Mapping::new(file.as_fd(), 0, BYTES, Access::ReadWrite).map(Self)
    }

    /// Orders something at a point; an order that waits there is replaced.
    ///
    /// # Panics
    /// Where the code at the point cannot do it.
    pub fn arm(&self, point: Point, order: Order) {
        let possible = match order.action {
            Action::Kill | Action::Abort | Action::Hang | Action::Delay { .. } => true,
            Action::Fail => point.offer() == Offer::Failure,
            Action::Skip => point.offer() == Offer::Omission,
        };
        assert!(possible, "{} does not offer {:?}", point.name(), order.action);
        self.word(point, ORDER_AT).store(order.encode(), Ordering::Release);
    }

    /// Takes an order back; `false`: none waits, it was carried out or never given.
    pub fn disarm(&self, point: Point) -> bool {
        self.word(point, ORDER_AT).swap(0, Ordering::AcqRel) != 0
    }

    #[must_use]
    pub fn is_armed(&self, point: Point) -> bool {
        self.word(point, ORDER_AT).load(Ordering::Acquire) != 0
    }

    /// How often the point was passed, by all processes together.
    #[must_use]
    pub fn passed(&self, point: Point) -> u64 {
        self.word(point, PASSED_AT).load(Ordering::Relaxed)
    }

    /// How often an order was carried out there.
    #[must_use]
    pub fn fired(&self, point: Point) -> u64 {
        self.word(point, FIRED_AT).load(Ordering::Acquire)
    }

    /// The process that did it last.
    #[must_use]
    pub fn fired_by(&self, point: Point) -> Option<i32> {
        let process = self.word(point, PROCESS_AT).load(Ordering::Acquire);
        i32::try_from(process).ok().filter(|process| *process != 0)
    }

    /// `process` is at the point: counts it, and takes the order that it has to carry out.
    #[must_use]
    pub fn pass(&self, point: Point, process: i32) -> Option<Action> {
        self.word(point, PASSED_AT).fetch_add(1, Ordering::Relaxed);
        let word = self.word(point, ORDER_AT);
        let mut found = word.load(Ordering::Acquire);
        loop {
            let order = Order::decode(found)?;
            if order.process.is_some_and(|only| only != process) {
                return None;
            }
            let (left, fires) = match (order.after, order.times) {
                (0, 0 | 1) => (0, true),
                (0, times) => (Order { times: times - 1, ..order }.encode(), true),
                (after, _) => (Order { after: after - 1, ..order }.encode(), false),
            };
            match word.compare_exchange(found, left, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) if fires => {
                    let by = u64::from(process.unsigned_abs());
                    self.word(point, PROCESS_AT).store(by, Ordering::Release);
                    self.word(point, FIRED_AT).fetch_add(1, Ordering::Release);
                    return Some(order.action);
                }
                Ok(_) => return None,
                Err(now) => found = now,
            }
        }
    }

    fn word(&self, point: Point, at: usize) -> &AtomicU64 {
        self.0.atomic_u64(HEADER_BYTES + point as usize * LINE_BYTES + at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board(label: &str) -> Board {
        let name = format!("tasuki-board-{label}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let board = Board::create(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        board
    }

    #[test]
    fn an_order_survives_its_word_whatever_it_says() {
        let actions = [
            Action::Kill,
            Action::Abort,
            Action::Hang,
            Action::Fail,
            Action::Skip,
            Action::Delay { ms: 30_000 },
        ];
        for action in actions {
            for (process, after, times) in [(None, 0, 1), (Some(4_194_303), 4095, 255)] {
                let order = Order { action, process, after, times };
                assert_eq!(Order::decode(order.encode()), Some(order));
            }
        }
        assert_eq!(Order::decode(0), None);
    }

    #[test]
    fn one_order_is_carried_out_once_among_all_who_pass() {
        let board = board("once");
        board.arm(Point::CommitFlipped, Order { after: 3, ..Order::once(Action::Kill) });
        let fired: usize = std::thread::scope(|scope| {
            let pass = || (0..50).filter_map(|_| board.pass(Point::CommitFlipped, 7)).count();
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(pass)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(fired, 1);
        assert_eq!(board.passed(Point::CommitFlipped), 400);
        assert_eq!(board.fired(Point::CommitFlipped), 1);
        assert_eq!(board.fired_by(Point::CommitFlipped), Some(7));
        assert!(!board.disarm(Point::CommitFlipped), "nothing is left of it");
    }

    #[test]
    fn an_order_for_one_process_waits_for_it() {
        let board = board("process");
        board.arm(Point::AdoptTaken, Order { times: 2, ..Order::once(Action::Hang).by(9) });
        assert_eq!(board.pass(Point::AdoptTaken, 8), None);
        assert_eq!(board.pass(Point::AdoptTaken, 9), Some(Action::Hang));
        assert!(board.is_armed(Point::AdoptTaken));
        assert_eq!(board.pass(Point::AdoptTaken, 9), Some(Action::Hang));
        assert!(!board.is_armed(Point::AdoptTaken));
        assert_eq!((board.fired(Point::AdoptTaken), board.passed(Point::AdoptTaken)), (2, 3));
    }

    #[test]
    #[should_panic(expected = "does not offer")]
    fn a_point_is_not_armed_with_what_its_code_cannot_do() {
        board("offer").arm(Point::CommitStaged, Order::once(Action::Skip));
    }

    #[test]
    fn names_are_unique_and_there_is_a_line_for_each() {
        let names: std::collections::BTreeSet<_> = Point::ALL.iter().map(|p| p.name()).collect();
        assert_eq!(names.len(), Point::ALL.len());
        for (line, point) in Point::ALL.iter().enumerate() {
            assert_eq!(*point as usize, line);
            assert!(!point.about().is_empty());
        }
    }
}
