//! Makes rectangles of a picture unreadable: block means on a fixed grid, interpolated between
//! the blocks' centres, in all planes. What was there cannot be computed back: one mean is left
//! of about a thousand samples, or of as many as a block has that is as high as the rectangle:
//! text that fills it is then smaller than a block, however large it is.

use crate::libav::{Frame, LibavError, PixelLayout, PlaneMut};
use tasuki_shared::plan::BlurRect;

/// Least side of a luma block; chroma blocks cover the same part of the picture.
const BLOCK_MIN: usize = 32;
/// Largest side; the sum of its samples fits 32 bits.
const BLOCK_MAX: usize = 1024;
/// Steps of interpolation between two centres; 16 × 16 × 255 fits 16 bits.
const STEPS: u16 = 16;
/// Rectangles are given in hundredths of a percent.
const WHOLE: usize = 10_000;

/// The rectangles of one stream.
pub struct Filter {
    rects: Vec<BlurRect>,
    means: Vec<u16>,
    columns: Vec<u16>,
}

/// A rectangle in samples of one plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Area {
    left: usize,
    top: usize,
    width: usize,
    height: usize,
}

impl Filter {
    /// `None` when there is nothing to do.
    #[must_use]
    pub fn new(rects: &[BlurRect]) -> Option<Self> {
        let rects: Vec<BlurRect> =
            rects.iter().filter(|rect| rect.width > 0 && rect.height > 0).copied().collect();
        (!rects.is_empty()).then(|| Self { rects, means: Vec::new(), columns: Vec::new() })
    }

    /// Blurs in place, on a copy when somebody else still refers to the picture.
    pub fn apply(&mut self, frame: &mut Frame) -> Result<(), LibavError> {
        frame.make_writable()?;
        let (width, height) = (side(frame.width()), side(frame.height()));
        for number in 0..3 {
            // A picture that cannot be blurred must not pass.
            let layout = frame.layout();
            let Some(mut plane) = frame.plane_mut(number) else {
                return Err(match layout {
                    PixelLayout::Convertible(format) => LibavError::PixelFormat(format),
                    PixelLayout::Yuv420 => {
                        LibavError::Size { width: frame.width(), height: frame.height() }
                    }
                });
            };
            let shift = usize::from(number > 0);
            for position in 0..self.rects.len() {
                let area = luma_area(self.rects[position], width, height);
                let block = block_of(area) >> shift;
                let area = Area {
                    left: area.left >> shift,
                    top: area.top >> shift,
                    width: (area.width + shift) >> shift,
                    height: (area.height + shift) >> shift,
                };
                let width = area.width.min(plane.width.saturating_sub(area.left));
                let height = area.height.min(plane.height.saturating_sub(area.top));
                if width > 0 && height > 0 {
                    self.blur(&mut plane, Area { width, height, ..area }, block);
                }
            }
        }
        Ok(())
    }

    fn blur(&mut self, plane: &mut PlaneMut<'_>, area: Area, block: usize) {
        let across = area.width.div_ceil(block);
        let down = area.height.div_ceil(block);
        self.measure(plane, area, block, across, down);
        self.columns.resize(across, 0);
        let weights: Vec<u16> = (0..block).map(|position| step(position, block)).collect();
        for y in 0..area.height {
            let (row, weight) = between(y, block, down);
            let upper = &self.means[row * across..][..across];
            let lower = &self.means[(row + 1).min(down - 1) * across..][..across];
            for (column, (up, low)) in self.columns.iter_mut().zip(upper.iter().zip(lower)) {
                *column = up * (STEPS - weight) + low * weight;
            }
            let start = (area.top + y) * plane.stride + area.left;
            fill_row(&mut plane.samples[start..start + area.width], &self.columns, &weights);
        }
    }

    /// Fills `means` with the mean of each block; those at the edges are smaller.
    fn measure(
        &mut self,
        plane: &PlaneMut<'_>,
        area: Area,
        block: usize,
        across: usize,
        down: usize,
    ) {
        self.means.clear();
        let mut sums = vec![0u32; across];
        for band in 0..down {
            sums.fill(0);
            let rows = block.min(area.height - band * block);
            for y in 0..rows {
                let start = (area.top + band * block + y) * plane.stride + area.left;
                let line = &plane.samples[start..start + area.width];
                for (sum, part) in sums.iter_mut().zip(line.chunks(block)) {
                    *sum += part.iter().map(|sample| u32::from(*sample)).sum::<u32>();
                }
            }
            for (position, sum) in sums.iter().enumerate() {
                let columns = block.min(area.width - position * block);
                let count = u32::try_from(rows * columns).unwrap_or(1).max(1);
                self.means.push(u16::try_from((sum + count / 2) / count).unwrap_or(255));
            }
        }
    }
}

