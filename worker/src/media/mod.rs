//! What is known of media without a codec: packets, tags, NAL units, headers, time.

pub mod aac;
mod bits;
pub mod config;
pub mod nal;
pub mod packet;
pub mod tag;
pub mod timeline;
