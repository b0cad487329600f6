//! What a stream's packets become outside: files so far.

pub mod record;
pub mod retention;