/// Side of a luma block: the short side of the rectangle, even.
fn block_of(area: Area) -> usize {
    (area.width.min(area.height) & !1).clamp(BLOCK_MIN, BLOCK_MAX)
}

/// One line: the samples between two neighbouring centres share their two values.
fn fill_row(line: &mut [u8], columns: &[u16], weights: &[u16]) {
    let half = weights.len() / 2;
    let Some((first, last)) = columns.first().zip(columns.last()) else { return };
    let (edge, rest) = line.split_at_mut(half.min(line.len()));
    edge.fill(u8::try_from(first >> 4).unwrap_or(255));
    for (position, part) in rest.chunks_mut(weights.len()).enumerate() {
        let left = columns.get(position).unwrap_or(last);
        let right = columns.get(position + 1).unwrap_or(last);
        for (sample, weight) in part.iter_mut().zip(weights) {
            // At most 16 × 16 × 255: the high byte is the sample.
            *sample = (left * (STEPS - weight) + right * weight).to_be_bytes()[0];
        }
    }
}

/// Between which blocks a line lies, and how near to the second.
fn between(position: usize, block: usize, count: usize) -> (usize, u16) {
    let half = block / 2;
    if position < half {
        return (0, 0);
    }
    let index = (position - half) / block;
    if index + 1 >= count {
        (count - 1, 0)
    } else {
        (index, step((position - half) % block, block))
    }
}

fn step(position: usize, block: usize) -> u16 {
    u16::try_from(position * usize::from(STEPS) / block).unwrap_or(0).min(STEPS)
}

/// The rectangle in luma samples: outwards to even numbers, so that chroma is covered too.
fn luma_area(rect: BlurRect, width: usize, height: usize) -> Area {
    let begin = |part: u16, whole: usize| (usize::from(part).min(WHOLE) * whole / WHOLE) & !1;
    let end = |from: u16, length: u16, whole: usize| {
        let to = (usize::from(from) + usize::from(length)).min(WHOLE);
        (to * whole).div_ceil(WHOLE).next_multiple_of(2).min(whole)
    };
    let (left, top) = (begin(rect.left, width), begin(rect.top, height));
    let right = end(rect.left, rect.width, width).max(left);
    let bottom = end(rect.top, rect.height, height).max(top);
    Area { left, top, width: right - left, height: bottom - top }
}

