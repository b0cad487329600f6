//! Names for things that are easily confused: every id is a type of its own.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A stable place for a worker; the process in it changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SlotId(pub u16);

/// Counter raised at each spawn; global and never reused. Zero is nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Generation(pub u32);

/// One publisher's TCP connection: the supervisor's epoch (Unix seconds of its first start)
/// and a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SessionId {
    pub epoch: u32,
    pub counter: u64,
}

/// Position of a push in its plan's list of pushes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PushId(pub u8);

/// Position of a rung in its plan's ladder, highest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RungId(pub u8);

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "w{}", self.0)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "g{}", self.0)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{}", self.epoch, self.counter)
    }
}

/// A stream key: a secret. Its `Debug` never shows it.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StreamKey(pub String);

impl fmt::Debug for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StreamKey(…)")
    }
}

/// What a stream is called in public: `[A-Za-z0-9._-]{1,128}`, never `.` or `..`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct PublicName(String);

/// A name that may not appear in URLs and paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a name must be 1 to 128 of A-Z a-z 0-9 . _ - and neither '.' nor '..'")]
pub struct BadName;

impl PublicName {
    /// Parses a name; anything that could not stand in a URL or path is refused.
    pub fn parse(text: &str) -> Result<Self, BadName> {
        let legal = (1..=128).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
            && text != "."
            && text != "..";
        if legal { Ok(Self(text.to_owned())) } else { Err(BadName) }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PublicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for PublicName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_could_leave_its_directory_or_url_is_refused() {
        for bad in ["", ".", "..", "a/b", "a b", "ü", "a\0", &"x".repeat(129)] {
            assert_eq!(PublicName::parse(bad), Err(BadName), "{bad:?}");
        }
        assert!(PublicName::parse("cam-1_main.v2").is_ok());
    }

    #[test]
    fn a_stream_key_is_not_shown_in_debug_output() {
        assert!(!format!("{:?}", StreamKey("hunter2".into())).contains("hunter2"));
    }
}
