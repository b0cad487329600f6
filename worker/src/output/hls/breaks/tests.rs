//! Numbers of breaks, one by one and in stories of several renditions.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn at(at_ms: i64) -> Hole {
    Hole { from_ms: at_ms, behind_ms: at_ms, to_ms: at_ms }
}

fn hole(from_ms: i64, to_ms: i64) -> Hole {
    Hole { from_ms, behind_ms: to_ms, to_ms }
}

/// Whoever comes to a break first, and a moment apart: it has one number.
#[test]
fn one_break_has_one_number_in_all_renditions() {
    let mut breaks = Breaks::default();
    assert_eq!(breaks.number(hole(5_000, 8_500), 0), 1);
    assert_eq!(breaks.number(hole(5_040, 8_580), 0), 1);
    // Other headers, at the same picture in both.
    assert_eq!(breaks.number(at(20_000), 1), 2);
    assert_eq!(breaks.number(at(20_080), 1), 2);
    assert_eq!(breaks.number(at(20_000), 2), 3, "its own next one is another");
}

/// An owner that learnt of it from a part knows its keyframe alone.
#[test]
fn a_break_is_known_by_the_keyframe_behind_it() {
    let mut breaks = Breaks::default();
    breaks.learn(12_000, 4);
    let hole = Hole { from_ms: 5_000, behind_ms: 9_000, to_ms: 12_000 };
    assert_eq!(breaks.number(hole, 3), 4);
    let mut breaks = Breaks::default();
    assert_eq!(breaks.number(hole, 3), 4);
    assert_eq!(breaks.number(Hole { to_ms: 9_000, ..hole }, 3), 4);
}

/// A break of one alone is passed over by the others with the next that they have in common.
#[test]
fn a_break_of_one_alone_is_nobody_elses() {
    let mut breaks = Breaks::default();
    assert_eq!(breaks.number(hole(5_000, 9_000), 0), 1);
    assert_eq!(breaks.number(at(60_000), 0), 2);
    assert_eq!(breaks.number(at(60_000), 1), 2);
}

/// A rendition that was switched off comes back with the number that the others have by then.
#[test]
fn who_was_away_has_the_number_of_those_who_were_not() {
    let mut breaks = Breaks::default();
    assert_eq!(breaks.number(at(20_000), 0), 1);
    assert_eq!(breaks.number(at(30_000), 1), 2);
    assert_eq!(breaks.number(hole(10_000, 50_000), 0), 2);
    assert_eq!(breaks.in_force(25_000), 1, "one that begins there");
    assert_eq!(breaks.in_force(0), 0);
}

/// Two changes in a short time are two numbers for the slower rendition as well.
#[test]
fn the_slower_rendition_takes_two_breaks_one_by_one() {
    let mut breaks = Breaks::default();
    assert_eq!((breaks.number(at(500), 0), breaks.number(at(900), 1)), (1, 2));
    assert_eq!((breaks.number(at(500), 0), breaks.number(at(900), 1)), (1, 2));
}

#[test]
fn what_is_known_is_bounded_and_the_newest_stays() {
    let mut breaks = Breaks::default();
    for number in 1..1_000_i64 {
        breaks.learn(number * 10_000, number.unsigned_abs());
    }
    assert_eq!(breaks.known.len(), HLS_BREAKS_KNOWN_MAX);
    assert_eq!(breaks.in_force(i64::MAX), 999);
}

/// One that has only the second of two that are close together is not given the first one's number.
#[test]
fn two_breaks_in_a_short_time_are_told_apart() {
    let mut breaks = Breaks::default();
    assert_eq!((breaks.number(at(10_000), 0), breaks.number(at(11_000), 1)), (1, 2));
    assert_eq!(breaks.number(at(11_040), 0), 2);
    // A gap, and other headers soon behind it.
    let mut breaks = Breaks::default();
    assert_eq!((breaks.number(hole(5_000, 8_500), 0), breaks.number(at(9_500), 1)), (1, 2));
    assert_eq!((breaks.number(hole(5_040, 8_540), 0), breaks.number(at(9_540), 1)), (1, 2));
    // A rendition that begins in front of a break has it still before it.
    assert_eq!((breaks.in_force(7_900), breaks.in_force(8_900)), (0, 1));
}

