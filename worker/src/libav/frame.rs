//! Decoded and scaled pictures.

use super::{LibavError, check, no_memory};
use ffmpeg_sys_next as ffi;
use std::ffi::c_int;
use std::ptr::{addr_of, addr_of_mut};

/// A ratio of two integers; 0/1 is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Ratio {
    pub num: i32,
    pub den: i32,
}

impl Ratio {
    pub(super) fn to_av(self) -> ffi::AVRational {
        ffi::AVRational { num: self.num, den: self.den }
    }

    #[must_use]
    pub fn as_f64(self) -> f64 {
        f64::from(self.num) / f64::from(self.den.max(1))
    }
}

/// How samples mean colours, as libav's code points (ISO/IEC 23091-2), and the shape of a pixel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Colour {
    pub range: i32,
    pub primaries: i32,
    pub transfer: i32,
    pub matrix: i32,
    pub sample_aspect: Ratio,
}

impl Colour {
    /// Nothing said: the decoder on the other side guesses.
    pub const UNKNOWN: Self = Self {
        range: 0,
        primaries: 2,
        transfer: 2,
        matrix: 2,
        sample_aspect: Ratio { num: 0, den: 1 },
    };
}

/// libav's `AVCOL_RANGE_JPEG`.
pub(super) const FULL_RANGE: i32 = 2;

/// Sample layouts that are understood. What is not here is refused by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PixelLayout {
    /// 8-bit planar 4:2:0: what the filter and the encoders work on.
    Yuv420,
    /// Anything else that the scaler converts.
    Convertible(i32),
}

/// One plane of 8-bit samples.
pub struct Plane<'a> {
    pub samples: &'a [u8],
    pub stride: usize,
    pub width: usize,
    pub height: usize,
}

/// One plane of 8-bit samples, to be changed.
pub struct PlaneMut<'a> {
    pub samples: &'a mut [u8],
    pub stride: usize,
    pub width: usize,
    pub height: usize,
}

/// A reference to a picture (or to samples of sound); the memory is shared by references.
pub struct Frame(pub(super) *mut ffi::AVFrame);

// SAFETY: an AVFrame's buffers are reference-counted atomically and the struct itself has one
// owner; shared buffers are only written after av_frame_make_writable.
unsafe impl Send for Frame {}

impl Frame {
    pub(super) fn empty() -> Result<Self, LibavError> {
        // SAFETY: plain allocation.
        let frame = unsafe { ffi::av_frame_alloc() };
        if frame.is_null() { Err(no_memory()) } else { Ok(Self(frame)) }
    }

    /// A second reference to the same picture.
    pub fn reference(&self) -> Result<Self, LibavError> {
        let copy = Self::empty()?;
        // SAFETY: both frames are valid and the destination is empty.
        check("av_frame_ref", unsafe { ffi::av_frame_ref(copy.0, self.0) })?;
        Ok(copy)
    }

    /// Becomes a reference to the samples of a 4:2:0 picture and nothing else of it: a decoder's
    /// picture type would force the encoder's, and its side data would become SEI.
    pub(super) fn share_picture_of(&mut self, other: &Self) -> Result<(), LibavError> {
        // SAFETY: both frames are valid; the buffers that the planes point into are referenced
        // for as long as this frame has them.
        unsafe {
            ffi::av_frame_unref(self.0);
            for (number, buffer) in (*other.0).buf.iter().enumerate() {
                if buffer.is_null() {
                    continue;
                }
                let reference = ffi::av_buffer_ref(*buffer);
                if reference.is_null() {
                    ffi::av_frame_unref(self.0);
                    return Err(no_memory());
                }
                (*self.0).buf[number] = reference;
            }
            (*self.0).data = (*other.0).data;
            (*self.0).linesize = (*other.0).linesize;
            (*self.0).width = (*other.0).width;
            (*self.0).height = (*other.0).height;
            (*self.0).format = ffi::AVPixelFormat::AV_PIX_FMT_YUV420P as c_int;
        }
        self.set_colour(other.colour());
        Ok(())
    }

    #[must_use]
    pub fn width(&self) -> u32 {
        // SAFETY: the frame is valid for as long as we are.
        u32::try_from(unsafe { (*self.0).width }).unwrap_or(0)
    }

