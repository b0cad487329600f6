//! `[chaos]`: workers that leak on purpose. Only a server started with `--allow-chaos` takes it.

use super::check::out_of_range;
use super::error::Fault;
use super::raw::RawChaos;
use super::units::Size;
use crate::limits::CHAOS_BYTES_PER_MINUTE_MAX;
use crate::message::ChaosPlan;

const RATE_DEFAULT: u64 = 20 << 20;

pub(super) fn check(raw: Option<&RawChaos>) -> Result<Option<ChaosPlan>, Fault> {
    let Some(RawChaos { leak, kind, shape, until }) = raw else { return Ok(None) };
    let bytes_per_minute = match leak.as_ref().map(|leak| (leak.span(), *leak.get_ref())) {
        None => RATE_DEFAULT,
        Some((_, Size(bytes @ 1..=CHAOS_BYTES_PER_MINUTE_MAX))) => bytes,
        Some((at, Size(_))) => return Err(out_of_range(at, "leak", "1B", "64GiB")),
    };
    let bytes_max = until.map_or(0, |Size(bytes)| bytes);
    Ok(Some(ChaosPlan { bytes_per_minute, kind: *kind, shape: *shape, bytes_max }))
}
