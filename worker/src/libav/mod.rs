//! The distribution's libav behind types that own what they point to.
//!
//! Everything unsafe of the codecs is here. Each type is `Send` and not `Sync`: one thread uses
//! it at a time. An enum field that libav wrote is read as an integer, never by its Rust enum
//! type, because a value that the build's headers did not know would be undefined behaviour.
//!
//! Deliberately absent: hardware frames, filter graphs, formats, and any threads of libav's own
//! (`thread_count` is 1 everywhere; the pipeline has its threads).

mod aac;
pub mod annexb;
mod block;
mod decoder;
mod encoder;
mod frame;
mod log;
mod resample;
mod scale;

pub use aac::{AAC_FRAME_SAMPLES, AAC_PRIMING_SAMPLES, AacDecoder, AacEncoder, AacPacket, Samples};
pub use block::Block;
pub use decoder::{DecodedFrame, Health, VideoDecoder};
pub use encoder::{ForceIdr, VideoEncoder, VideoEncoderSettings};
pub use frame::{Colour, Frame, FramePool, PixelLayout, Plane, PlaneMut, Ratio};
pub use log::redirect_log;
pub use resample::Resampler;
pub use scale::{Kernel, Scaler, Target};

use ffmpeg_sys_next as ffi;
use std::ffi::{CStr, c_int};

/// What libav, or its absence, answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LibavError {
    #[error("{call}: {message} ({code})")]
    Call { call: &'static str, code: c_int, message: String },
    #[error("a thread cannot be started: {0}")]
    NoThread(String),
    #[error("libavcodec {found} is too old: 59 (FFmpeg 5.1) or newer is needed")]
    TooOld { found: u32 },
    #[error("this libavcodec has no encoder {0}")]
    NoEncoder(&'static str),
    #[error("this libavcodec has no decoder for {0}")]
    NoDecoder(&'static str),
    #[error("pixel format {0} is not supported")]
    PixelFormat(c_int),
    #[error("sample format {0} is not supported")]
    SampleFormat(c_int),
    #[error("a picture of {width}×{height} cannot be handled")]
    Size { width: u32, height: u32 },
    #[error("{0} bytes are too many for one packet")]
    TooLong(usize),
    #[error("an option contains a zero byte: {0:?}")]
    OptionText(String),
    #[error("the encoder gave {0} packets for one frame")]
    NotOnePacket(usize),
    #[error("the encoder's parameter sets cannot be read")]
    ParameterSets,
}

/// The oldest libavcodec that works: FFmpeg 5.1's.
const AVCODEC_MAJOR_MIN: u32 = 59;

/// Checks that what is loaded at run time can do what the worker needs.
pub fn check_runtime() -> Result<(), LibavError> {
    // SAFETY: reads a constant of the library.
    let found = unsafe { ffi::avcodec_version() } >> 16;
    if found < AVCODEC_MAJOR_MIN {
        return Err(LibavError::TooOld { found });
    }
    find_encoder(c"libx264", "libx264")?;
    find_encoder(c"aac", "aac")?;
    Ok(())
}

/// The versions loaded at run time, for status and logs.
#[must_use]
pub fn versions() -> String {
    // SAFETY: these read constants of the libraries; the string is static and NUL-terminated.
    let (codec, util, scale, resample, release) = unsafe {
        (
            ffi::avcodec_version(),
            ffi::avutil_version(),
            ffi::swscale_version(),
            ffi::swresample_version(),
            CStr::from_ptr(ffi::av_version_info()).to_string_lossy().into_owned(),
        )
    };
    let triple = |v: u32| format!("{}.{}.{}", v >> 16, (v >> 8) & 0xff, v & 0xff);
    format!(
        "FFmpeg {release} (avcodec {}, avutil {}, swscale {}, swresample {})",
        triple(codec),
        triple(util),
        triple(scale),
        triple(resample)
    )
}

fn find_encoder(name: &CStr, shown: &'static str) -> Result<*const ffi::AVCodec, LibavError> {
    // SAFETY: the name is NUL-terminated; the result is null or points to static memory.
    let codec = unsafe { ffi::avcodec_find_encoder_by_name(name.as_ptr()) };
    if codec.is_null() { Err(LibavError::NoEncoder(shown)) } else { Ok(codec) }
}

/// Turns a negative return value into an error that carries libav's own words.
fn check(call: &'static str, code: c_int) -> Result<c_int, LibavError> {
    if code >= 0 {
        return Ok(code);
    }
    if code == ffi::AVERROR(libc::ENOMEM) {
        return Err(no_memory());
    }
    let mut buffer = [0; 128];
    // SAFETY: the buffer is writable for its length; the result is always NUL-terminated.
    let message = unsafe {
        ffi::av_strerror(code, buffer.as_mut_ptr(), buffer.len());
        CStr::from_ptr(buffer.as_ptr()).to_string_lossy().into_owned()
    };
    Err(LibavError::Call { call, code, message })
}

/// libav was given no memory. Going on would lose frames, so this worker does not go on.
fn no_memory() -> LibavError {
    crate::allocator::out_of_memory()
}

/// A codec context that is freed with its owner.
struct Context(*mut ffi::AVCodecContext);

// SAFETY: a codec context with thread_count 1 has no thread affinity; it is used by one thread
// at a time because it is not Sync.
unsafe impl Send for Context {}

impl Context {
    fn new(codec: *const ffi::AVCodec) -> Result<Self, LibavError> {
        // SAFETY: the codec is a valid static pointer.
        let context = unsafe { ffi::avcodec_alloc_context3(codec) };
        if context.is_null() {
            return Err(no_memory());
        }
        // SAFETY: the context was just allocated.
        unsafe { (*context).thread_count = 1 };
        Ok(Self(context))
    }

    fn open(&mut self, codec: *const ffi::AVCodec) -> Result<(), LibavError> {
        // SAFETY: the context was allocated for this codec and is not open yet.
        check("avcodec_open2", unsafe { ffi::avcodec_open2(self.0, codec, std::ptr::null_mut()) })?;
        Ok(())
    }

    /// Copies `bytes` into the context as extradata, with the padding that decoders read.
    fn set_extradata(&mut self, bytes: &[u8]) -> Result<(), LibavError> {
        let size = c_int::try_from(bytes.len()).map_err(|_| LibavError::TooLong(bytes.len()))?;
        let padding = usize::try_from(ffi::AV_INPUT_BUFFER_PADDING_SIZE).unwrap_or(64);
        // SAFETY: the allocation is `bytes.len()` and zeroed padding long; the context owns and
        // frees it.
        unsafe {
            let memory = ffi::av_mallocz(bytes.len() + padding).cast::<u8>();
            if memory.is_null() {
                return Err(no_memory());
            }
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), memory, bytes.len());
            (*self.0).extradata = memory;
            (*self.0).extradata_size = size;
        }
        Ok(())
    }

    /// What the encoder wrote as its global header.
    fn extradata(&self) -> &[u8] {
        // SAFETY: after opening, extradata is null or valid for extradata_size bytes, and is
        // not changed while the context is borrowed.
        unsafe {
            let size = usize::try_from((*self.0).extradata_size).unwrap_or(0);
            if (*self.0).extradata.is_null() || size == 0 {
                &[]
            } else {
                std::slice::from_raw_parts((*self.0).extradata, size)
            }
        }
    }

    /// Sets a private option of the codec.
    fn set_option(&mut self, name: &CStr, value: &str) -> Result<(), LibavError> {
        let text =
            std::ffi::CString::new(value).map_err(|_| LibavError::OptionText(value.to_owned()))?;
        // SAFETY: priv_data belongs to the codec the context was allocated for and starts with
        // an AVClass; both strings are NUL-terminated and copied.
        check("av_opt_set", unsafe {
            ffi::av_opt_set((*self.0).priv_data, name.as_ptr(), text.as_ptr(), 0)
        })?;
        Ok(())
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: the context was allocated by us and is freed once.
        unsafe { ffi::avcodec_free_context(&mut self.0) };
    }
}

