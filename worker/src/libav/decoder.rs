//! Video decoding, one thread, a packet's number as its timestamp.

use super::{Answer, Context, Frame, LibavError, Packet, answer, check};
use crate::media::packet::VideoCodec;
use ffmpeg_sys_next as ffi;

/// What the decoder thinks of a frame it gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    Sound,
    /// Concealed or built from missing references.
    Damaged,
}

/// A frame in presentation order.
pub struct DecodedFrame {
    pub frame: Frame,
    /// The number that came with its packet.
    pub index: i64,
    pub health: Health,
}

/// An H.264 or HEVC decoder.
pub struct VideoDecoder {
    context: Context,
    packet: Packet,
}

impl VideoDecoder {
    /// Opens a decoder for a configuration record (`avcC` or `hvcC`). Pictures with more than
    /// `pixels_max` samples of luma are refused by the decoder itself.
    pub fn open(
        codec: VideoCodec,
        configuration: &[u8],
        pixels_max: u64,
    ) -> Result<Self, LibavError> {
        let (id, name) = match codec {
            VideoCodec::H264 => (ffi::AVCodecID::AV_CODEC_ID_H264, "H.264"),
            VideoCodec::Hevc => (ffi::AVCodecID::AV_CODEC_ID_HEVC, "HEVC"),
        };
        // SAFETY: the id is a value of the enum; the result is null or static.
        let decoder = unsafe { ffi::avcodec_find_decoder(id) };
        if decoder.is_null() {
            return Err(LibavError::NoDecoder(name));
        }
        let mut context = Context::new(decoder)?;
        context.set_extradata(configuration)?;
        // SAFETY: the context is allocated and not open. The delay is the stream's own reorder
        // depth: neither LOW_DELAY (wrong order with B-frames) nor frame threads are asked for.
        unsafe {
            (*context.0).max_pixels = i64::try_from(pixels_max).unwrap_or(i64::MAX);
            (*context.0).pkt_timebase = ffi::AVRational { num: 1, den: 1000 };
        }
        context.open(decoder)?;
        Ok(Self { context, packet: Packet::new()? })
    }

    /// Feeds one packet; its frame comes out of `receive`, now or later, with the same number.
    /// All frames that are ready have to be received before.
    pub fn send(&mut self, payload: &[u8], index: i64) -> Result<(), LibavError> {
        self.packet.fill(payload, index)?;
        // SAFETY: context and packet are valid.
        let code = unsafe { ffi::avcodec_send_packet(self.context.0, self.packet.0) };
        self.packet.unref();
        check("avcodec_send_packet", code)?;
        Ok(())
    }

    /// Says that no packet follows, so that delayed frames come out.
    pub fn drain(&mut self) -> Result<(), LibavError> {
        // SAFETY: a null packet begins the drain.
        let code = unsafe { ffi::avcodec_send_packet(self.context.0, std::ptr::null()) };
        answer("avcodec_send_packet", code)?;
        Ok(())
    }

    /// Makes a drained decoder take packets again, from an IDR on.
    pub fn restart(&mut self) {
        // SAFETY: the context is valid and open.
        unsafe { ffi::avcodec_flush_buffers(self.context.0) };
    }

    /// How many pictures the stream's order may be shuffled by; 0 is none.
    #[must_use]
    pub fn reorder_depth(&self) -> u32 {
        // SAFETY: the context is valid.
        u32::try_from(unsafe { (*self.context.0).has_b_frames }).unwrap_or(0)
    }

    /// The next frame in presentation order, if one is ready.
    pub fn receive(&mut self) -> Result<Option<DecodedFrame>, LibavError> {
        let frame = Frame::empty()?;
        // SAFETY: context and frame are valid; the frame is empty.
        let code = unsafe { ffi::avcodec_receive_frame(self.context.0, frame.0) };
        match answer("avcodec_receive_frame", code)? {
            Answer::Again | Answer::End => Ok(None),
            Answer::Done => {
                // SAFETY: the frame is valid; both fields are plain integers.
                let (flags, errors) = unsafe { ((*frame.0).flags, (*frame.0).decode_error_flags) };
                let damaged = errors != 0 || flags & ffi::AV_FRAME_FLAG_CORRUPT != 0;
                let health = if damaged { Health::Damaged } else { Health::Sound };
                let index = frame.pts();
                Ok(Some(DecodedFrame { frame, index, health }))
            }
        }
    }
}
