//! Tasuki supervisor.

pub mod cli;
