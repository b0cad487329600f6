//! Third stage: one picture to all sizes, each from one that it is a half or two thirds of where
//! there is such a one, else from the next larger one.
//!
//! A rung that is switched off is still scaled when a lower one needs it. When the source
//! changes its size, rungs keep theirs: the picture is fitted in and the rest is black.

use super::shrink::Shrink;
use crate::libav::{
    Colour, Frame, FramePool, Kernel, LibavError, PixelLayout, Ratio, Scaler, Target,
};
use tasuki_shared::id::RungId;

/// libav's `AVCOL_RANGE_JPEG`.
const FULL_RANGE: i32 = 2;

struct Step {
    rung: RungId,
    pool: FramePool,
    scaler: Option<Scaler>,
}

/// All sizes of a ladder, largest first.
pub struct Cascade {
    steps: Vec<Step>,
    /// The rungs' shape of a pixel.
    aspect: Ratio,
    black: u8,
    /// For pictures that have to become 8-bit 4:2:0 before the filter.
    conversion: Option<(FramePool, Scaler)>,
}

impl Cascade {
    pub fn new(rungs: &[(RungId, u32, u32)], colour: Colour) -> Result<Self, LibavError> {
        let mut sizes = rungs.to_vec();
        sizes.sort_by_key(|(_, width, height)| {
            std::cmp::Reverse(u64::from(*width) * u64::from(*height))
        });
        let steps = sizes
            .into_iter()
            .map(|(rung, width, height)| {
                Ok(Step { rung, pool: FramePool::new(width, height)?, scaler: None })
            })
            .collect::<Result<_, LibavError>>()?;
        let black = if colour.range == FULL_RANGE { 0 } else { 16 };
        Ok(Self { steps, aspect: colour.sample_aspect, black, conversion: None })
    }

    /// The picture as 8-bit 4:2:0 of its own size (made even), for the filter.
    pub fn convert(&mut self, frame: Frame) -> Result<Frame, LibavError> {
        if frame.layout() == PixelLayout::Yuv420 {
            return Ok(frame);
        }
        let (width, height) = ((frame.width() & !1).max(2), (frame.height() & !1).max(2));
        let target = Target { left: 0, top: 0, width, height };
        let fits =
            self.conversion.as_ref().is_some_and(|(_, s)| s.fits(&frame, target, Kernel::Area));
        if !fits {
            let made = (FramePool::new(width, height)?, Scaler::new(&frame, target, Kernel::Area)?);
            self.conversion = Some(made);
        }
        let Some((pool, scaler)) = &mut self.conversion else { return Ok(frame) };
        let mut converted = pool.get()?;
        scaler.scale(&frame, &mut converted)?;
        converted.set_colour(frame.colour());
        Ok(converted)
    }

    /// Scales to all sizes that `wanted` needs; the result has those alone.
    pub fn run(
        &mut self,
        source: &Frame,
        wanted: &[RungId],
    ) -> Result<Vec<(RungId, Frame)>, LibavError> {
        let last = self.steps.iter().rposition(|step| wanted.contains(&step.rung));
        let source_area = area(source.width(), source.height());
        let mut made: Vec<(RungId, Frame)> = Vec::with_capacity(self.steps.len());
        for step in self.steps.iter_mut().take(last.map_or(0, |last| last + 1)) {
            // A picture that is larger than the source has nothing that the source has not.
            let larger = || {
                made.iter().map(|(_, f)| f).filter(|f| area(f.width(), f.height()) <= source_area)
            };
            let fills = fit(source, step.pool.size(), self.aspect) == whole(&step.pool);
            let mut candidates = larger().rev().chain(fills.then_some(source));
            let exact = candidates.find_map(|frame| step.exact(frame));
            // One of the same size is referred to.
            let is_made = larger().any(|f| (f.width(), f.height()) == step.pool.size());
            if let (Some((parent, shrink)), false) = (exact, is_made) {
                let frame = step.shrink(parent, shrink)?;
                made.push((step.rung, frame));
                continue;
            }
            let (parent, target, kernel) = match larger().next_back() {
                // Means of means of means lose what can still be seen of a small picture.
                Some(parent) if made.len() >= 2 => (parent, whole(&step.pool), Kernel::Bicubic),
                Some(parent) => (parent, whole(&step.pool), Kernel::Area),
                None => (source, fit(source, step.pool.size(), self.aspect), Kernel::Area),
            };
            let frame = step.scale(parent, target, kernel, self.black)?;
            made.push((step.rung, frame));
        }
        made.retain(|(rung, _)| wanted.contains(rung));
        Ok(made)
    }
}

