//! RTMP, sans-IO: bytes in, events and bytes out; every position exportable.
//!
//! [`handshake`] answers the first 1537 bytes; [`chunk`] cuts what follows into messages;
//! [`session`] talks to the publisher about commands and control; media messages never pass
//! through it. Sources: "rtmp_specification_1.0", "Enhanced RTMP v2", "AMF0 specification".

pub mod aggregate;
pub mod amf;
pub mod chunk;
pub mod command;
pub mod handshake;
pub mod push_client;
pub mod reply;
pub mod session;
pub mod write;
