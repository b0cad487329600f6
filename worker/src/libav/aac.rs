//! AAC in both directions, with planar floats between.

use super::{Answer, Context, Frame, LibavError, Packet, answer, check, find_encoder};
use ffmpeg_sys_next as ffi;
use std::ffi::c_int;

/// Samples of one AAC-LC frame.
pub const AAC_FRAME_SAMPLES: usize = 1024;
/// By how much the encoder's first packet lies before its first sample.
pub const AAC_PRIMING_SAMPLES: i64 = 1024;

/// Decoded sound: one vector per channel, all of one length.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples {
    pub rate: u32,
    pub channels: Vec<Vec<f32>>,
}

impl Samples {
    /// Samples per channel.
    #[must_use]
    pub fn len(&self) -> usize {
        self.channels.first().map_or(0, Vec::len)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

const FLOAT_PLANAR: c_int = ffi::AVSampleFormat::AV_SAMPLE_FMT_FLTP as c_int;
/// More channels than this are no sound that anyone broadcasts.
const CHANNELS_MAX: usize = 8;

/// An AAC decoder.
pub struct AacDecoder {
    context: Context,
    packet: Packet,
}

impl AacDecoder {
    /// Opens a decoder for an AudioSpecificConfig.
    pub fn open(config: &[u8]) -> Result<Self, LibavError> {
        // SAFETY: the id is a value of the enum; the result is null or static.
        let decoder = unsafe { ffi::avcodec_find_decoder(ffi::AVCodecID::AV_CODEC_ID_AAC) };
        if decoder.is_null() {
            return Err(LibavError::NoDecoder("AAC"));
        }
        let mut context = Context::new(decoder)?;
        context.set_extradata(config)?;
        context.open(decoder)?;
        Ok(Self { context, packet: Packet::new()? })
    }

    /// Decodes one raw frame. Values that are no numbers become silence and loud ones are
    /// clamped: damaged input produces both.
    pub fn decode(&mut self, payload: &[u8]) -> Result<Samples, LibavError> {
        self.packet.fill(payload, 0)?;
        // SAFETY: context and packet are valid.
        let code = unsafe { ffi::avcodec_send_packet(self.context.0, self.packet.0) };
        self.packet.unref();
        check("avcodec_send_packet", code)?;
        let mut samples = Samples::default();
        loop {
            let frame = Frame::empty()?;
            // SAFETY: context and frame are valid; the frame is empty.
            let code = unsafe { ffi::avcodec_receive_frame(self.context.0, frame.0) };
            match answer("avcodec_receive_frame", code)? {
                Answer::Again | Answer::End => return Ok(samples),
                Answer::Done => append(&frame, &mut samples)?,
            }
        }
    }
}

/// Appends a decoded frame; one of another shape replaces what was there.
fn append(frame: &Frame, samples: &mut Samples) -> Result<(), LibavError> {
    if frame.format() != FLOAT_PLANAR {
        return Err(LibavError::SampleFormat(frame.format()));
    }
    // SAFETY: the frame is valid; these are plain integers.
    let (count, channels, rate) = unsafe {
        ((*frame.0).nb_samples, (*frame.0).ch_layout.nb_channels, (*frame.0).sample_rate)
    };
    let count = usize::try_from(count).unwrap_or(0);
    let channels = usize::try_from(channels).unwrap_or(0);
    let rate = u32::try_from(rate).unwrap_or(0);
    if channels == 0 || channels > CHANNELS_MAX || rate == 0 {
        return Err(LibavError::SampleFormat(FLOAT_PLANAR));
    }
    if samples.rate != rate || samples.channels.len() != channels {
        *samples = Samples { rate, channels: vec![Vec::with_capacity(count); channels] };
    }
    for (number, channel) in samples.channels.iter_mut().enumerate() {
        // SAFETY: a planar float frame has one plane of nb_samples floats for each channel;
        // extended_data has a pointer for each.
        let plane = unsafe {
            let pointer = *(*frame.0).extended_data.add(number);
            std::slice::from_raw_parts(pointer.cast::<f32>(), count)
        };
        channel.extend(plane.iter().map(|v| if v.is_finite() { v.clamp(-1.0, 1.0) } else { 0.0 }));
    }
    Ok(())
}

/// One encoded packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AacPacket {
    /// Position of the first sample that a decoder gives for it.
    pub pts_samples: i64,
    pub payload: Vec<u8>,
}

/// libav's own AAC-LC encoder.
pub struct AacEncoder {
    context: Context,
    packet: Packet,
    channels: usize,
    rate: u32,
}

impl AacEncoder {
    pub fn open(rate: u32, channels: usize, bitrate_bps: u64) -> Result<Self, LibavError> {
        let codec = find_encoder(c"aac", "aac")?;
        let mut context = Context::new(codec)?;
        let rate_int = c_int::try_from(rate).unwrap_or(48_000);
        // SAFETY: the context is allocated and not open.
        unsafe {
            let c = context.0;
            (*c).sample_rate = rate_int;
            (*c).sample_fmt = ffi::AVSampleFormat::AV_SAMPLE_FMT_FLTP;
            (*c).time_base = ffi::AVRational { num: 1, den: rate_int };
            (*c).bit_rate = i64::try_from(bitrate_bps).unwrap_or(128_000);
            (*c).flags |= ffi::AV_CODEC_FLAG_GLOBAL_HEADER as c_int;
            let count = if channels == 1 { 1 } else { 2 };
            ffi::av_channel_layout_default(&mut (*c).ch_layout, count);
        }
        context.open(codec)?;
        Ok(Self { context, packet: Packet::new()?, channels: channels.clamp(1, 2), rate })
    }

