//! Outputs: each reads the logs from a cursor and never makes the owner wait.

pub mod cursor;
pub mod push;
//! What a stream's packets become outside: files so far.

pub mod record;
pub mod retention;
