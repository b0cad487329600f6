//! The two commonest steps of a ladder, exactly: to a half (1080p to 540p, 720p to 360p) and to two
//! thirds (1080p to 720p).
//!
//! Each sample is the mean of the area that it covers, as of swscale's area filter, which does the
//! same with filters of four and more taps for any ratio: the plain arithmetic was measured to take
//! a seventh of its time. Rounded to the nearest once, at the end. See ADR 13.

use crate::libav::{Frame, LibavError, Plane, PlaneMut};
use multiversion::multiversion;

/// How much smaller, on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shrink {
    Half,
    TwoThirds,
}

impl Shrink {
    /// The step from `from` to `to`, where it is one of these for luma and chroma (4:2:0).
    #[must_use]
    pub fn between(from: (u32, u32), to: (u32, u32)) -> Option<Self> {
        let each = |of: fn(u32, u32) -> bool| of(from.0, to.0) && of(from.1, to.1);
        if each(|from, to| to % 2 == 0 && from == 2 * to) {
            Some(Self::Half)
        } else if each(|from, to| to % 4 == 0 && 2 * from == 3 * to) {
            Some(Self::TwoThirds)
        } else {
            None
        }
    }

    /// Fills `into` with the smaller picture; both are 8-bit 4:2:0.
    pub fn run(self, source: &Frame, into: &mut Frame) -> Result<(), LibavError> {
        let size = |frame: &Frame| (frame.width(), frame.height());
        if Self::between(size(source), size(into)) != Some(self) {
            return Err(LibavError::Size { width: into.width(), height: into.height() });
        }
        let shrink_plane = match self {
            Self::Half => halve_plane,
            Self::TwoThirds => two_thirds_plane,
        };
        for number in 0..3 {
            let format = into.format();
            let from = source.plane(number).ok_or(LibavError::PixelFormat(source.format()))?;
            let to = into.plane_mut(number).ok_or(LibavError::PixelFormat(format))?;
            shrink_plane(&from, to);
        }
        Ok(())
    }
}

/// The first `width` samples of each row.
fn rows<'a>(plane: &Plane<'a>, width: usize) -> impl Iterator<Item = &'a [u8]> {
    plane.samples.chunks(plane.stride).filter_map(move |row| row.get(..width))
}

fn rows_mut<'a>(plane: PlaneMut<'a>) -> impl Iterator<Item = &'a mut [u8]> {
    let width = plane.width;
    plane.samples.chunks_mut(plane.stride).filter_map(move |row| row.get_mut(..width))
}

#[multiversion(targets("x86_64+avx2", "x86_64+ssse3", "aarch64+neon"))]
fn halve_plane(source: &Plane, into: PlaneMut) {
    let mut from = rows(source, 2 * into.width);
    for line in rows_mut(into) {
        let (Some(above), Some(below)) = (from.next(), from.next()) else { return };
        let pairs = above.as_chunks::<2>().0.iter().zip(below.as_chunks::<2>().0);
        for ((above, below), sample) in pairs.zip(line) {
            // Both of a pair in one word, so that the compiler works on many pairs at a time.
            let (above, below) = (u16::from_le_bytes(*above), u16::from_le_bytes(*below));
            let sum = (above & 0xFF) + (above >> 8) + (below & 0xFF) + (below >> 8);
            *sample = low_byte((sum + 2) >> 2);
        }
    }
}

/// Three by three samples become two by two: the corner counts four times, its neighbours twice,
/// the middle once.
#[multiversion(targets("x86_64+avx2", "x86_64+ssse3", "aarch64+neon"))]
fn two_thirds_plane(source: &Plane, into: PlaneMut) {
    let (width, from_width) = (into.width, into.width / 2 * 3);
    let mut from = rows(source, from_width);
    let mut to = rows_mut(into);
    let mut sums = [(); 3].map(|()| vec![0_u16; width]);
    loop {
        let three = [from.next(), from.next(), from.next()];
        let [Some(above), Some(middle), Some(below)] = three else { return };
        for (row, sums) in [above, middle, below].into_iter().zip(&mut sums) {
            for (three, two) in row.as_chunks::<3>().0.iter().zip(sums.as_chunks_mut::<2>().0) {
                let [left, middle, right] = three.map(u16::from);
                *two = [2 * left + middle, middle + 2 * right];
            }
        }
        let [above, middle, below] = &sums;
        for outer in [above, below] {
            let Some(line) = to.next() else { return };
            for ((outer, middle), sample) in outer.iter().zip(middle).zip(line) {
                *sample = low_byte(ninth(2 * outer + middle + 4));
            }
        }
    }
}

