//! Rows of cells in a rectangle of the screen: the least important columns are left out where it
//! is too narrow, and some columns take what room is left.

use super::super::human;
use super::super::table::{Align, Colour};
use super::paint::{Ink, Palette, put};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::Span;

#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    pub heading: &'static str,
    pub align: Align,
    /// Columns with the highest rank go first; rank 0 stays.
    pub rank: u8,
    pub room: Room,
}

/// How wide a column is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Room {
    /// As its content, up to a bound; longer text is cut.
    Content(usize),
    /// At least, and at most, as there is room.
    Flexible(usize, usize),
}

#[derive(Clone, Debug)]
pub(super) enum Cell {
    Text(String, Colour),
    /// Something drawn for the width that its column gets: pieces in their inks.
    Drawn(Drawing),
}

#[derive(Clone, Debug)]
pub(super) enum Drawing {
    Bar(super::bar::Bar),
    Spark(super::bar::Spark),
}

/// A row, or a line of text across all columns.
#[derive(Clone, Debug)]
pub(super) enum Row {
    Cells(Vec<Cell>),
    Line(String),
}

impl Cell {
    pub(super) fn new(text: impl AsRef<str>, colour: Colour) -> Self {
        let text = human::printable(text.as_ref());
        Self::Text(if text.is_empty() { "-".to_owned() } else { text }, colour)
    }

    pub(super) fn plain(text: impl AsRef<str>) -> Self {
        Self::new(text, Colour::Plain)
    }

    fn width(&self) -> usize {
        match self {
            Self::Text(text, _) => Span::raw(text).width(),
            Self::Drawn(_) => 0,
        }
    }
}

/// Draws a heading and as many rows from `first` on as there is room for.
pub(super) fn draw(
    columns: &[Column],
    rows: &[Row],
    first: usize,
    area: Rect,
    buffer: &mut Buffer,
    palette: Palette,
) {
    let places = place(columns, rows, usize::from(area.width));
    let mut line = Rect { height: 1.min(area.height), ..area };
    for (column, x, width) in &places {
        let heading = Cell::plain(columns[*column].heading);
        cell(&heading, columns[*column].align, (*x, *width), line, buffer, Ink::Heading, palette);
    }
    for row in rows.iter().skip(first).take(usize::from(area.height).saturating_sub(1)) {
        line.y += 1;
        match row {
            Row::Line(text) => put(buffer, line, 0, text, palette.style(Ink::Plain)),
            Row::Cells(cells) => {
                for (column, x, width) in &places {
                    let Some(shown) = cells.get(*column) else { continue };
                    let align = columns[*column].align;
                    cell(shown, align, (*x, *width), line, buffer, Ink::Plain, palette);
                }
            }
        }
    }
}

/// Columns that are shown, with their places.
fn place(columns: &[Column], rows: &[Row], bound: usize) -> Vec<(usize, usize, usize)> {
    let mut widths: Vec<usize> = columns.iter().map(|column| column.heading.len()).collect();
    for row in rows {
        let Row::Cells(cells) = row else { continue };
        for (width, cell) in widths.iter_mut().zip(cells) {
            *width = cell.width().max(*width);
        }
    }
    for (width, column) in widths.iter_mut().zip(columns) {
        *width = match column.room {
            Room::Content(most) => (*width).min(most.max(column.heading.len())),
            Room::Flexible(least, _) => least.max(column.heading.len()),
        };
    }
    let mut shown: Vec<usize> = (0..columns.len()).collect();
    let needed =
        |shown: &[usize]| shown.iter().map(|at| widths[*at] + 1).sum::<usize>().saturating_sub(1);
    while needed(&shown) > bound {
        let next = shown.iter().copied().max_by_key(|at| columns[*at].rank);
        let Some(next) = next.filter(|at| columns[*at].rank > 0) else { break };
        shown.retain(|at| *at != next);
    }
    let mut left = bound.saturating_sub(needed(&shown));
    let mut x = 0;
    let mut places = Vec::new();
    for at in shown {
        let mut width = widths[at];
        if let Room::Flexible(_, most) = columns[at].room {
            let more = most.saturating_sub(width).min(left);
            width += more;
            left -= more;
        }
        places.push((at, x, width));
        x += width + 1;
    }
    places
}

fn cell(
    cell: &Cell,
    align: Align,
    (x, width): (usize, usize),
    line: Rect,
    buffer: &mut Buffer,
    ink: Ink,
    palette: Palette,
) {
    match cell {
        Cell::Text(text, colour) => {
            let gap = width.saturating_sub(cell.width());
            let before = match align {
                Align::Left => 0,
                Align::Right => gap,
            };
            let ink = match (ink, colour) {
                (Ink::Plain, Colour::Good) => Ink::Good,
                (Ink::Plain, Colour::Caution) => Ink::Caution,
                (Ink::Plain, Colour::Bad) => Ink::Bad,
                (other, _) => other,
            };
            put(buffer, line, x + before, &cut(text, width), palette.style(ink));
        }
        Cell::Drawn(drawing) => {
            let pieces = match drawing {
                Drawing::Bar(bar) => bar.cells(width),
                Drawing::Spark(spark) => spark.cells(width),
            };
            for (at, (symbol, ink)) in pieces.into_iter().enumerate() {
                put(buffer, line, x + at, symbol.encode_utf8(&mut [0; 4]), palette.style(ink));
            }
        }
    }
}

/// The text, with an ellipsis where something had to go.
fn cut(text: &str, width: usize) -> String {
    if Span::raw(text).width() <= width {
        return text.to_owned();
    }
    let mut kept = String::new();
    for character in text.chars() {
        let mut longer = kept.clone();
        longer.push(character);
        if Span::raw(&longer).width() + 1 > width {
            break;
        }
        kept = longer;
    }
    kept.push('…');
    kept
}
