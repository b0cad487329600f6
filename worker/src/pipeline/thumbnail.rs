//! Small pictures of what is encoded, every few seconds: after the filter, so that nothing is seen in
//! them that viewers do not see.

use crate::libav::{Frame, Plane};
use tasuki_shared::limits::{THUMBNAIL_INTERVAL_MS, THUMBNAIL_WIDTH};
use tasuki_shared::plan::Plan;

/// Whether a stream has any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thumbnails {
    Made,
    None,
}

impl Thumbnails {
    #[must_use]
    pub fn of(plan: &Plan) -> Self {
        if plan.thumbnail.is_some() { Self::Made } else { Self::None }
    }
}

/// One of them: a pixel is luma, then both chromas, each from 0 to 255 (JFIF 1.02).
#[derive(Clone, PartialEq, Eq)]
pub struct Thumbnail {
    pub width: u16,
    pub height: u16,
    pub samples: Vec<u8>,
}

impl std::fmt::Debug for Thumbnail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Thumbnail({}x{})", self.width, self.height)
    }
}

/// When the next is due.
#[derive(Debug)]
pub struct Pace {
    thumbnails: Thumbnails,
    last_ms: Option<i64>,
}

impl Pace {
    pub const fn new(thumbnails: Thumbnails) -> Self {
        Self { thumbnails, last_ms: None }
    }

    /// Is one to be made of the picture at this time?
    pub fn is_due(&mut self, pts_ms: i64) -> bool {
        let waits = |last_ms: i64| (0..THUMBNAIL_INTERVAL_MS).contains(&(pts_ms - last_ms));
        if self.thumbnails == Thumbnails::None || self.last_ms.is_some_and(waits) {
            return false;
        }
        self.last_ms = Some(pts_ms);
        true
    }
}

/// libav's `AVCOL_RANGE_JPEG`.
const FULL_RANGE: i32 = 2;

/// Of an 8-bit 4:2:0 picture, made smaller by a whole factor; `None` for any other layout.
pub fn of(frame: &Frame) -> Option<Thumbnail> {
    let planes = [frame.plane(0)?, frame.plane(1)?, frame.plane(2)?];
    let factor = planes[0].width.div_ceil(THUMBNAIL_WIDTH).max(1);
    let (width, height) = (planes[0].width / factor, planes[0].height / factor);
    if width == 0 || height == 0 {
        return None;
    }
    let full = frame.colour().range == FULL_RANGE;
    let mut samples = Vec::with_capacity(width * height * 3);
    for y in 0..height {
        for x in 0..width {
            let [luma, blue, red] = &planes;
            let luma = mean(luma, (x * factor, y * factor), factor);
            let chroma = |plane: &Plane<'_>| {
                let at = (x * factor / 2, y * factor / 2);
                mean(plane, at, factor.div_ceil(2))
            };
            let (blue, red) = (chroma(blue), chroma(red));
            if full {
                samples.extend([luma, blue, red]);
            } else {
                samples.extend([stretch(luma, 16, 219), centred(blue), centred(red)]);
            }
        }
    }
    let (width, height) = (u16::try_from(width).ok()?, u16::try_from(height).ok()?);
    Some(Thumbnail { width, height, samples })
}

/// Of a square of samples, as far as it lies in the plane.
fn mean(plane: &Plane<'_>, (left, top): (usize, usize), side: usize) -> u8 {
    let rows = top..(top + side).min(plane.height);
    let columns = left..(left + side).min(plane.width);
    let count = u32::try_from(rows.len() * columns.len()).unwrap_or(u32::MAX).max(1);
    let of_row = |row: usize| {
        let start = row * plane.stride;
        let samples = plane.samples.get(start + columns.start..start + columns.end);
        samples.unwrap_or(&[]).iter().map(|sample| u32::from(*sample)).sum::<u32>()
    };
    let sum: u32 = rows.map(of_row).sum();
    u8::try_from((sum + count / 2) / count).unwrap_or(u8::MAX)
}

/// From studio range, `base` and `span` above it, to 0 to 255.
fn stretch(sample: u8, base: i32, span: i32) -> u8 {
    let stretched = ((i32::from(sample) - base) * 255 + span / 2) / span;
    u8::try_from(stretched.clamp(0, 255)).unwrap_or(u8::MAX)
}

/// The same for chroma, whose middle is 128 in both.
fn centred(sample: u8) -> u8 {
    let stretched = (i32::from(sample) - 128) * 255 / 224 + 128;
    u8::try_from(stretched.clamp(0, 255)).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libav::FramePool;

    fn grey(width: u32, height: u32, luma: u8) -> Frame {
        let mut frame = FramePool::new(width, height).unwrap().get().unwrap();
        for (plane, value) in [(0, luma), (1, 128), (2, 240)] {
            frame.plane_mut(plane).unwrap().samples.fill(value);
        }
        frame
    }

    /// Whatever its size, it becomes small, keeps its shape, and has the whole range.
    #[test]
    fn a_picture_becomes_small_and_full_of_range() {
        let small = of(&grey(1280, 720, 235)).unwrap();
        assert_eq!((small.width, small.height), (320, 180));
        assert_eq!(small.samples.len(), 320 * 180 * 3);
        assert_eq!(small.samples[..3], [255, 128, 255]);
        let black = of(&grey(128, 72, 16)).unwrap();
        assert_eq!((black.width, black.height, black.samples[0]), (128, 72, 0));
    }

    /// One in so many seconds of the stream, and one at once after its clock was set back.
    #[test]
    fn pictures_are_taken_at_a_pace() {
        let mut pace = Pace::new(Thumbnails::Made);
        let due = [0, 40, THUMBNAIL_INTERVAL_MS - 1, THUMBNAIL_INTERVAL_MS, 0, 40];
        assert_eq!(due.map(|pts_ms| pace.is_due(pts_ms)), [true, false, false, true, true, false]);
        assert!(!Pace::new(Thumbnails::None).is_due(0));
    }
}
