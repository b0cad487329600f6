//! The one user of bincode: control frames in and out, length-limited, total.

use crate::limits::CONTROL_FRAME_BYTES_MAX;
use serde::{Serialize, de::DeserializeOwned};

/// A control frame that cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    #[error("a control frame of {0} bytes is over the limit of {CONTROL_FRAME_BYTES_MAX}")]
    TooLong(usize),
    #[error("a control frame cannot be encoded: {0}")]
    Encode(#[from] bincode::error::EncodeError),
    #[error("a control frame cannot be decoded: {0}")]
    Decode(#[from] bincode::error::DecodeError),
    #[error("{0} bytes follow a complete control frame")]
    Trailing(usize),
}

fn configuration() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<CONTROL_FRAME_BYTES_MAX>()
}

/// Encodes one frame.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, CodecError> {
    let bytes = bincode::serde::encode_to_vec(message, configuration())?;
    if bytes.len() > CONTROL_FRAME_BYTES_MAX {
        Err(CodecError::TooLong(bytes.len()))
    } else {
        Ok(bytes)
    }
}

/// Decodes one frame; an unknown tag, a short frame or trailing bytes are errors.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    if bytes.len() > CONTROL_FRAME_BYTES_MAX {
        return Err(CodecError::TooLong(bytes.len()));
    }
    let (message, read) = bincode::serde::decode_from_slice(bytes, configuration())?;
    if read == bytes.len() { Ok(message) } else { Err(CodecError::Trailing(bytes.len() - read)) }
}
