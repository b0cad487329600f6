//! The machine-readable picture: a frame number in large black and white blocks.
//!
//! A band at the top holds 32 cells in reading order: white and black finders, 20 bits of
//! number, 8 bits of CRC, black and white finders. The grid is 16×9 cells on a landscape frame
//! and 8×16 on a portrait one, so a cell of a 128×72 rendition is still 8×8 pixels. Under the
//! band's right end one block is white while the beat sounds: for people, not for the checks.

/// Highest number that fits.
pub const NUMBER_MAX: u32 = (1 << NUMBER_BITS) - 1;

const NUMBER_BITS: usize = 20;
const CELLS: usize = 32;
/// Finders must be this far apart, and each cell this far from grey, or the frame is unreadable.
const CONTRAST_MIN: u32 = 60;
const WHITE: u8 = 235;
const BLACK: u8 = 16;
const GREY_CHROMA: u8 = 128;

/// Whether the white block for people is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    On,
    Off,
}

/// Where a number stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Band {
    Top,
    /// The same number once more in the lower part, for what hides a part of the picture.
    Low,
}

/// A frame size and the grid on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    pub width: usize,
    pub height: usize,
    columns: usize,
    rows: usize,
}

impl Layout {
    #[must_use]
    pub fn new(width: usize, height: usize) -> Self {
        let (columns, rows) = if width >= height { (16, 9) } else { (8, 16) };
        Self { width, height, columns, rows }
    }

    /// The small frame that every rendition is scaled to before it is read.
    #[must_use]
    pub fn for_reading(self) -> Self {
        Self::new(self.columns * 8, self.rows * 8)
    }

    /// Bytes of one planar 4:2:0 frame.
    #[must_use]
    pub fn frame_bytes(self) -> usize {
        self.width * self.height + 2 * self.width.div_ceil(2) * self.height.div_ceil(2)
    }

    /// First cell of a band.
    fn band(self, band: Band) -> usize {
        match band {
            Band::Top => 0,
            Band::Low => (self.rows - 1 - CELLS.div_ceil(self.columns)) * self.columns,
        }
    }

    fn cell(self, index: usize) -> Cell {
        let (column, row) = (index % self.columns, index / self.columns);
        Cell {
            left: column * self.width / self.columns,
            right: (column + 1) * self.width / self.columns,
            top: row * self.height / self.rows,
            bottom: (row + 1) * self.height / self.rows,
        }
    }
}

#[derive(Clone, Copy)]
struct Cell {
    left: usize,
    right: usize,
    top: usize,
    bottom: usize,
}

/// Draws `number` into a planar 4:2:0 frame.
pub fn stamp(frame: &mut [u8], layout: Layout, number: u32, beat: Beat) {
    stamp_band(frame, layout, number, Band::Top);
    let below_right = CELLS + layout.columns - 1;
    let level = match beat {
        Beat::On => WHITE,
        Beat::Off => BLACK,
    };
    fill(frame, layout, layout.cell(below_right), level);
    fill(frame, layout, layout.cell(below_right - 1), level);
}

/// Draws `number` into one band, without a beat.
pub fn stamp_band(frame: &mut [u8], layout: Layout, number: u32, band: Band) {
    let first = layout.band(band);
    for (index, white) in cells_of(number & NUMBER_MAX).into_iter().enumerate() {
        fill(frame, layout, layout.cell(first + index), if white { WHITE } else { BLACK });
    }
}

/// Reads the number from a band of a grey frame; none if any cell is doubtful or the CRC disagrees.
#[must_use]
pub fn read(grey: &[u8], layout: Layout, band: Band) -> Option<u32> {
    let first_cell = layout.band(band);
    let mut levels = [0_u32; CELLS];
    for (index, level) in levels.iter_mut().enumerate() {
        *level = mean(grey, layout, layout.cell(first_cell + index))?;
    }
    let [first, second, .., last_but_one, last] = levels;
    let white = first.midpoint(last);
    let black = second.midpoint(last_but_one);
    if white < black + CONTRAST_MIN {
        return None;
    }
    let middle = white.midpoint(black);
    let doubt = (white - black) / 8;
    if levels.iter().any(|level| level.abs_diff(middle) < doubt) {
        return None;
    }
    let bits = levels.map(|level| level > middle);
    let number =
        bits[2..2 + NUMBER_BITS].iter().fold(0, |number, bit| (number << 1) | u32::from(*bit));
    (cells_of(number) == bits).then_some(number)
}