    #[must_use]
    pub fn height(&self) -> u32 {
        // SAFETY: as above.
        u32::try_from(unsafe { (*self.0).height }).unwrap_or(0)
    }

    #[must_use]
    pub fn pts(&self) -> i64 {
        // SAFETY: as above.
        unsafe { (*self.0).pts }
    }

    /// libav's number of the pixel format.
    #[must_use]
    pub fn format(&self) -> c_int {
        // SAFETY: as above; the field is a plain integer.
        unsafe { (*self.0).format }
    }

    #[must_use]
    pub fn layout(&self) -> PixelLayout {
        let format = self.format();
        if format == ffi::AVPixelFormat::AV_PIX_FMT_YUV420P as c_int
            || format == ffi::AVPixelFormat::AV_PIX_FMT_YUVJ420P as c_int
        {
            PixelLayout::Yuv420
        } else {
            PixelLayout::Convertible(format)
        }
    }

    /// The colours of this picture. The enum fields are read as integers.
    #[must_use]
    pub fn colour(&self) -> Colour {
        // SAFETY: the frame is valid; the fields are C enums, which have the layout of c_int.
        unsafe {
            let range = addr_of!((*self.0).color_range).cast::<c_int>().read();
            let full = [
                ffi::AVPixelFormat::AV_PIX_FMT_YUVJ420P as c_int,
                ffi::AVPixelFormat::AV_PIX_FMT_YUVJ422P as c_int,
                ffi::AVPixelFormat::AV_PIX_FMT_YUVJ444P as c_int,
            ]
            .contains(&(*self.0).format);
            Colour {
                range: if full { FULL_RANGE } else { range },
                primaries: addr_of!((*self.0).color_primaries).cast::<c_int>().read(),
                transfer: addr_of!((*self.0).color_trc).cast::<c_int>().read(),
                matrix: addr_of!((*self.0).colorspace).cast::<c_int>().read(),
                sample_aspect: Ratio {
                    num: (*self.0).sample_aspect_ratio.num,
                    den: (*self.0).sample_aspect_ratio.den,
                },
            }
        }
    }

    /// Sets the colours, so that a scaled picture says what its source said.
    pub fn set_colour(&mut self, colour: Colour) {
        // SAFETY: the frame is valid; the fields are C enums and are written as integers.
        unsafe {
            addr_of_mut!((*self.0).color_range).cast::<c_int>().write(colour.range);
            addr_of_mut!((*self.0).color_primaries).cast::<c_int>().write(colour.primaries);
            addr_of_mut!((*self.0).color_trc).cast::<c_int>().write(colour.transfer);
            addr_of_mut!((*self.0).colorspace).cast::<c_int>().write(colour.matrix);
            (*self.0).sample_aspect_ratio = colour.sample_aspect.to_av();
        }
    }

    /// Copies the picture unless this is the only reference, so that it may be changed without
    /// damaging what the decoder still refers to.
    pub fn make_writable(&mut self) -> Result<(), LibavError> {
        // SAFETY: the frame is valid and reference-counted.
        check("av_frame_make_writable", unsafe { ffi::av_frame_make_writable(self.0) })?;
        Ok(())
    }

    /// A plane of a 4:2:0 picture (0 luma, 1 and 2 chroma); `None` for any other layout.
    #[must_use]
    pub fn plane(&self, number: usize) -> Option<Plane<'_>> {
        let (pointer, stride, width, height) = self.plane_shape(number)?;
        // SAFETY: plane_shape gives a pointer valid for this many bytes; the borrow of self
        // keeps the buffer and no &mut to it exists.
        let samples =
            unsafe { std::slice::from_raw_parts(pointer, plane_bytes(stride, width, height)) };
        Some(Plane { samples, stride, width, height })
    }

    /// The same, to be changed; `None` also when the picture is shared.
    pub fn plane_mut(&mut self, number: usize) -> Option<PlaneMut<'_>> {
        let (pointer, stride, width, height) = self.plane_shape(number)?;
        // SAFETY: the frame is valid.
        if unsafe { ffi::av_frame_is_writable(self.0) } <= 0 {
            return None;
        }
        // SAFETY: as in `plane`; the buffer has one reference, ours, borrowed mutably.
        let samples =
            unsafe { std::slice::from_raw_parts_mut(pointer, plane_bytes(stride, width, height)) };
        Some(PlaneMut { samples, stride, width, height })
    }

    fn plane_shape(&self, number: usize) -> Option<(*mut u8, usize, usize, usize)> {
        if self.layout() != PixelLayout::Yuv420 || number > 2 {
            return None;
        }
        let shift = usize::from(number > 0);
        let width = (usize::try_from(self.width()).ok()? + shift) >> shift;
        let height = (usize::try_from(self.height()).ok()? + shift) >> shift;
        // SAFETY: the frame is valid; the arrays have eight elements.
        let (pointer, stride) = unsafe { ((*self.0).data[number], (*self.0).linesize[number]) };
        let stride = usize::try_from(stride).ok()?;
        let usable = !pointer.is_null() && stride >= width && width > 0 && height > 0;
        usable.then_some((pointer, stride, width, height))
    }
}

