//! The shell's hands: each file does one thing to the outside world and decides nothing.

pub mod event_log;
pub mod evidence;
pub mod handoff;
pub mod leaving;
pub mod listen;
pub mod notify;
pub mod oom;
pub mod process;
pub mod sample;
pub mod spawn;
pub mod status;
pub mod threads;
pub mod watch;
