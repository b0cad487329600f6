//! Sample rate and channel conversion with swresample.

use super::{LibavError, Samples, check};
use ffmpeg_sys_next as ffi;
use std::ffi::c_int;

/// A converter from one rate and channel count to another, planar floats on both sides.
pub struct Resampler {
    context: *mut ffi::SwrContext,
    from: (u32, usize),
    to: (u32, usize),
}

// SAFETY: the context has no thread affinity and is not Sync.
unsafe impl Send for Resampler {}

impl Resampler {
    pub fn new(
        from_rate: u32,
        from_channels: usize,
        to_rate: u32,
        to_channels: usize,
    ) -> Result<Self, LibavError> {
        let refused = LibavError::SampleFormat(0);
        let (Ok(in_rate), Ok(in_count), Ok(out_rate), Ok(out_count)) = (
            c_int::try_from(from_rate),
            c_int::try_from(from_channels),
            c_int::try_from(to_rate),
            c_int::try_from(to_channels),
        ) else {
            return Err(refused);
        };
        let mut context = std::ptr::null_mut();
        // SAFETY: the layouts are initialised by av_channel_layout_default and copied by the
        // call; on failure the context is freed and null. Default layouts own no memory.
        unsafe {
            let mut input: ffi::AVChannelLayout = std::mem::zeroed();
            let mut output: ffi::AVChannelLayout = std::mem::zeroed();
            ffi::av_channel_layout_default(&mut input, in_count);
            ffi::av_channel_layout_default(&mut output, out_count);
            let float = ffi::AVSampleFormat::AV_SAMPLE_FMT_FLTP;
            check(
                "swr_alloc_set_opts2",
                ffi::swr_alloc_set_opts2(
                    &mut context,
                    &mut output,
                    float,
                    out_rate,
                    &mut input,
                    float,
                    in_rate,
                    0,
                    std::ptr::null_mut(),
                ),
            )?;
        }
        let made = Self { context, from: (from_rate, from_channels), to: (to_rate, to_channels) };
        // SAFETY: the context is allocated and configured.
        check("swr_init", unsafe { ffi::swr_init(made.context) })?;
        Ok(made)
    }

    /// Does this converter take sound like `samples`?
    #[must_use]
    pub fn fits(&self, samples: &Samples) -> bool {
        self.from == (samples.rate, samples.channels.len())
    }

    /// Output samples that are still inside.
    #[must_use]
    pub fn delay(&self) -> i64 {
        // SAFETY: the context is valid.
        unsafe { ffi::swr_get_delay(self.context, i64::from(self.to.0)) }
    }

    /// Converts; what the filter still needs stays inside.
    pub fn convert(&mut self, samples: &Samples) -> Result<Samples, LibavError> {
        if !self.fits(samples) {
            return Err(LibavError::SampleFormat(0));
        }
        self.run(Some(samples))
    }

    /// Takes out what is left inside.
    pub fn flush(&mut self) -> Result<Samples, LibavError> {
        self.run(None)
    }

    fn run(&mut self, samples: Option<&Samples>) -> Result<Samples, LibavError> {
        let count = samples.map_or(0, Samples::len);
        let in_count = c_int::try_from(count).map_err(|_| LibavError::TooLong(count))?;
        // SAFETY: the context is valid.
        let room = check("swr_get_out_samples", unsafe {
            ffi::swr_get_out_samples(self.context, in_count)
        })?;
        let room = usize::try_from(room).unwrap_or(0);
        let mut out = vec![vec![0f32; room]; self.to.1];
        let mut outputs: Vec<*mut u8> =
            out.iter_mut().map(|channel| channel.as_mut_ptr().cast()).collect();
        let mut inputs: Vec<*const u8> = samples.map_or_else(Vec::new, |samples| {
            samples.channels.iter().map(|channel| channel.as_ptr().cast()).collect()
        });
        let input = if samples.is_some() { inputs.as_mut_ptr() } else { std::ptr::null_mut() };
        // SAFETY: one pointer per channel on both sides; every input channel has in_count
        // floats, every output channel has room for `room`.
        let written = check("swr_convert", unsafe {
            ffi::swr_convert(
                self.context,
                outputs.as_mut_ptr(),
                c_int::try_from(room).unwrap_or(0),
                input.cast(),
                in_count,
            )
        })?;
        let written = usize::try_from(written).unwrap_or(0);
        for channel in &mut out {
            channel.truncate(written);
        }
        Ok(Samples { rate: self.to.0, channels: out })
    }
}

impl Drop for Resampler {
    fn drop(&mut self) {
        // SAFETY: the context is ours and freed once.
        unsafe { ffi::swr_free(&mut self.context) };
    }
}
