//! The disposable half of Tasuki: RTMP in, a ladder out.

pub mod allocator;
pub mod bell;
pub mod chaos;
pub mod console;
pub mod control;
pub mod delivery;
pub mod dialer;
pub mod evidence;
pub mod io_thread;
pub mod knell;
pub mod ladder;
pub mod leftovers;
pub mod libav;
pub mod lifecycle;
pub mod media;
pub mod output;
pub mod package;
pub mod pipeline;
pub mod purge;
pub mod rtmp;
pub mod service;
pub mod session;
pub mod spares;