impl Step {
    /// The exact step from `parent`, if there is one.
    fn exact<'a>(&self, parent: &'a Frame) -> Option<(&'a Frame, Shrink)> {
        let planar = parent.layout() == PixelLayout::Yuv420;
        let step = Shrink::between((parent.width(), parent.height()), self.pool.size());
        Some((parent, step.filter(|_| planar)?))
    }

    fn shrink(&mut self, parent: &Frame, shrink: Shrink) -> Result<Frame, LibavError> {
        let mut frame = self.pool.get()?;
        shrink.run(parent, &mut frame)?;
        Ok(frame)
    }

    fn scale(
        &mut self,
        parent: &Frame,
        target: Target,
        kernel: Kernel,
        black: u8,
    ) -> Result<Frame, LibavError> {
        let same = (parent.width(), parent.height()) == self.pool.size();
        if same && target == whole(&self.pool) && parent.layout() == PixelLayout::Yuv420 {
            return parent.reference();
        }
        let mut frame = self.pool.get()?;
        let scaler = match self.scaler.take() {
            Some(scaler) if scaler.fits(parent, target, kernel) => scaler,
            Some(_) | None => Scaler::new(parent, target, kernel)?,
        };
        self.scaler.insert(scaler).scale(parent, &mut frame)?;
        // Afterwards, because a scaler may write a little beyond its last column.
        paint_border(&mut frame, target, black);
        Ok(frame)
    }
}

fn whole(pool: &FramePool) -> Target {
    let (width, height) = pool.size();
    Target { left: 0, top: 0, width, height }
}

fn area(width: u32, height: u32) -> u64 {
    u64::from(width) * u64::from(height)
}

/// Where a picture goes in a rung: as large as possible, undistorted, centred.
fn fit(source: &Frame, size: (u32, u32), aspect: Ratio) -> Target {
    let (width, height) = size;
    let shape = |ratio: Ratio| {
        if ratio.num > 0 && ratio.den > 0 { ratio.as_f64() } else { 1.0 }
    };
    // In the rung's pixels.
    let wide = f64::from(source.width()) * shape(source.colour().sample_aspect) / shape(aspect);
    let high = f64::from(source.height().max(1));
    let scale = (f64::from(width) / wide.max(1.0)).min(f64::from(height) / high);
    let side = |length: f64, whole: u32| {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "clamped to a side of the rung"
        )]
        let fitted = (length * scale / 2.0).round().clamp(1.0, f64::from(whole / 2)) as u32 * 2;
        // A side that is off by rounding alone fills the rung.
        if whole - fitted <= 2 { whole } else { fitted }
    };
    let (fitted_width, fitted_height) = (side(wide, width), side(high, height));
    Target {
        left: ((width - fitted_width) / 2) & !1,
        top: ((height - fitted_height) / 2) & !1,
        width: fitted_width,
        height: fitted_height,
    }
}

