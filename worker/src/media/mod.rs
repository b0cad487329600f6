//! What is known of media without a codec: packets, tags, time.

pub mod packet;
pub mod tag;
pub mod timeline;
