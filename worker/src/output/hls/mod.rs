//! The HLS output of a stream: parts of a fifth of a second in a directory that delivery serves.
//!
//! ```text
//!   logs ──cursors── output ──(bounded channel)──▶ thread: renditions ── packagers ──▶ store
//!            ▲ io thread                              │                              directory
//!            └──────────── orders: from where ────────┘
//! ```
//!
//! Nothing of it is in the commit record: what the newest part of a rendition notes is where
//! whoever owns the stream goes on. Only what is committed is fed, so that nothing in a part is
//! ever made again.

mod breaks;
mod epoch;
pub mod output;
mod packager;
pub mod place;
mod renditions;
mod store;
mod thread;

pub use output::HlsOutput;