fn plane_bytes(stride: usize, width: usize, height: usize) -> usize {
    stride * (height - 1) + width
}

impl Drop for Frame {
    fn drop(&mut self) {
        // SAFETY: the frame was allocated by us and is freed once.
        unsafe { ffi::av_frame_free(&mut self.0) };
    }
}

/// Pictures of one size whose memory is used again.
pub struct FramePool {
    pool: *mut ffi::AVBufferPool,
    width: u32,
    height: u32,
    stride: usize,
}

// SAFETY: a buffer pool is locked inside; it is used by one thread at a time anyway.
unsafe impl Send for FramePool {}

/// What scalers may read or write beyond the last sample.
const POOL_SLACK_BYTES: usize = 1024;
const POOL_ALIGNMENT: usize = 64;

impl FramePool {
    /// A pool of 4:2:0 pictures with even sides.
    pub fn new(width: u32, height: u32) -> Result<Self, LibavError> {
        let refused = LibavError::Size { width, height };
        if width == 0
            || height == 0
            || width > 16_384
            || height > 16_384
            || (width | height) & 1 == 1
        {
            return Err(refused);
        }
        let (Ok(columns), Ok(rows)) = (usize::try_from(width), usize::try_from(height)) else {
            return Err(refused);
        };
        // Chroma rows are half as long and still aligned.
        let stride = columns.next_multiple_of(2 * POOL_ALIGNMENT);
        let bytes = stride * rows + stride * (rows / 2) + POOL_SLACK_BYTES;
        // SAFETY: plain allocation of a pool; no allocator of our own.
        let pool = unsafe { ffi::av_buffer_pool_init(bytes, None) };
        if pool.is_null() {
            return Err(no_memory());
        }
        Ok(Self { pool, width, height, stride })
    }

    #[must_use]
    pub fn size(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    /// A picture with undefined contents.
    pub fn get(&mut self) -> Result<Frame, LibavError> {
        let frame = Frame::empty()?;
        let refused = LibavError::Size { width: self.width, height: self.height };
        let (Ok(width), Ok(height), Ok(stride), Ok(rows)) = (
            c_int::try_from(self.width),
            c_int::try_from(self.height),
            c_int::try_from(self.stride),
            usize::try_from(self.height),
        ) else {
            return Err(refused);
        };
        // SAFETY: the pool's buffers hold one luma plane of stride × height bytes and two chroma
        // planes of a quarter of that, in this order, which the pointers below say.
        unsafe {
            let buffer = ffi::av_buffer_pool_get(self.pool);
            if buffer.is_null() {
                return Err(no_memory());
            }
            let base = (*buffer).data;
            let luma = self.stride * rows;
            (*frame.0).buf[0] = buffer;
            (*frame.0).data[0] = base;
            (*frame.0).data[1] = base.add(luma);
            (*frame.0).data[2] = base.add(luma + luma / 4);
            (*frame.0).linesize[0] = stride;
            (*frame.0).linesize[1] = stride / 2;
            (*frame.0).linesize[2] = stride / 2;
            (*frame.0).width = width;
            (*frame.0).height = height;
            (*frame.0).format = ffi::AVPixelFormat::AV_PIX_FMT_YUV420P as c_int;
        }
        Ok(frame)
    }
}

impl Drop for FramePool {
    fn drop(&mut self) {
        // SAFETY: the pool is ours; buffers still in use keep it alive inside libav.
        unsafe { ffi::av_buffer_pool_uninit(&mut self.pool) };
    }
}
