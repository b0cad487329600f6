//! Compressed packets as the worker speaks of them.

/// Video codecs that are understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum VideoCodec {
    H264,
    /// By Enhanced RTMP, FourCC `hvc1`.
    Hevc,
}

/// Audio codecs that are understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AudioCodec {
    Aac,
}

/// One encoded frame of one rung.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedFrame {
    /// Length-prefixed NAL units (AVCC, 4-byte lengths), without parameter sets and SEI options.
    pub payload: Vec<u8>,
    /// A true IDR picture.
    pub idr: IsIdr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IsIdr {
    Idr,
    Other,
}
