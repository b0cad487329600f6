//! Tasuki's supervisor: owns listeners, leases and life cycles; touches no media.

pub mod cli;
pub mod core;
