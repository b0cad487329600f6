//! Exit codes as a vocabulary: what a process says by dying.
//!
//! 64, 77 and 78 follow sysexits(3).

use serde::{Deserialize, Serialize};

/// Why one of our processes left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum Exit {
    /// Work done, or told to go.
    Done = 0,
    /// The command line was wrong.
    Usage = 64,
    /// The configuration was refused.
    Config = 78,
    /// A permission is missing.
    Permission = 77,
    /// The peer at the control channel broke the protocol, or has another version.
    Protocol = 101,
    /// The supervisor went away.
    Orphaned = 102,
    /// An allocation failed.
    OutOfMemory = 103,
    /// A panic, caught at the top.
    Panic = 104,
    /// The machine lacks something Tasuki needs; the log says what.
    Unsupported = 105,
    /// Any other failure; the log says which.
    Failure = 1,
}

impl Exit {
    const ALL: [Self; 10] = [
        Self::Done,
        Self::Usage,
        Self::Config,
        Self::Permission,
        Self::Protocol,
        Self::Orphaned,
        Self::OutOfMemory,
        Self::Panic,
        Self::Unsupported,
        Self::Failure,
    ];

    /// The code as the shell sees it.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// What a code means, if it is one of ours.
    #[must_use]
    pub fn from_code(code: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|exit| i32::from(exit.code()) == code)
    }
}

/// Ends this process with `exit`'s code, running no destructors.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn leave(exit: Exit) -> ! {
    std::process::exit(i32::from(exit.code()))
}
