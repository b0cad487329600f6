//! Scaling and conversion to 8-bit 4:2:0 with swscale.

use super::{Frame, LibavError, check};
use ffi::AVPixelFormat as P;
use ffmpeg_sys_next as ffi;
use std::ffi::c_int;

/// Where in the destination the picture goes; the sides and the corner are even.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    pub left: u32,
    pub top: u32,
    pub width: u32,
    pub height: u32,
}

/// How samples become others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// The mean of what a sample covers: cheap, and right for large steps down.
    Area,
    /// For a picture that was scaled before: one mean more would blur it.
    Bicubic,
}

impl Kernel {
    fn flags(self) -> c_int {
        match self {
            Self::Area => ffi::SWS_AREA as c_int,
            Self::Bicubic => ffi::SWS_BICUBIC as c_int,
        }
    }
}

/// A scaler from one size and format to another. Rebuilt by its owner when the source changes.
pub struct Scaler {
    context: *mut ffi::SwsContext,
    source: (u32, u32, c_int),
    target: Target,
    kernel: Kernel,
}

// SAFETY: the context has no thread affinity (no slice threads) and is not Sync.
unsafe impl Send for Scaler {}

impl Scaler {
    /// A scaler for pictures like `source`.
    pub fn new(source: &Frame, target: Target, kernel: Kernel) -> Result<Self, LibavError> {
        let format = convertible(source.format())?;
        let refused = LibavError::Size { width: source.width(), height: source.height() };
        let (Ok(from_width), Ok(from_height), Ok(width), Ok(height)) = (
            c_int::try_from(source.width()),
            c_int::try_from(source.height()),
            c_int::try_from(target.width),
            c_int::try_from(target.height),
        ) else {
            return Err(refused);
        };
        // SAFETY: the formats are values of the enum, no filters or parameters are given.
        let context = unsafe {
            ffi::sws_getContext(
                from_width,
                from_height,
                format,
                width,
                height,
                P::AV_PIX_FMT_YUV420P,
                kernel.flags(),
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                std::ptr::null(),
            )
        };
        if context.is_null() {
            return Err(refused);
        }
        let source = (source.width(), source.height(), source.format());
        Ok(Self { context, source, target, kernel })
    }

    /// Does this scaler take pictures like `frame` to `target`?
    #[must_use]
    pub fn fits(&self, frame: &Frame, target: Target, kernel: Kernel) -> bool {
        self.source == (frame.width(), frame.height(), frame.format())
            && self.target == target
            && self.kernel == kernel
    }

    /// Scales `source` into its place in `into`. What lies around it is not defined afterwards.
    pub fn scale(&mut self, source: &Frame, into: &mut Frame) -> Result<(), LibavError> {
        let Target { left, top, width, height } = self.target;
        if left + width > into.width()
            || top + height > into.height()
            || !self.fits(source, self.target, self.kernel)
        {
            return Err(LibavError::Size { width: into.width(), height: into.height() });
        }
        let rows =
            c_int::try_from(source.height()).map_err(|_| LibavError::Size { width, height })?;
        let mut planes = [std::ptr::null_mut::<u8>(); 4];
        let mut strides: [c_int; 4] = [0; 4];
        for number in 0..3 {
            let shift = u32::from(number > 0);
            let Some(plane) = into.plane_mut(number) else {
                return Err(LibavError::PixelFormat(into.format()));
            };
            let (Ok(column), Ok(row), Ok(stride)) = (
                usize::try_from(left >> shift),
                usize::try_from(top >> shift),
                c_int::try_from(plane.stride),
            ) else {
                return Err(LibavError::Size { width, height });
            };
            planes[number] = plane.samples[row * plane.stride + column..].as_mut_ptr();
            strides[number] = stride;
        }
        // SAFETY: the source has the size and format the context was made for; the destination
        // pointers have room for target.height rows of target.width samples, checked above, in
        // a buffer that is writable and has slack behind its end.
        let written = unsafe {
            ffi::sws_scale(
                self.context,
                (*source.0).data.as_ptr().cast::<*const u8>(),
                (*source.0).linesize.as_ptr(),
                0,
                rows,
                planes.as_ptr(),
                strides.as_ptr(),
            )
        };
        check("sws_scale", written)?;
        Ok(())
    }
}

impl Drop for Scaler {
    fn drop(&mut self) {
        // SAFETY: the context is ours and freed once.
        unsafe { ffi::sws_freeContext(self.context) };
    }
}

/// The enum value of a format number that we accept. Full-range formats are named by their
/// plain twins so that nothing rescales the range: it is carried as a property instead.
fn convertible(format: c_int) -> Result<P, LibavError> {
    let known = [
        (P::AV_PIX_FMT_YUVJ420P, P::AV_PIX_FMT_YUV420P),
        (P::AV_PIX_FMT_YUVJ422P, P::AV_PIX_FMT_YUV422P),
        (P::AV_PIX_FMT_YUVJ444P, P::AV_PIX_FMT_YUV444P),
    ];
    let plain = [
        P::AV_PIX_FMT_YUV420P,
        P::AV_PIX_FMT_YUV422P,
        P::AV_PIX_FMT_YUV444P,
        P::AV_PIX_FMT_YUV420P10LE,
        P::AV_PIX_FMT_YUV422P10LE,
        P::AV_PIX_FMT_YUV444P10LE,
        P::AV_PIX_FMT_YUV420P12LE,
        P::AV_PIX_FMT_YUV422P12LE,
        P::AV_PIX_FMT_YUV444P12LE,
        P::AV_PIX_FMT_NV12,
        P::AV_PIX_FMT_GRAY8,
        P::AV_PIX_FMT_GRAY10LE,
        P::AV_PIX_FMT_GBRP,
        P::AV_PIX_FMT_GBRP10LE,
    ];
    known
        .into_iter()
        .chain(plain.into_iter().map(|p| (p, p)))
        .find(|(from, _)| *from as c_int == format)
        .map(|(_, to)| to)
        .ok_or(LibavError::PixelFormat(format))
}
