//! Leaks on purpose, as the kernel sees them. One test, for they share the process they measure.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::time::Duration;
use tasuki_shared::message::{ChaosPlan, LeakKind, LeakShape};
use tasuki_worker::allocator;
use tasuki_worker::chaos::Leak;

const MIB: i64 = 1 << 20;

/// Footprint and LazyFree of this process.
fn memory() -> (i64, i64) {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let field = |name: &str| -> i64 {
        let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':')).unwrap();
        line.trim().trim_end_matches(" kB").parse::<i64>().unwrap() * 1024
    };
    (field("Anonymous") - field("LazyFree") + field("Swap"), field("LazyFree"))
}

fn near(what: &str, grown: i64, asked: i64) {
    let most = asked + asked / 8 + 2 * MIB;
    assert!((asked - 2 * MIB..most).contains(&grown), "{what}: {grown} for {asked}");
}

/// A leak in Rust or C grows the footprint by what was asked and shows in the allocator; lazily
/// freed pages leave the footprint flat and count as LazyFree.
#[test]
fn a_leak_grows_the_footprint_by_what_was_asked_and_lazily_freed_pages_do_not() {
    for kind in [LeakKind::Rust, LeakKind::C, LeakKind::LazyFree] {
        let plan =
            ChaosPlan { bytes_per_minute: 60 << 20, kind, shape: LeakShape::Steady, bytes_max: 0 };
        allocator::purge().unwrap();
        let ((footprint, lazy), stats) = (memory(), allocator::stats().unwrap());
        let mut leak = Leak::new(plan);
        for second in 1..=48 {
            leak.grow_to(Duration::from_secs(second));
        }
        allocator::purge().unwrap();
        let ((footprint_now, lazy_now), stats_now) = (memory(), allocator::stats().unwrap());
        let what = format!("{kind:?}");
        let allocated = i64::try_from(stats_now.allocated_bytes - stats.allocated_bytes).unwrap();
        match kind {
            LeakKind::Rust | LeakKind::C => {
                near(&what, footprint_now - footprint, 48 * MIB);
                near(&what, allocated, 48 * MIB);
            }
            LeakKind::LazyFree => {
                near(&what, footprint_now - footprint, 0);
                near(&what, lazy_now - lazy, 48 * MIB);
            }
        }
        drop(leak);
        allocator::purge().unwrap();
        near(&format!("{what} given back"), memory().0 - footprint, 0);
    }
}