fn side(length: u32) -> usize {
    usize::try_from(length).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libav::FramePool;

    const RECT: BlurRect = BlurRect { left: 1000, top: 2000, width: 5000, height: 4000 };

    /// Seven-segment digits, 24 × 44, black on white, over noise.
    fn draw(frame: &mut Frame, digits: &[u8]) {
        const SEGMENTS: [u8; 10] = [0x3f, 0x06, 0x5b, 0x4f, 0x66, 0x6d, 0x7d, 0x07, 0x7f, 0x6f];
        const BARS: [(usize, usize, usize, usize); 7] = [
            (0, 0, 24, 5),
            (19, 0, 5, 22),
            (19, 22, 5, 22),
            (0, 39, 24, 5),
            (0, 22, 5, 22),
            (0, 0, 5, 22),
            (0, 20, 24, 5),
        ];
        for number in 0..3 {
            let plane = frame.plane_mut(number).unwrap();
            for (position, sample) in plane.samples.iter_mut().enumerate() {
                let noise = position.wrapping_mul(2_654_435_761) >> 7;
                *sample = 180 + u8::try_from(noise % 40).unwrap();
            }
        }
        let luma = frame.plane_mut(0).unwrap();
        for (position, digit) in digits.iter().enumerate() {
            for (bar, (x, y, w, h)) in BARS.iter().enumerate() {
                if SEGMENTS[usize::from(*digit)] >> bar & 1 == 0 {
                    continue;
                }
                for row in 0..*h {
                    let start = (90 + y + row) * luma.stride + 70 + position * 30 + x;
                    luma.samples[start..start + w].fill(20);
                }
            }
        }
    }

    /// How alike two regions of luma are: Pearson's coefficient.
    fn correlation(one: &Frame, other: &Frame, area: Area) -> f64 {
        let (a, b) = (one.plane(0).unwrap(), other.plane(0).unwrap());
        let mut pairs = Vec::new();
        for y in area.top..area.top + area.height {
            for x in area.left..area.left + area.width {
                pairs.push((
                    f64::from(a.samples[y * a.stride + x]),
                    f64::from(b.samples[y * b.stride + x]),
                ));
            }
        }
        let count = f64::from(u32::try_from(pairs.len()).unwrap());
        let mean = pairs.iter().fold((0.0, 0.0), |m, p| (m.0 + p.0 / count, m.1 + p.1 / count));
        let (mut cross, mut va, mut vb) = (0.0, 1e-9, 1e-9);
        for (x, y) in pairs {
            cross += (x - mean.0) * (y - mean.1);
            va += (x - mean.0).powi(2);
            vb += (y - mean.1).powi(2);
        }
        cross / (va * vb).sqrt()
    }

    /// Digits under the blur cannot be told apart: the blurred pictures of two different
    /// numbers differ by a few steps, the sharp ones by a whole stroke, and what is left of the
    /// strokes' own detail does not correlate with them.
    #[test]
    fn large_digits_are_not_recoverable() {
        let mut pool = FramePool::new(640, 360).unwrap();
        let text = Area { left: 70, top: 90, width: 234, height: 44 };
        let mut detail = |digits: &[u8]| {
            let mut sharp = pool.get().unwrap();
            draw(&mut sharp, digits);
            let mut blurred = pool.get().unwrap();
            draw(&mut blurred, digits);
            Filter::new(&[RECT]).unwrap().apply(&mut blurred).unwrap();
            (sharp, blurred)
        };
        let (sharp, blurred) = detail(&[1, 2, 3, 4, 5, 6, 7, 8]);
        let (_, other) = detail(&[6, 2, 8, 4, 6, 0, 1, 9]);
        assert!(correlation(&sharp, &sharp, text) > 0.99);
        assert!(correlation(&sharp, &blurred, text).abs() < 0.35);
        let (a, b) = (blurred.plane(0).unwrap(), other.plane(0).unwrap());
        let largest = (0..360)
            .flat_map(|y| (0..640).map(move |x| (y, x)))
            .map(|(y, x)| a.samples[y * a.stride + x].abs_diff(b.samples[y * b.stride + x]))
            .max();
        assert!(largest < Some(50), "strokes differ by 160 or more, blurred by {largest:?}");
    }

    /// Only samples inside the rectangle change, in every plane, also where the rectangle does
    /// not fit the grid or leaves the picture.
    #[test]
    fn samples_outside_are_untouched() {
        let mut pool = FramePool::new(322, 182).unwrap();
        for rect in [
            RECT,
            BlurRect { left: 9000, top: 9000, width: 5000, height: 5000 },
            BlurRect { left: 0, top: 0, width: 10_000, height: 1 },
            BlurRect { left: 333, top: 333, width: 77, height: 9000 },
        ] {
            let mut before = pool.get().unwrap();
            draw(&mut before, &[4, 2]);
            let mut after = pool.get().unwrap();
            draw(&mut after, &[4, 2]);
            Filter::new(&[rect]).unwrap().apply(&mut after).unwrap();
            let area = luma_area(rect, 322, 182);
            for number in 0..3 {
                let shift = usize::from(number > 0);
                let (a, b) = (before.plane(number).unwrap(), after.plane(number).unwrap());
                for y in 0..a.height {
                    for x in 0..a.width {
                        let inside = (area.left..area.left + area.width).contains(&(x << shift))
                            && (area.top..area.top + area.height).contains(&(y << shift));
                        let same = a.samples[y * a.stride + x] == b.samples[y * b.stride + x];
                        assert!(inside || same, "{rect:?} plane {number} at {x},{y}");
                    }
                }
            }
        }
    }

    /// No rectangle, or only empty ones, is no filter: nothing is copied.
    #[test]
    fn without_rectangles_there_is_no_filter() {
        assert!(Filter::new(&[]).is_none());
        assert!(Filter::new(&[BlurRect { left: 1, top: 1, width: 0, height: 9 }]).is_none());
    }
}
