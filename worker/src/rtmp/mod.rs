//! RTMP, sans-IO: bytes in, events and bytes out; every position exportable.

pub mod chunk;
pub mod command;
pub mod push_client;
pub mod session;
pub mod write;