fn cells_of(number: u32) -> [bool; CELLS] {
    let mut cells = [false; CELLS];
    cells[0] = true;
    cells[CELLS - 1] = true;
    for (position, cell) in cells[2..2 + NUMBER_BITS].iter_mut().enumerate() {
        *cell = (number >> (NUMBER_BITS - 1 - position)) & 1 == 1;
    }
    let crc = crc8(number);
    for (position, cell) in cells[2 + NUMBER_BITS..CELLS - 2].iter_mut().enumerate() {
        *cell = (crc >> (7 - position)) & 1 == 1;
    }
    cells
}

fn crc8(number: u32) -> u8 {
    number.to_be_bytes()[1..].iter().fold(0xA5, |crc, byte| {
        (0..8).fold(crc ^ byte, |crc, _| if crc & 0x80 == 0 { crc << 1 } else { (crc << 1) ^ 0x07 })
    })
}

fn fill(frame: &mut [u8], layout: Layout, cell: Cell, level: u8) {
    for row in frame.chunks_exact_mut(layout.width).take(cell.bottom).skip(cell.top) {
        row[cell.left..cell.right].fill(level);
    }
    let chroma_width = layout.width.div_ceil(2);
    let chroma = &mut frame[layout.width * layout.height..];
    let plane_bytes = chroma.len() / 2;
    for plane in chroma.chunks_exact_mut(plane_bytes) {
        let rows = plane.chunks_exact_mut(chroma_width);
        for row in rows.take(cell.bottom.div_ceil(2)).skip(cell.top / 2) {
            row[cell.left / 2..cell.right.div_ceil(2)].fill(GREY_CHROMA);
        }
    }
}

/// Mean of the inner half of a cell.
fn mean(grey: &[u8], layout: Layout, cell: Cell) -> Option<u32> {
    let (inset_x, inset_y) = ((cell.right - cell.left) / 4, (cell.bottom - cell.top) / 4);
    let (mut sum, mut count) = (0_u32, 0_u32);
    for y in cell.top + inset_y..cell.bottom - inset_y {
        let start = y * layout.width;
        let row = grey.get(start + cell.left + inset_x..start + cell.right - inset_x)?;
        sum += row.iter().copied().map(u32::from).sum::<u32>();
        count += u32::try_from(row.len()).ok()?;
    }
    sum.checked_div(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamped(layout: Layout, number: u32) -> Vec<u8> {
        let mut frame = vec![100; layout.frame_bytes()];
        stamp(&mut frame, layout, number, Beat::Off);
        frame
    }

    #[test]
    fn every_number_that_is_stamped_is_read_back_in_both_orientations() {
        for (width, height) in [(1920, 1080), (128, 72), (90, 160), (427, 240)] {
            let layout = Layout::new(width, height);
            for number in (0..=NUMBER_MAX).step_by(4999).chain([NUMBER_MAX]) {
                assert_eq!(read(&stamped(layout, number), layout, Band::Top), Some(number));
                assert_eq!(read(&stamped(layout, number), layout, Band::Low), None);
                let mut both = stamped(layout, number);
                stamp_band(&mut both, layout, number, Band::Low);
                assert_eq!(read(&both, layout, Band::Low), Some(number));
                assert_eq!(read(&both, layout, Band::Top), Some(number));
            }
        }
    }

    #[test]
    fn one_wrong_cell_makes_a_frame_unreadable_rather_than_another_number() {
        let layout = Layout::new(128, 72);
        for index in 0..CELLS {
            let mut frame = stamped(layout, 123_456);
            let cell = layout.cell(index);
            let was = frame[(cell.top + 4) * layout.width + cell.left + 4];
            fill(&mut frame, layout, cell, if was == WHITE { BLACK } else { WHITE });
            assert_eq!(read(&frame, layout, Band::Top), None, "cell {index}");
        }
    }

    #[test]
    fn a_picture_without_numbers_is_unreadable() {
        let layout = Layout::new(128, 72);
        assert_eq!(read(&vec![128; layout.frame_bytes()], layout, Band::Top), None);
        assert_eq!(read(&[], layout, Band::Top), None);
    }
}
