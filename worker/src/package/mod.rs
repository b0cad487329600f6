//! Packets made into what files and players take.

pub mod fmp4;
pub mod utc;
pub mod uuid;
