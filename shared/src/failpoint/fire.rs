//! The board of this process, and what is done at a point.

use super::{Action, Board, Point, VARIABLE};
use crate::clock;
use crate::exit::{self, Exit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

static BOARD: OnceLock<Option<Board>> = OnceLock::new();

/// A thread that hangs sleeps this long at a time.
const HANG_NAP: Duration = Duration::from_secs(3600);

/// Counts the pass and does what is ordered; what only the caller can do is given back.
pub fn pass(point: Point) -> Option<Action> {
    let action = board()?.pass(point, Pid::this().as_raw())?;
    tracing::warn!(point = point.name(), ?action, "failpoint");
    match action {
        Action::Kill => {
            // Nothing is left to say where this fails: the thread hangs.
            let _ = kill(Pid::this(), Signal::SIGKILL);
            hang()
        }
        Action::Abort => std::process::abort(),
        Action::Hang => hang(),
        Action::Delay { ms } => {
            clock::pause(Duration::from_millis(u64::from(ms)));
            None
        }
        Action::Fail | Action::Skip => Some(action),
    }
}

pub fn begin() {
    let _mapped = board();
}

pub fn is_armed(point: Point) -> bool {
    board().is_some_and(|board| board.is_armed(point))
}

fn hang() -> ! {
    loop {
        clock::pause(HANG_NAP);
    }
}

fn board() -> Option<&'static Board> {
    let open = || {
        let path = std::env::var_os(VARIABLE)?;
        match Board::open(Path::new(&path)) {
            Ok(board) => Some(board),
            Err(error) => {
                eprintln!("{VARIABLE}={}: {error}", path.display());
                exit::leave(Exit::Usage)
            }
        }
    };
    BOARD.get_or_init(open).as_ref()
}
