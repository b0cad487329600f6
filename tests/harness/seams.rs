//! What the connections of one rendition brought, one after the other, of a stream whose owner
//! changed: nothing twice, nothing out of order, and lost only where two of them meet.

use std::collections::BTreeSet;
use std::fmt;

/// Frames that no connection brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The connection before which they are missing; as many as there are connections: at the end.
    pub before: usize,
    pub frames: Vec<u32>,
}

/// What must never be, wherever owners change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A picture whose number cannot be read.
    Unreadable {
        connection: usize,
        position: usize,
    },
    /// A number that was never sent.
    Foreign {
        connection: usize,
        number: u32,
    },
    Repeated {
        connection: usize,
        number: u32,
    },
    OutOfOrder {
        connection: usize,
        number: u32,
        after: u32,
    },
    /// Frames are missing inside a connection.
    Hole {
        connection: usize,
        first: u32,
        last: u32,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { connection, position } => {
                write!(f, "connection {connection}: picture {position} is unreadable")
            }
            Self::Foreign { connection, number } => {
                write!(f, "connection {connection}: {number} was never sent")
            }
            Self::Repeated { connection, number } => {
                write!(f, "connection {connection}: {number} came before")
            }
            Self::OutOfOrder { connection, number, after } => {
                write!(f, "connection {connection}: {number} comes after {after}")
            }
            Self::Hole { connection, first, last } => {
                write!(f, "connection {connection}: {first} to {last} are missing inside it")
            }
        }
    }
}

impl std::error::Error for Fault {}

/// Checks the numbers that each connection brought, in presentation order, against `0..sent`, and
/// says what was lost between them. A connection that was cut in decoding order may lack up to
/// `reordered` pictures before its last one.
pub fn check(
    connections: &[Vec<Option<u32>>],
    sent: u32,
    reordered: u32,
) -> Result<Vec<Lost>, Fault> {
    let mut lost = Vec::new();
    let mut seen = BTreeSet::new();
    let mut expected = 0;
    let mut missing = Vec::new();
    for (connection, numbers) in connections.iter().enumerate() {
        for (position, number) in numbers.iter().enumerate() {
            let Some(number) = *number else {
                return Err(Fault::Unreadable { connection, position });
            };
            if number >= sent {
                return Err(Fault::Foreign { connection, number });
            }
            if !seen.insert(number) {
                return Err(Fault::Repeated { connection, number });
            }
            if number < expected {
                return Err(Fault::OutOfOrder { connection, number, after: expected - 1 });
            }
            let cut_here = connection + 1 < connections.len() && position + 1 == numbers.len();
            let torn = cut_here && number - expected <= reordered;
            if position > 0 && number > expected && !torn {
                return Err(Fault::Hole { connection, first: expected, last: number - 1 });
            }
            if position == 0 {
                missing.extend(expected..number);
                if !missing.is_empty() {
                    lost.push(Lost { before: connection, frames: std::mem::take(&mut missing) });
                }
            } else {
                missing.extend(expected..number);
            }
            expected = number + 1;
        }
    }
    missing.extend(expected..sent);
    if !missing.is_empty() {
        lost.push(Lost { before: connections.len(), frames: missing });
    }
    Ok(lost)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(range: std::ops::Range<u32>) -> Vec<Option<u32>> {
        range.map(Some).collect()
    }

    /// Losses are found where they are: at the start, at a seam with what the cut tore, at the end.
    #[test]
    fn what_is_lost_between_connections_is_counted_where_it_is_lost() {
        assert_eq!(check(&[numbers(0..30)], 30, 2), Ok(vec![]));
        assert_eq!(check(&[numbers(0..10), numbers(10..30)], 30, 2), Ok(vec![]));
        let mut torn = numbers(2..10);
        torn.push(Some(12));
        let found = check(&[torn, numbers(15..29)], 30, 2).unwrap();
        let expected = [(0, vec![0, 1]), (1, vec![10, 11, 13, 14]), (2, vec![29])];
        assert_eq!(found, expected.map(|(before, frames)| Lost { before, frames }));
    }

    /// The negative control: each kind of damage to a sound passage is found by its name.
    #[test]
    fn loss_inside_a_connection_repetition_and_disorder_are_faults() {
        let sound = [numbers(0..10), numbers(12..30)];
        assert!(check(&sound, 30, 2).is_ok());
        type Connections = [Vec<Option<u32>>; 2];
        let damaged = |damage: &dyn Fn(&mut Connections)| {
            let mut connections = sound.clone();
            damage(&mut connections);
            check(&connections, 30, 2).unwrap_err()
        };
        let hole = |connection, at| Fault::Hole { connection, first: at, last: at };
        assert_eq!(damaged(&|c| _ = c[0].remove(4)), hole(0, 4));
        assert_eq!(damaged(&|c| _ = c[1].remove(16)), hole(1, 28));
        let repeated = |connection, number| Fault::Repeated { connection, number };
        assert_eq!(damaged(&|c| c[0].insert(4, Some(3))), repeated(0, 3));
        assert_eq!(damaged(&|c| c[1].insert(0, Some(9))), repeated(1, 9));
        let disorder = Fault::OutOfOrder { connection: 1, number: 11, after: 12 };
        assert_eq!(damaged(&|c| c[1].insert(1, Some(11))), disorder);
        let unreadable = Fault::Unreadable { connection: 1, position: 5 };
        assert_eq!(damaged(&|c| c[1][5] = None), unreadable);
        let foreign = Fault::Foreign { connection: 1, number: 30 };
        assert_eq!(damaged(&|c| c[1].push(Some(30))), foreign);
    }
}