fn paint_border(frame: &mut Frame, target: Target, black: u8) {
    if (target.width, target.height) == (frame.width(), frame.height()) {
        return;
    }
    let in_samples = |value: u32| usize::try_from(value).unwrap_or(0);
    for number in 0..3 {
        let shift = usize::from(number > 0);
        let Some(plane) = frame.plane_mut(number) else { return };
        let (top, bottom) =
            (in_samples(target.top) >> shift, in_samples(target.top + target.height) >> shift);
        let (left, right) =
            (in_samples(target.left) >> shift, in_samples(target.left + target.width) >> shift);
        let value = if number == 0 { black } else { 128 };
        for row in 0..plane.height {
            let start = row * plane.stride;
            let line = &mut plane.samples[start..start + plane.width];
            if row < top || row >= bottom {
                line.fill(value);
            } else {
                line[..left].fill(value);
                line[right..].fill(value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grey(width: u32, height: u32) -> Frame {
        let mut frame = FramePool::new(width, height).unwrap().get().unwrap();
        for number in 0..3 {
            frame.plane_mut(number).unwrap().samples.fill(200);
        }
        frame
    }

    fn corner_and_centre(frame: &Frame) -> (u8, u8) {
        let plane = frame.plane(0).unwrap();
        let middle = plane.height / 2 * plane.stride + plane.width / 2;
        (plane.samples[0], plane.samples[middle])
    }

    /// A picture turned by 90 degrees is fitted into the rung between black bars.
    #[test]
    fn another_aspect_is_fitted_in_and_never_distorted() {
        let rungs = [(RungId(0), 320, 180), (RungId(1), 160, 90)];
        let mut cascade = Cascade::new(&rungs, Colour::UNKNOWN).unwrap();
        let wanted = [RungId(0), RungId(1)];
        for (rung, frame) in cascade.run(&grey(640, 360), &wanted).unwrap() {
            assert_eq!(corner_and_centre(&frame), (200, 200), "{rung:?}");
        }
        let turned = cascade.run(&grey(360, 640), &wanted).unwrap();
        assert_eq!(turned.len(), 2);
        for (rung, frame) in turned {
            assert_eq!(corner_and_centre(&frame), (16, 200), "{rung:?}");
        }
        let target = fit(&grey(360, 640), (320, 180), Ratio { num: 0, den: 1 });
        assert_eq!(target, Target { left: 108, top: 0, width: 102, height: 180 });
    }

    /// A rung that nobody wants is left out, also when a lower one is scaled from it.
    #[test]
    fn a_rung_that_is_off_still_feeds_the_lower_ones() {
        let rungs = [(RungId(0), 320, 180), (RungId(1), 160, 90)];
        let mut cascade = Cascade::new(&rungs, Colour::UNKNOWN).unwrap();
        let made = cascade.run(&grey(640, 360), &[RungId(1)]).unwrap();
        let sizes: Vec<_> = made.iter().map(|(rung, f)| (*rung, f.width(), f.height())).collect();
        assert_eq!(sizes, [(RungId(1), 160, 90)]);
        assert!(cascade.run(&grey(640, 360), &[]).unwrap().is_empty());
    }

    /// Two rungs of one size share a picture.
    #[test]
    fn rungs_of_equal_size_are_scaled_once() {
        let rungs = [(RungId(0), 320, 180), (RungId(1), 320, 180)];
        let mut cascade = Cascade::new(&rungs, Colour::UNKNOWN).unwrap();
        let made = cascade.run(&grey(640, 360), &[RungId(0), RungId(1)]).unwrap();
        let at = |frame: &Frame| frame.plane(0).unwrap().samples.as_ptr();
        assert_eq!(at(&made[0].1), at(&made[1].1));
    }

    /// A source of a rung's own size is not copied.
    #[test]
    fn equal_size_is_no_copy() {
        let mut cascade = Cascade::new(&[(RungId(0), 320, 180)], Colour::UNKNOWN).unwrap();
        let source = grey(320, 180);
        let made = cascade.run(&source, &[RungId(0)]).unwrap();
        let at = |frame: &Frame| frame.plane(0).unwrap().samples.as_ptr();
        assert_eq!(at(&source), at(&made[0].1));
    }
}
