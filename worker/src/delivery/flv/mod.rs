//! FLV over HTTP and over WebSocket, read from the logs of live streams.
//!
//! | file | is |
//! |---|---|
//! | [`streams`] | which streams are live, and when their logs have more |
//! | [`viewer`] | what one viewer gets next |
//! | [`tags`] | its bytes |
//! | [`outlet`] | the way to the viewer: a body, or a WebSocket |
//! | [`upgrade`] | from a request to a WebSocket |
//!
//! ```text
//!   waits ──the logs have more──▶ fills a chunk ──the viewer takes it──▶ waits
//!                                      └──it takes nothing for `FLV_STALL_MAX`──▶ (closed)
//! ```
//!
//! A move or a death of a stream's worker shows in nothing here: its logs go on, and a new owner's
//! packets come behind the last committed one. A new delivery process knows nothing of the viewers of
//! the last one, who connect again.

pub mod outlet;
pub mod streams;
pub mod tags;
pub mod upgrade;
pub mod viewer;

use crate::output::cursor::StreamEnd;
use outlet::{Outlet, Took};
use tasuki_shared::limits::{FLV_CHUNK_BYTES, FLV_FAREWELL_MAX};
use tokio::time::Instant;
use viewer::{Filled, Viewer};

/// Gives a viewer what comes, until it leaves, takes nothing, or the stream is over.
pub async fn serve(mut viewer: Viewer, mut outlet: impl Outlet) {
    let mut changes = viewer.watching().stream().subscribe();
    let mut farewell = None;
    // As long as the last one was.
    let mut room = 0;
    loop {
        changes.mark_unchanged();
        let mut chunk = Vec::with_capacity(room);
        let filled = viewer.fill(&mut chunk);
        room = chunk.len().min(FLV_CHUNK_BYTES);
        let now = Instant::now();
        let mut until = now + viewer.watching().stall_max();
        if viewer.watching().stream().end() == StreamEnd::Over {
            until = until.min(*farewell.get_or_insert(now + FLV_FAREWELL_MAX));
        }
        if !chunk.is_empty() {
            match tokio::time::timeout_at(until, outlet.give(chunk.into())).await {
                Ok(Took::It) => {}
                Ok(Took::Leave) => break,
                Err(_) => {
                    outlet.break_off();
                    viewer.watching().count_stall();
                    let (app, name) = viewer.watching().stream().key();
                    tracing::info!(%app, %name, "an FLV viewer that takes nothing is closed");
                    break;
                }
            }
        }
        match filled {
            Filled::More => {}
            Filled::Over => {
                let _as_good_cut = tokio::time::timeout_at(until, outlet.finish()).await;
                break;
            }
            Filled::Waits => tokio::select! {
                _ = changes.changed() => {}
                () = outlet.left() => break,
            },
        }
    }
    if viewer.skipped() > 0 {
        let (app, name) = viewer.watching().stream().key();
        let packets = viewer.skipped();
        tracing::info!(%app, %name, packets, "an FLV viewer was too slow for some packets");
    }
}
