//! Outputs: each reads the logs from a cursor and never makes the owner wait.

pub mod cursor;
pub mod hls;
pub mod push;
pub mod record;
pub mod recording;
pub mod retention;
pub mod thumbnail;
