//! Tasuki's supervisor: owns listeners, leases and life cycles; touches no media.

pub mod base64;
pub mod cli;
pub mod core;
pub mod event_loop;
pub mod io;
pub mod serve;

pub use event_loop::run;
