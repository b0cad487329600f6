//! What Tasuki's processes share: ids, messages, plans, session memory, bounds.
//!
//! Nothing here talks RTMP or libav; nothing here decides policy.

pub mod channel;
pub mod clock;
pub mod codec;
pub mod config;
pub mod exit;
pub mod failpoint;
pub mod id;
pub mod inherit;
pub mod kernel;
pub mod limits;
pub mod log_output;
pub mod memory;
pub mod message;
pub mod network;
pub mod plan;
pub mod status;
pub mod threads;
