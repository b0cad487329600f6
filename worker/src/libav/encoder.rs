//! Video encoding with x264: capped CRF, no delay, IDRs only where the caller wants them.

use super::{
    Answer, Colour, Context, Frame, LibavError, Packet, PixelLayout, Ratio, annexb, answer, check,
    find_encoder,
};
use crate::media::packet::{EncodedFrame, IsIdr};
use ffmpeg_sys_next as ffi;
use std::ffi::c_int;
use std::ptr::addr_of_mut;

/// Shall this frame be an IDR picture?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForceIdr {
    Yes,
    No,
}

/// Everything that the parameter sets and the rate control depend on. Two encoders with equal
/// settings write identical parameter sets, in any process; `vbv_init` does not touch them.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct VideoEncoderSettings {
    pub width: u32,
    pub height: u32,
    /// Frames per second, for rate control: timestamps are a running counter.
    pub frame_rate: Ratio,
    pub colour: Colour,
    pub preset: String,
    pub crf: f32,
    /// Ceiling of the bitrate, over a buffer of one second.
    pub bitrate_bps: u64,
    /// Fullness of the buffer at the start, 0 to 1; `None` for x264's own default.
    pub vbv_init: Option<f32>,
}

/// An x264 encoder. Exactly one packet comes out for each frame that goes in.
pub struct VideoEncoder {
    context: Context,
    packet: Packet,
    picture: Frame,
    configuration: Vec<u8>,
    next_pts: i64,
    size: (u32, u32),
}

impl VideoEncoder {
    pub fn open(settings: &VideoEncoderSettings) -> Result<Self, LibavError> {
        let codec = find_encoder(c"libx264", "libx264")?;
        let mut context = Context::new(codec)?;
        let refused = LibavError::Size { width: settings.width, height: settings.height };
        let (Ok(width), Ok(height)) =
            (c_int::try_from(settings.width), c_int::try_from(settings.height))
        else {
            return Err(refused);
        };
        let Ratio { num, den } = settings.frame_rate;
        // The context's rates are integers of 32 bits; no ladder needs more than 2 Gb/s.
        let rate = c_int::try_from(settings.bitrate_bps).unwrap_or(c_int::MAX);
        // SAFETY: the context is allocated and not open; enum fields are written as integers.
        unsafe {
            let c = context.0;
            (*c).width = width;
            (*c).height = height;
            (*c).time_base = ffi::AVRational { num: den, den: num };
            (*c).framerate = ffi::AVRational { num, den };
            (*c).pix_fmt = ffi::AVPixelFormat::AV_PIX_FMT_YUV420P;
            (*c).sample_aspect_ratio = settings.colour.sample_aspect.to_av();
            addr_of_mut!((*c).color_range).cast::<c_int>().write(settings.colour.range);
            addr_of_mut!((*c).color_primaries).cast::<c_int>().write(settings.colour.primaries);
            addr_of_mut!((*c).color_trc).cast::<c_int>().write(settings.colour.transfer);
            addr_of_mut!((*c).colorspace).cast::<c_int>().write(settings.colour.matrix);
            (*c).max_b_frames = 0;
            (*c).rc_max_rate = i64::from(rate);
            (*c).rc_buffer_size = rate;
            (*c).level = level(settings);
            (*c).flags |= ffi::AV_CODEC_FLAG_GLOBAL_HEADER as c_int;
        }
        context.set_option(c"preset", &settings.preset)?;
        context.set_option(c"tune", "zerolatency")?;
        context.set_option(c"crf", &format!("{:.2}", settings.crf))?;
        context.set_option(c"forced-idr", "1")?;
        context.set_option(c"a53cc", "0")?;
        let mut parameters = String::from("stitchable=1:scenecut=0:keyint=infinite");
        if let Some(fullness) = settings.vbv_init {
            parameters.push_str(&format!(":vbv-init={:.4}", fullness.clamp(0.01, 1.0)));
        }
        context.set_option(c"x264-params", &parameters)?;
        context.open(codec)?;
        let configuration =
            annexb::configuration_record(context.extradata()).ok_or(LibavError::ParameterSets)?;
        Ok(Self {
            context,
            packet: Packet::new()?,
            picture: Frame::empty()?,
            configuration,
            next_pts: 0,
            size: (settings.width, settings.height),
        })
    }

    /// The decoder configuration record (`avcC`).
    #[must_use]
    pub fn configuration(&self) -> &[u8] {
        &self.configuration
    }

    /// Pictures that went in.
    #[must_use]
    pub fn encoded(&self) -> i64 {
        self.next_pts
    }