/// A packet that is freed with its owner.
struct Packet(*mut ffi::AVPacket);

// SAFETY: a packet is plain memory with atomic reference counts; it is not Sync.
unsafe impl Send for Packet {}

impl Packet {
    fn new() -> Result<Self, LibavError> {
        // SAFETY: plain allocation.
        let packet = unsafe { ffi::av_packet_alloc() };
        if packet.is_null() { Err(no_memory()) } else { Ok(Self(packet)) }
    }

    /// Makes this packet a copy of `payload`.
    fn fill(&mut self, payload: &[u8], pts: i64) -> Result<(), LibavError> {
        let size =
            c_int::try_from(payload.len()).map_err(|_| LibavError::TooLong(payload.len()))?;
        // SAFETY: av_new_packet allocates `size` bytes and zeroed padding; the packet holds
        // nothing before, as it was unreferenced.
        unsafe {
            ffi::av_packet_unref(self.0);
            check("av_new_packet", ffi::av_new_packet(self.0, size))?;
            std::ptr::copy_nonoverlapping(payload.as_ptr(), (*self.0).data, payload.len());
            (*self.0).pts = pts;
            (*self.0).dts = pts;
        }
        Ok(())
    }

    fn payload(&self) -> &[u8] {
        // SAFETY: a filled packet's data is valid for size bytes and is not changed while the
        // packet is borrowed.
        unsafe {
            let size = usize::try_from((*self.0).size).unwrap_or(0);
            if (*self.0).data.is_null() || size == 0 {
                &[]
            } else {
                std::slice::from_raw_parts((*self.0).data, size)
            }
        }
    }

    fn pts(&self) -> i64 {
        // SAFETY: the packet is valid for as long as we are.
        unsafe { (*self.0).pts }
    }

    fn unref(&mut self) {
        // SAFETY: the packet is valid for as long as we are.
        unsafe { ffi::av_packet_unref(self.0) };
    }
}

impl Drop for Packet {
    fn drop(&mut self) {
        // SAFETY: the packet was allocated by us and is freed once.
        unsafe { ffi::av_packet_free(&mut self.0) };
    }
}

/// What a send or receive call said, where "not now" and "the end" are no errors.
enum Answer {
    Done,
    Again,
    End,
}

fn answer(call: &'static str, code: c_int) -> Result<Answer, LibavError> {
    if code == ffi::AVERROR(libc::EAGAIN) {
        Ok(Answer::Again)
    } else if code == ffi::AVERROR_EOF {
        Ok(Answer::End)
    } else {
        check(call, code).map(|_| Answer::Done)
    }
}

#[cfg(test)]
mod tests;