    /// The AudioSpecificConfig.
    #[must_use]
    pub fn config(&self) -> &[u8] {
        self.context.extradata()
    }

    /// Encodes one frame of [`AAC_FRAME_SAMPLES`] per channel that begins at `pts_samples`.
    /// The packet that comes out belongs to an earlier frame.
    pub fn encode(
        &mut self,
        channels: &[&[f32]],
        pts_samples: i64,
    ) -> Result<Option<AacPacket>, LibavError> {
        let whole = channels.len() == self.channels
            && channels.iter().all(|samples| samples.len() == AAC_FRAME_SAMPLES);
        if !whole {
            return Err(LibavError::SampleFormat(FLOAT_PLANAR));
        }
        let frame = Frame::empty()?;
        // SAFETY: the frame is empty; av_frame_get_buffer allocates one plane of nb_samples
        // floats for each channel, into which as many are copied.
        unsafe {
            let f = frame.0;
            (*f).nb_samples = c_int::try_from(AAC_FRAME_SAMPLES).unwrap_or(1024);
            (*f).format = FLOAT_PLANAR;
            (*f).sample_rate = c_int::try_from(self.rate).unwrap_or(48_000);
            ffi::av_channel_layout_default(
                &mut (*f).ch_layout,
                c_int::try_from(self.channels).unwrap_or(2),
            );
            check("av_frame_get_buffer", ffi::av_frame_get_buffer(f, 0))?;
            for (number, samples) in channels.iter().enumerate() {
                let plane = (*f).data[number].cast::<f32>();
                std::ptr::copy_nonoverlapping(samples.as_ptr(), plane, samples.len());
            }
            (*f).pts = pts_samples;
            check("avcodec_send_frame", ffi::avcodec_send_frame(self.context.0, f))?;
            let code = ffi::avcodec_receive_packet(self.context.0, self.packet.0);
            match answer("avcodec_receive_packet", code)? {
                Answer::Again | Answer::End => return Ok(None),
                Answer::Done => {}
            }
        }
        let packet =
            AacPacket { pts_samples: self.packet.pts(), payload: self.packet.payload().to_vec() };
        self.packet.unref();
        Ok(Some(packet))
    }
}