/// Of sound's new header each rendition knows with its next keyframe.
#[test]
fn one_change_at_keyframes_far_apart_has_one_number() {
    let mut breaks = Breaks::default();
    let change = |since_ms, to_ms| Hole { from_ms: since_ms, behind_ms: since_ms, to_ms };
    assert_eq!(breaks.number(change(10_000, 11_900), 0), 1);
    assert_eq!(breaks.number(change(10_040, 10_040), 0), 1);
    assert_eq!(breaks.number(change(9_960, 11_000), 0), 1);
    // Meanwhile one had a second one.
    assert_eq!(breaks.number(at(13_000), 1), 2);
    assert_eq!(breaks.number(change(10_000, 13_500), 0), 2);
}

/// The limit that the module states.
#[test]
fn a_break_of_one_alone_that_comes_late_takes_the_next_common_number_away() {
    let mut breaks = Breaks::default();
    assert_eq!(breaks.number(at(20_000), 0), 1);
    // The other one is behind, and has one of its own in front of it.
    assert_eq!((breaks.number(at(19_000), 0), breaks.number(at(20_000), 2)), (2, 3));
    assert_eq!((breaks.number(at(30_000), 1), breaks.number(at(30_000), 3)), (4, 4));
}

/// So far apart different breaks are at least, and so far the stamps of the same one in two renditions
/// at most. A rendition is a part's time behind another.
const APART_MS: i64 = HLS_BREAK_NEAR_MS + LAG_MS + STAMPS_MS;
const STAMPS_MS: i64 = 120;
const LAG_MS: i64 = 220;

#[derive(Clone, Copy, Debug)]
enum Kind {
    Gap {
        long_ms: i64,
    },
    /// Other headers at one picture.
    Pictures,
    /// And such as each rendition has from its next keyframe on.
    Sound,
}

/// A break, and for each rendition that has it how long it waits for a keyframe and how far it is behind.
#[derive(Clone, Debug)]
struct Had {
    kind: Kind,
    apart_ms: i64,
    renditions: [Option<(i64, i64)>; 3],
}

fn had() -> impl Strategy<Value = Had> {
    let gap = (1_500_i64..4_000).prop_map(|long_ms| Kind::Gap { long_ms });
    let kind = prop_oneof![gap, Just(Kind::Pictures), Just(Kind::Sound)];
    let rendition = || prop::option::weighted(0.7, (0_i64..2_000, 0..LAG_MS));
    let renditions = [rendition(), rendition(), rendition()];
    (kind, APART_MS..3 * APART_MS, renditions).prop_map(|(kind, apart_ms, renditions)| Had {
        kind,
        apart_ms,
        renditions,
    })
}

/// What each rendition says, in the order in which they come to it: which break, who, the hole.
fn story(all: &[Had], skew_ms: [i64; 3]) -> Vec<(usize, usize, Hole)> {
    let mut said = Vec::new();
    let mut last_ms = 10_000;
    for (of, Had { kind, apart_ms, renditions }) in all.iter().enumerate() {
        let long_ms = if let Kind::Gap { long_ms } = kind { *long_ms } else { 0 };
        let at_ms = last_ms + apart_ms + long_ms;
        for (rendition, had) in renditions.iter().enumerate() {
            let Some((wait_ms, lag_ms)) = *had else { continue };
            let behind_ms = at_ms + skew_ms[rendition];
            let wait_ms = if let Kind::Pictures = kind { 0 } else { wait_ms };
            let to_ms = behind_ms + wait_ms;
            let hole = Hole { from_ms: behind_ms - long_ms, behind_ms, to_ms };
            said.push((to_ms + lag_ms, (of, rendition, hole)));
            last_ms = last_ms.max(to_ms);
        }
        last_ms = last_ms.max(at_ms);
    }
    said.sort_by_key(|(order_ms, _)| *order_ms);
    said.into_iter().map(|(_, said)| said).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_096))]

    /// Three renditions come to breaks in any order, a part's time apart; any of them have a break. One
    /// that several have has the same number in all of them, and in each of them numbers rise.
    #[test]
    fn a_break_that_several_have_has_one_number_in_all(
        all in prop::collection::vec(had(), 1..9),
        skew_ms in [0..=STAMPS_MS, 0..=STAMPS_MS, 0..=STAMPS_MS],
    ) {
        let mut breaks = Breaks::default();
        let (mut before, mut numbers) = ([0; 3], BTreeMap::new());
        for (of, rendition, hole) in story(&all, skew_ms) {
            let number = breaks.number(hole, before[rendition]);
            prop_assert!(number > before[rendition]);
            before[rendition] = number;
            prop_assert_eq!(*numbers.entry(of).or_insert(number), number, "break {}", of);
        }
    }
}
