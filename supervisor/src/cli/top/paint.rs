//! Ink on the screen: colours only where they are wanted, and nothing outside its rectangle.

use super::super::table::Paint;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};

/// What a piece of the screen means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ink {
    Plain,
    Heading,
    Title,
    /// The title of the pane that keys go to.
    Focus,
    Good,
    Caution,
    Bad,
    LazyFree,
    Rest,
    Limit,
    /// What must be seen: the server is away.
    Alarm,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Palette(pub Paint);

impl Palette {
    pub(super) fn style(self, ink: Ink) -> Style {
        let style = Style::new();
        let style = match ink {
            Ink::Heading | Ink::Title | Ink::Limit => style.add_modifier(Modifier::BOLD),
            Ink::Focus | Ink::Alarm => style.add_modifier(Modifier::BOLD | Modifier::REVERSED),
            Ink::Plain | Ink::Good | Ink::Caution | Ink::Bad | Ink::LazyFree | Ink::Rest => style,
        };
        match self.0 {
            Paint::Plain => style,
            Paint::Colours => match ink {
                Ink::Plain | Ink::Heading | Ink::Title | Ink::Focus | Ink::Limit => style,
                Ink::Good => style.fg(Color::Green),
                Ink::Caution => style.fg(Color::Yellow),
                Ink::Bad | Ink::Alarm => style.fg(Color::Red),
                Ink::LazyFree => style.fg(Color::Blue),
                Ink::Rest => style.fg(Color::DarkGray),
            },
        }
    }
}

/// Writes `text` at column `x` of a line, as much of it as fits.
pub(super) fn put(buffer: &mut Buffer, line: Rect, x: usize, text: &str, style: Style) {
    let line = line.intersection(buffer.area);
    let x = u16::try_from(x).unwrap_or(u16::MAX);
    if line.is_empty() || x >= line.width {
        return;
    }
    buffer.set_stringn(line.x + x, line.y, text, usize::from(line.width - x), style);
}
