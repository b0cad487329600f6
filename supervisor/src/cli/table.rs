//! Aligned text tables: columns as wide as their content, less important columns left out where
//! the terminal is too narrow, colour as an afterthought that never moves a column.

use super::human;
use std::fmt::Write;

/// A column: its heading, where its cells align, and which to leave out first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    pub heading: &'static str,
    pub align: Align,
    /// Columns with the highest rank go first; rank 0 stays.
    pub rank: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colour {
    Plain,
    Good,
    Caution,
    Bad,
}

#[derive(Clone, Debug)]
pub(super) struct Cell {
    text: String,
    colour: Colour,
}

/// Where a table goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Screen {
    /// Columns of the terminal; `None` is as wide as it takes.
    pub width: Option<usize>,
    pub paint: Paint,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Paint {
    Colours,
    Plain,
}

impl Paint {
    /// What the operator wants on a terminal (no-color.org).
    pub(super) fn of_environment() -> Self {
        match std::env::var_os("NO_COLOR") {
            Some(_) => Self::Plain,
            None => Self::Colours,
        }
    }
}

#[derive(Debug)]
pub(super) struct Table<const N: usize> {
    columns: [Column; N],
    rows: Vec<[Cell; N]>,
}

impl Cell {
    pub(super) fn new(text: impl AsRef<str>, colour: Colour) -> Self {
        let text = human::printable(text.as_ref());
        let text = if text.is_empty() { "-".to_owned() } else { text };
        Self { text, colour }
    }

    pub(super) fn plain(text: impl AsRef<str>) -> Self {
        Self::new(text, Colour::Plain)
    }
}

impl<const N: usize> Table<N> {
    pub(super) fn new(columns: [Column; N]) -> Self {
        Self { columns, rows: Vec::new() }
    }

    pub(super) fn push(&mut self, row: [Cell; N]) {
        self.rows.push(row);
    }

    /// The heading and the rows as lines, and the headings of columns that were left out.
    pub(super) fn render(&self, screen: Screen) -> (String, Vec<String>, Vec<&'static str>) {
        let widths = self.widths();
        let (shown, hidden) = self.choose(&widths, screen.width);
        let headings = self.columns.map(|column| Cell::plain(column.heading));
        let heading = self.line(&headings, &widths, &shown, Paint::Plain);
        let rows = self.rows.iter().map(|row| self.line(row, &widths, &shown, screen.paint));
        (bold(&heading, screen.paint), rows.collect(), hidden)
    }

    fn widths(&self) -> [usize; N] {
        let mut widths = self.columns.map(|column| column.heading.chars().count());
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.text.chars().count().max(*width);
            }
        }
        widths
    }

    /// Indices of the columns that fit, and the headings of those left out.
    fn choose(&self, widths: &[usize; N], bound: Option<usize>) -> (Vec<usize>, Vec<&'static str>) {
        let mut shown: Vec<usize> = (0..N).collect();
        let mut hidden = Vec::new();
        let Some(bound) = bound else { return (shown, hidden) };
        let needed = |shown: &[usize]| {
            shown.iter().map(|at| widths[*at] + 2).sum::<usize>().saturating_sub(2)
        };
        while needed(&shown) > bound {
            let next = shown.iter().copied().max_by_key(|at| self.columns[*at].rank);
            let Some(next) = next.filter(|at| self.columns[*at].rank > 0) else { break };
            shown.retain(|at| *at != next);
            hidden.push(self.columns[next].heading);
        }
        (shown, hidden)
    }

    fn line(&self, row: &[Cell; N], widths: &[usize; N], shown: &[usize], paint: Paint) -> String {
        let mut line = String::new();
        for (position, at) in shown.iter().copied().enumerate() {
            let (cell, gap) = (&row[at], widths[at] - row[at].text.chars().count());
            let (before, after) = match self.columns[at].align {
                Align::Left => (0, gap),
                Align::Right => (gap, 0),
            };
            if position > 0 {
                line.push_str("  ");
            }
            // Writing to a String cannot fail.
            let _ = write!(line, "{:before$}{}{:after$}", "", paint_cell(cell, paint), "");
        }
        line.truncate(line.trim_end().len());
        line
    }
}

fn paint_cell(cell: &Cell, paint: Paint) -> String {
    // SGR foreground colours (ECMA-48).
    let code = match (paint, cell.colour) {
        (Paint::Plain, _) | (Paint::Colours, Colour::Plain) => return cell.text.clone(),
        (Paint::Colours, Colour::Good) => 32,
        (Paint::Colours, Colour::Caution) => 33,
        (Paint::Colours, Colour::Bad) => 31,
    };
    format!("\x1b[{code}m{}\x1b[0m", cell.text)
}

pub(super) fn bold(text: &str, paint: Paint) -> String {
    match paint {
        Paint::Plain => text.to_owned(),
        Paint::Colours => format!("\x1b[1m{text}\x1b[0m"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table<3> {
        let column = |heading, align, rank| Column { heading, align, rank };
        let mut table = Table::new([
            column("NAME", Align::Left, 0),
            column("NOTE", Align::Left, 2),
            column("N", Align::Right, 1),
        ]);
        table.push([Cell::plain("a"), Cell::plain(""), Cell::new("7", Colour::Bad)]);
        table.push([Cell::plain("longer"), Cell::plain("x\ny"), Cell::plain("1234")]);
        table
    }

    #[test]
    fn columns_align_and_empty_cells_show_a_dash() {
        let (heading, rows, hidden) = table().render(Screen { width: None, paint: Paint::Plain });
        assert_eq!(heading, "NAME    NOTE     N");
        assert_eq!(rows, ["a       -        7", "longer  x?y   1234"]);
        assert!(hidden.is_empty());
    }

    #[test]
    fn a_narrow_terminal_loses_the_least_important_columns_and_is_told() {
        let (_, rows, hidden) = table().render(Screen { width: Some(12), paint: Paint::Plain });
        assert_eq!((rows[1].as_str(), hidden), ("longer  1234", vec!["NOTE"]));
        let (_, rows, hidden) = table().render(Screen { width: Some(1), paint: Paint::Plain });
        assert_eq!((rows[1].as_str(), hidden), ("longer", vec!["NOTE", "N"]));
    }

    #[test]
    fn colour_does_not_move_a_column() {
        let (_, rows, _) = table().render(Screen { width: None, paint: Paint::Colours });
        assert_eq!(rows[0], "a       -        \x1b[31m7\x1b[0m");
    }
}
