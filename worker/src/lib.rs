//! The disposable half of Tasuki: RTMP in, a ladder out.

pub mod control;
pub mod dialer;
pub mod ladder;
pub mod libav;
pub mod media;
pub mod output;
pub mod package;
pub mod pipeline;
pub mod rtmp;
