//! The owner word: {generation, held | offered}. Who may read the socket and write the logs.
//!
//! ```text
//!  offered(new) ──take──▶ held(new) ──release──▶ offered(next) ──take──▶ held(next)
//!                             │ death, reaped
//!                             └──────────take from held(dead)──────────▶ held(next)
//! ```
//! Releasing is the last act of an owner. A taker always CASes from exactly what its lease
//! expects. Ownership fences nobody that is alive: a CAS from `held` is legal only after the
//! supervisor reaped that generation.

use crate::id::Generation;
use crate::message::Owner;
use std::sync::atomic::{AtomicU32, Ordering};

const STATE_BITS: u32 = 2;
const OFFERED: u32 = 1;
const HELD: u32 = 2;
/// Generations that fit beside the state.
pub const GENERATION_MAX: u32 = u32::MAX >> STATE_BITS;

/// The word says something else than the lease expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the owner word is {found:#x}, the lease expected {expected:?}")]
pub struct NotExpected {
    pub found: u32,
    pub expected: Owner,
}

/// The word's value for `owner`.
#[must_use]
pub const fn encode(owner: Owner) -> u32 {
    match owner {
        Owner::Offered(Generation(generation)) => (generation << STATE_BITS) | OFFERED,
        Owner::Held(Generation(generation)) => (generation << STATE_BITS) | HELD,
    }
}

/// What a value means; `None` for a damaged word.
#[must_use]
pub const fn decode(word: u32) -> Option<Owner> {
    let generation = Generation(word >> STATE_BITS);
    match word & ((1 << STATE_BITS) - 1) {
        OFFERED => Some(Owner::Offered(generation)),
        HELD => Some(Owner::Held(generation)),
        _ => None,
    }
}

/// Takes the word from `expected` to held(`taker`). Everything the last owner wrote before its
/// release is visible after it.
pub fn take(word: &AtomicU32, expected: Owner, taker: Generation) -> Result<(), NotExpected> {
    word.compare_exchange(
        encode(expected),
        encode(Owner::Held(taker)),
        Ordering::AcqRel,
        Ordering::Acquire,
    )
    .map(|_| ())
    .map_err(|found| NotExpected { found, expected })
}

/// Releases the word from held(`holder`) to offered(`next`). The caller wakes the futex.
pub fn release(word: &AtomicU32, holder: Generation, next: Generation) -> Result<(), NotExpected> {
    let expected = Owner::Held(holder);
    word.compare_exchange(
        encode(expected),
        encode(Owner::Offered(next)),
        Ordering::AcqRel,
        Ordering::Acquire,
    )
    .map(|_| ())
    .map_err(|found| NotExpected { found, expected })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_one_of_many_takers_wins_and_only_from_what_it_expected() {
        let word = AtomicU32::new(encode(Owner::Offered(Generation(7))));
        let winners: usize = std::thread::scope(|scope| {
            let takers: Vec<_> = (0..8)
                .map(|_| {
                    scope
                        .spawn(|| take(&word, Owner::Offered(Generation(7)), Generation(7)).is_ok())
                })
                .collect();
            takers.into_iter().map(|taker| usize::from(taker.join().unwrap())).sum()
        });
        assert_eq!(winners, 1);
        assert_eq!(decode(word.load(Ordering::Relaxed)), Some(Owner::Held(Generation(7))));
        assert!(take(&word, Owner::Held(Generation(6)), Generation(8)).is_err());
    }

    #[test]
    fn a_release_is_refused_to_whom_the_word_does_not_name() {
        let word = AtomicU32::new(encode(Owner::Held(Generation(3))));
        assert!(release(&word, Generation(2), Generation(4)).is_err());
        assert!(release(&word, Generation(3), Generation(4)).is_ok());
        assert_eq!(decode(word.load(Ordering::Relaxed)), Some(Owner::Offered(Generation(4))));
    }

    #[test]
    fn a_damaged_word_means_nothing() {
        assert_eq!(decode(0), None);
        assert_eq!(decode(3), None);
    }
}
