//! Faults on order, at named points of the code. For tests alone.
//!
//! ```text
//!  armed(after n) ──passed──▶ armed(after n − 1) ──…──▶ armed ──fires──▶ (nothing; or once more)
//! ```
//! A test makes a [`Board`], a small file, and names it in `TASUKI_FAILPOINTS`; every process of the
//! server inherits the name and maps the file. Each [`Point`] has a line there: its order, how often
//! it was passed and fired, and which process fired it last. Arming is one store; whoever fires takes
//! the order off by compare-and-swap first. So an order is carried out once among all processes,
//! also by one that dies of it.
//!
//! Only a build with the cargo feature `failpoints` looks at any of it. In every other build [`hit`],
//! [`fails`] and [`skips`] are empty, and a server that finds the variable set refuses to start.

mod board;
#[cfg(feature = "failpoints")]
mod fire;
mod point;

pub use board::{Action, Board, Order};
pub use point::Point;
use std::ffi::OsStr;

/// Names the board.
pub const VARIABLE: &str = "TASUKI_FAILPOINTS";

/// Whether the code of a build looks at its failpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Build {
    Normal,
    WithFailpoints,
}

/// Of this program.
pub const BUILD: Build =
    if cfg!(feature = "failpoints") { Build::WithFailpoints } else { Build::Normal };

/// Faults were ordered of a build that has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{VARIABLE} is set, and failpoints are not compiled into this build: unset it, or build with \
     --features failpoints"
)]
pub struct NotCompiledIn;

/// Is `board`, the value of the variable, something that a build can honour?
pub fn check(build: Build, board: Option<&OsStr>) -> Result<(), NotCompiledIn> {
    match (build, board) {
        (Build::Normal, Some(_)) => Err(NotCompiledIn),
        (Build::Normal, None) | (Build::WithFailpoints, _) => Ok(()),
    }
}

/// Maps the board now: later there may be no fd for it.
#[cfg(feature = "failpoints")]
pub fn begin() {
    fire::begin();
}

/// Maps the board now: later there may be no fd for it.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub const fn begin() {}

/// The code is at `point`. May not return.
#[cfg(feature = "failpoints")]
pub fn hit(point: Point) {
    let _these_points_offer_no_other_way = fire::pass(point);
}

/// The code is at `point`. May not return.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub const fn hit(_point: Point) {}

/// Is what comes at `point` to fail as if the machine had failed? May not return.
#[cfg(feature = "failpoints")]
#[must_use]
pub fn fails(point: Point) -> bool {
    fire::pass(point) == Some(Action::Fail)
}

/// Is what comes at `point` to fail as if the machine had failed? May not return.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
#[must_use]
pub const fn fails(_point: Point) -> bool {
    false
}

/// Is what comes at `point` to be left out, so that a check can show that it sees the lack?
#[cfg(feature = "failpoints")]
#[must_use]
pub fn skips(point: Point) -> bool {
    fire::pass(point) == Some(Action::Skip)
}

/// Is what comes at `point` to be left out, so that a check can show that it sees the lack?
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
#[must_use]
pub const fn skips(_point: Point) -> bool {
    false
}

/// Does an order wait at `point`? For what is only worth doing then.
#[cfg(feature = "failpoints")]
#[must_use]
pub fn is_armed(point: Point) -> bool {
    fire::is_armed(point)
}

/// Does an order wait at `point`? For what is only worth doing then.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
#[must_use]
pub const fn is_armed(_point: Point) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A normal build refuses a board by name; one with failpoints takes it.
    #[test]
    fn only_a_build_with_failpoints_may_be_given_a_board() {
        let board = Some(OsStr::new("board"));
        assert_eq!(check(Build::Normal, board), Err(NotCompiledIn));
        assert_eq!(check(Build::Normal, None), Ok(()));
        assert_eq!(check(Build::WithFailpoints, board), Ok(()));
        assert!(NotCompiledIn.to_string().contains("TASUKI_FAILPOINTS is set"));
    }
}
