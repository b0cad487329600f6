//! Deaths at full counts.

use anyhow::{Result, ensure};
use tasuki_tests::{dying, named};

use crate::main_path::in_kept_directory;

/// Healthy workers killed by hand, over and over: nobody is blamed and nothing is lost.
pub fn run_by_hand(arguments: &[String]) -> Result<()> {
    let wanted = usize::try_from(named::number(arguments, "kills", 100)?)?;
    let streams = named::number(arguments, "streams", 4)?;
    let (mut done, mut round) = (0, 0);
    while done < wanted {
        let killed = in_kept_directory("soak-deaths", |run| {
            dying::kill_by_hand(run.path(), streams, 120, wanted - done)
        })?;
        ensure!(killed > 0, "nothing could be killed");
        done += killed;
        round += 1;
        println!("round {round}: {done} of {wanted} kills");
    }
    Ok(())
}
