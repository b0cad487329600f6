//! What the owner word says, against what was heard.

use super::*;
use tasuki_shared::message::{Haste, Owner};

/// A target that holds a session by its word is its owner and speaks for it, though nobody said that
/// it was released or taken.
#[test]
fn who_holds_it_by_the_word_has_it() {
    let mut bench = Bench::ready(Settings { workers: 1, standby: 2, ..settings() });
    let (session, old) = bench.live("a");
    let worker = Some(bench.core.slots[bench.core.slot_of(old).unwrap()].id.to_string());
    bench.on(Event::Rotate { ticket: 1, worker, reason: String::new(), haste: Haste::Now });
    let to = bench.core.moving().next().expect("a move").1.to;
    bench.says(to, FromWorker::Prepared { session });
    while !bench.after_heard(SECOND, &[]).contains(&Effect::ReadOwner { session }) {}
    bench.on(Event::OwnerRead { session, owner: Some(Owner::Held(to)) });
    assert_eq!(bench.core.sessions[&session].generation(), Some(to));
    assert_eq!(bench.core.moving().count(), 0);
}