/// Of a mean, which is a byte.
#[inline]
fn low_byte(mean: u16) -> u8 {
    mean.to_le_bytes()[0]
}

/// `sum / 9`, without a division: exact for all sums of nine bytes, as a test shows.
#[inline]
fn ninth(sum: u16) -> u16 {
    let [_, _, low, high] = (u32::from(sum) * 7282).to_le_bytes();
    u16::from_le_bytes([low, high])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libav::FramePool;

    fn noise(width: u32, height: u32) -> Frame {
        let mut frame = FramePool::new(width, height).unwrap().get().unwrap();
        let mut state = 7_u32;
        for number in 0..3 {
            for sample in frame.plane_mut(number).unwrap().samples {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *sample = state.to_be_bytes()[0];
            }
        }
        frame
    }

    /// The mean of what a sample covers, in thirds of a sample on both sides.
    fn mean(plane: &Plane, step: (usize, usize), row: usize, column: usize) -> u32 {
        let (from, to) = step;
        let covered = |at: usize| (at * from..(at + 1) * from).map(move |part| part / to);
        let sample =
            |row: usize, column: usize| u32::from(plane.samples[row * plane.stride + column]);
        let sum: u32 = covered(row)
            .flat_map(|row| covered(column).map(move |column| (row, column)))
            .map(|(row, column)| sample(row, column))
            .sum();
        let parts = u32::try_from(from * from).unwrap();
        (sum + parts / 2) / parts
    }

    /// Every sample of every plane is the rounded mean of its area, in every width of a vector's
    /// rest too, and nothing is written beside a line.
    #[test]
    fn each_sample_is_the_mean_of_its_area() {
        for (shrink, from, to) in [(Shrink::Half, 2, 1), (Shrink::TwoThirds, 3, 2)] {
            for (width, height) in [(4, 4), (36, 20), (100, 8), (640, 360)] {
                let source = noise(width / to * from, height / to * from);
                let mut into = FramePool::new(width, height).unwrap().get().unwrap();
                for number in 0..3 {
                    into.plane_mut(number).unwrap().samples.fill(9);
                }
                shrink.run(&source, &mut into).unwrap();
                let step = (usize::try_from(from).unwrap(), usize::try_from(to).unwrap());
                for number in 0..3 {
                    let (from, to) = (source.plane(number).unwrap(), into.plane(number).unwrap());
                    for (row, line) in to.samples.chunks(to.stride).enumerate() {
                        let (line, beside) = line.split_at(to.width);
                        for (column, sample) in line.iter().enumerate() {
                            let mean = mean(&from, step, row, column);
                            let place = format!("{shrink:?} {width}, {number}: {row}, {column}");
                            assert_eq!(u32::from(*sample), mean, "{place}");
                        }
                        assert!(beside.iter().all(|sample| *sample == 9), "{number}: {row}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_ninth_is_exact() {
        assert!((0..=9 * 255 + 4).all(|sum| ninth(sum) == sum / 9));
    }

    /// Steps that are not whole in luma and chroma are none, and refused.
    #[test]
    fn other_steps_are_none_of_these() {
        let between = Shrink::between;
        assert_eq!(between((1280, 720), (640, 360)), Some(Shrink::Half));
        assert_eq!(between((1920, 1080), (1280, 720)), Some(Shrink::TwoThirds));
        assert_eq!(between((1080, 1920), (720, 1280)), Some(Shrink::TwoThirds));
        assert_eq!(between((1280, 720), (854, 480)), None);
        assert_eq!(between((1280, 720), (640, 480)), None);
        assert_eq!(between((639, 360), (426, 240)), None);
        assert_eq!(between((640, 360), (640, 360)), None);
        let mut into = FramePool::new(854, 480).unwrap().get().unwrap();
        assert_eq!(
            Shrink::TwoThirds.run(&noise(1280, 720), &mut into),
            Err(LibavError::Size { width: 854, height: 480 })
        );
    }
}