    /// Encodes one picture of the encoder's size, 8-bit 4:2:0, and returns its one packet.
    pub fn encode(&mut self, frame: &Frame, idr: ForceIdr) -> Result<EncodedFrame, LibavError> {
        if frame.layout() != PixelLayout::Yuv420 {
            return Err(LibavError::PixelFormat(frame.format()));
        }
        if (frame.width(), frame.height()) != self.size {
            return Err(LibavError::Size { width: frame.width(), height: frame.height() });
        }
        self.picture.share_picture_of(frame)?;
        // SAFETY: context and picture are valid; the picture's fields are ours to change.
        let sent = unsafe {
            let p = self.picture.0;
            (*p).pts = self.next_pts;
            (*p).pict_type = match idr {
                ForceIdr::Yes => ffi::AVPictureType::AV_PICTURE_TYPE_I,
                ForceIdr::No => ffi::AVPictureType::AV_PICTURE_TYPE_NONE,
            };
            let sent = ffi::avcodec_send_frame(self.context.0, p);
            ffi::av_frame_unref(p);
            sent
        };
        check("avcodec_send_frame", sent)?;
        self.next_pts += 1;
        self.one_packet()
    }

    fn one_packet(&mut self) -> Result<EncodedFrame, LibavError> {
        let mut payload = Vec::new();
        let mut idr = false;
        let mut packets = 0;
        loop {
            // SAFETY: context and packet are valid.
            let code = unsafe { ffi::avcodec_receive_packet(self.context.0, self.packet.0) };
            match answer("avcodec_receive_packet", code)? {
                Answer::Again | Answer::End => break,
                Answer::Done => {
                    packets += 1;
                    payload.reserve(self.packet.payload().len() + 16);
                    idr |= annexb::append_length_prefixed(self.packet.payload(), &mut payload);
                    self.packet.unref();
                }
            }
        }
        if packets != 1 {
            return Err(LibavError::NotOnePacket(packets));
        }
        let idr = if idr { IsIdr::Idr } else { IsIdr::Other };
        Ok(EncodedFrame { payload, idr })
    }
}

/// The lowest level (ITU-T H.264 table A-1) that holds size, rate and bitrate. Pinned, because
/// an automatic one may differ between two encoders of the same rung.
fn level(settings: &VideoEncoderSettings) -> c_int {
    // Level × 10, macroblocks a second, macroblocks a frame, kb/s (High profile: × 1.25).
    const LEVELS: [(c_int, u64, u64, u64); 15] = [
        (10, 1_485, 99, 64),
        (11, 3_000, 396, 192),
        (12, 6_000, 396, 384),
        (13, 11_880, 396, 768),
        (20, 11_880, 396, 2_000),
        (21, 19_800, 792, 4_000),
        (22, 20_250, 1_620, 4_000),
        (30, 40_500, 1_620, 10_000),
        (31, 108_000, 3_600, 14_000),
        (32, 216_000, 5_120, 20_000),
        (40, 245_760, 8_192, 20_000),
        (42, 522_240, 8_704, 50_000),
        (50, 589_824, 22_080, 135_000),
        (51, 983_040, 36_864, 240_000),
        (52, 2_073_600, 36_864, 240_000),
    ];
    let blocks = u64::from(settings.width.div_ceil(16)) * u64::from(settings.height.div_ceil(16));
    let num = u64::try_from(settings.frame_rate.num).unwrap_or(1);
    let den = u64::try_from(settings.frame_rate.den).unwrap_or(1).max(1);
    let per_second = (blocks * num).div_ceil(den);
    let kbps = settings.bitrate_bps.div_ceil(1000);
    LEVELS
        .iter()
        .find(|(_, mbps, fs, rate)| per_second <= *mbps && blocks <= *fs && kbps <= *rate)
        .map_or(62, |(level, ..)| *level)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(width: u32, height: u32, fps: i32, bitrate_bps: u64) -> VideoEncoderSettings {
        VideoEncoderSettings {
            width,
            height,
            frame_rate: Ratio { num: fps, den: 1 },
            colour: Colour::UNKNOWN,
            preset: "veryfast".into(),
            crf: 23.0,
            bitrate_bps,
            vbv_init: None,
        }
    }

    /// The pinned level is the lowest that holds the rung.
    #[test]
    fn the_level_follows_size_rate_and_bitrate() {
        assert_eq!(level(&settings(1280, 720, 30, 3_000_000)), 31);
        assert_eq!(level(&settings(1280, 720, 60, 3_000_000)), 32);
        assert_eq!(level(&settings(1920, 1080, 30, 6_000_000)), 40);
        assert_eq!(level(&settings(640, 360, 30, 800_000)), 30);
        assert_eq!(level(&settings(8192, 8192, 30, 800_000)), 62);
    }
}
