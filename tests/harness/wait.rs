//! Waiting for a condition, with a bound and a name for what was waited for.

use anyhow::{Result, bail};
use std::time::Duration;
use tasuki_shared::clock;

/// How long between two looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Looks at `condition` until it gives a value; fails with `what` after `bound`.
pub fn until<T>(
    what: &str,
    bound: Duration,
    mut condition: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = clock::now() + bound;
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        if clock::now() >= deadline {
            bail!("waited {} ms in vain for {what}", bound.as_millis());
        }
        clock::pause(LOOK_EVERY);
    }
}
