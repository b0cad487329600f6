//! The model on the screen: a headline, a legend, three panes, the news, the keys.
//!
//! What does not fit is left out: columns by their rank, lines of a pane behind its scroll
//! position, on a low screen every pane but the one that keys go to. All text goes through
//! `human::printable`, for parts of it were said by others.

use super::super::table::Colour;
use super::super::{human, watch};
use super::bar;
use super::grid::{self, Row};
use super::model::{Feed, Help, Model, Pane, SessionOrder, WorkerOrder};
use super::paint::{Ink, Palette, put};
use super::panes;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use std::time::Duration;
use tasuki_shared::status::Status;

/// With fewer lines for all of them, one pane has them alone.
const LINES_FOR_PANES: u16 = 10;
/// From this height on there is a legend.
const LINES_FOR_LEGEND: u16 = 16;
/// From this height on there are several lines of news.
const LINES_FOR_NEWS: u16 = 30;
pub(super) const KEYS: &str = "q quit  tab pane  ↑↓ scroll  s sort  ? help";
const HELP: [&str; 16] = [
    " q        leave                        ",
    " tab      next pane                    ",
    " ↑ ↓      scroll, also PgUp PgDn       ",
    " Home End first and last line          ",
    " s        next order of this pane      ",
    " ?        this text                    ",
    "                                       ",
    " █ footprint: Anonymous - LazyFree     ",
    "   + Swap; comes back only when the    ",
    "   process exits                       ",
    " ▒ LazyFree: the kernel takes it when  ",
    "   it needs it; no leak                ",
    " ░ the rest of RSS: shared, files      ",
    " ¦ soft limit: recycled soon           ",
    " ┃ hard limit: moved at once           ",
    " a full column of HISTORY: soft limit  ",
];

/// The rows of one pane and how they are laid out.
pub(super) struct Content {
    pub title: String,
    pub columns: &'static [grid::Column],
    pub rows: Vec<Row>,
}

/// Draws all of it and gives the scroll positions that were possible.
pub(super) fn draw(
    model: &Model,
    now: Duration,
    palette: Palette,
    area: Rect,
    buffer: &mut Buffer,
) -> [usize; 3] {
    let mut lines = Lines { area };
    let headline = headline(model, now);
    put(buffer, lines.first(), 0, &headline.0, palette.style(headline.1));
    if area.height >= LINES_FOR_LEGEND {
        legend(model, lines.first(), buffer, palette);
    }
    if area.height > 2 {
        put(buffer, lines.last(), 0, KEYS, palette.style(Ink::Rest));
    }
    news(model, &mut lines, buffer, palette);
    let scroll = draw_panes(model, lines.area, buffer, palette);
    match model.help {
        Help::Hidden => {}
        Help::Shown => help(area, buffer, palette),
    }
    scroll
}

/// Lines that a frame needs to show everything.
pub(super) fn lines_needed(model: &Model) -> u16 {
    let panes: usize = Pane::ALL.iter().map(|pane| needed(&content(model, *pane))).sum();
    // Headline, legend, keys and the lines of news.
    u16::try_from(panes + 3 + news_lines(u16::MAX)).unwrap_or(u16::MAX)
}

/// What is left of the screen.
struct Lines {
    area: Rect,
}

impl Lines {
    fn first(&mut self) -> Rect {
        let line = Rect { height: self.area.height.min(1), ..self.area };
        self.area.y += line.height;
        self.area.height -= line.height;
        line
    }

    fn last(&mut self) -> Rect {
        let height = self.area.height.min(1);
        self.area.height -= height;
        Rect { y: self.area.y + self.area.height, height, ..self.area }
    }
}

fn headline(model: &Model, now: Duration) -> (String, Ink) {
    let (text, ink) = match (&model.feed, &model.status) {
        (Feed::Lost { since, reason }, status) => {
            let ms = u64::try_from(now.saturating_sub(*since).as_millis()).unwrap_or(u64::MAX);
            let old = if status.is_some() { " this is what was;" } else { "" };
            (format!(" NO SERVER for {};{old} {reason} ", human::age(ms)), Ink::Alarm)
        }
        (Feed::Connected, Some(status)) => (summary(status), Ink::Title),
        (Feed::Waiting, _) | (Feed::Connected, None) => ("asking the server".into(), Ink::Title),
    };
    (human::printable(&text), ink)
}

fn summary(status: &Status) -> String {
    format!(
        "tasuki {} {} {}, processor {:.0}%, {} streams free, {} sessions so far",
        status.version,
        status.state,
        human::age(status.uptime_ms),
        status.cpu_percent,
        status.streams_free,
        status.sessions_total,
    )
}

fn legend(model: &Model, line: Rect, buffer: &mut Buffer, palette: Palette) {
    let full = format!("full bar {}", human::bytes(model.bar_bytes()));
    let parts = [
        (format!("{} footprint", bar::FOOTPRINT), Ink::Good),
        (format!("{} LazyFree", bar::LAZY_FREE), Ink::LazyFree),
        (format!("{} rest of RSS", bar::REST), Ink::Rest),
        (format!("{} soft", bar::SOFT), Ink::Limit),
        (format!("{} hard", bar::HARD), Ink::Limit),
        (full, Ink::Plain),
    ];
    let mut x = 0;
    for (text, ink) in parts {
        put(buffer, line, x, &text, palette.style(ink));
        x += text.chars().count() + 2;
    }
}

/// Lines of news on a screen of this height.
fn news_lines(height: u16) -> usize {
    match height {
        0..6 => 0,
        6..LINES_FOR_NEWS => 1,
        LINES_FOR_NEWS.. => 3,
    }
}

/// The newest at the bottom.
fn news(model: &Model, lines: &mut Lines, buffer: &mut Buffer, palette: Palette) {
    let mut newest = model.news.iter().rev();
    for _ in 0..news_lines(lines.area.height.saturating_add(2)) {
        let line = lines.last();
        let text = newest.next().map(watch::line).unwrap_or_default();
        put(buffer, line, 0, &text, palette.style(Ink::Plain));
    }
}

fn draw_panes(model: &Model, area: Rect, buffer: &mut Buffer, palette: Palette) -> [usize; 3] {
    let contents = Pane::ALL.map(|pane| content(model, pane));
    let heights = share(contents.each_ref().map(needed), model.pane, area.height);
    let mut scroll = [0; 3];
    let mut y = area.y;
    for ((pane, content), height) in Pane::ALL.into_iter().zip(&contents).zip(heights) {
        // The title and the heading are no rows.
        let room = usize::from(height).saturating_sub(2);
        let first = model.scroll(pane).min(content.rows.len().saturating_sub(room.max(1)));
        scroll[pane.index()] = first;
        if height == 0 {
            continue;
        }
        let title = Rect { y, height: 1, ..area };
        let ink = if pane == model.pane { Ink::Focus } else { Ink::Title };
        let text = human::printable(&title_of(content, first, room));
        put(buffer, title, 0, &text, palette.style(ink));
        let below = Rect { y: y + 1, height: height - 1, ..area };
        if content.rows.is_empty() {
            let line = Rect { height: below.height.min(1), ..below };
            put(buffer, line, 0, "none", palette.style(Ink::Rest));
        } else {
            grid::draw(content.columns, &content.rows, first, below, buffer, palette);
        }
        y += height;
    }
    scroll
}

fn title_of(content: &Content, first: usize, room: usize) -> String {
    let rows = content.rows.len();
    if rows <= room || room == 0 {
        format!(" {} ", content.title)
    } else {
        format!(" {}, lines {}-{} of {rows} ", content.title, first + 1, (first + room).min(rows))
    }
}

fn content(model: &Model, pane: Pane) -> Content {
    match pane {
        Pane::Workers => panes::workers(model),
        Pane::Recycles => panes::recycles(model),
        Pane::Sessions => panes::sessions(model),
    }
}

/// Lines that a pane needs: title, heading or `none`, rows.
fn needed(content: &Content) -> usize {
    2 + content.rows.len()
}

/// Heights of the panes: as they need where there is room, else fair shares; the pane that keys go
/// to may have twice as much, and on a low screen all of it.
fn share(needed: [usize; 3], focus: Pane, height: u16) -> [u16; 3] {
    let mut heights = [0_u16; 3];
    let focus = focus.index();
    if height < LINES_FOR_PANES {
        heights[focus] = height;
        return heights;
    }
    let mut left = height;
    // One line a turn to each that still wants one: at most as many turns as there are lines.
    while left > 0 {
        let before = left;
        for at in [focus, 0, 1, 2, focus] {
            let is_wanted = usize::from(heights[at]) < needed[at];
            if left > 0 && is_wanted {
                heights[at] += 1;
                left -= 1;
            }
        }
        if left == before {
            break;
        }
    }
    heights
}

fn help(area: Rect, buffer: &mut Buffer, palette: Palette) {
    let width = u16::try_from(HELP[0].chars().count()).unwrap_or(0).min(area.width);
    let height = u16::try_from(HELP.len()).unwrap_or(0).min(area.height);
    let x = area.x + (area.width - width) / 2;
    let y = area.y + (area.height - height) / 2;
    for (text, row) in HELP.into_iter().zip(0..height) {
        let line = Rect { x, y: y + row, width, height: 1 };
        put(buffer, line, 0, text, palette.style(Ink::Focus));
    }
}

pub(super) fn worker_order(order: WorkerOrder) -> &'static str {
    match order {
        WorkerOrder::Slot => "slot",
        WorkerOrder::Footprint => "footprint",
        WorkerOrder::TimeToLimit => "time to limit",
    }
}

pub(super) fn session_order(order: SessionOrder) -> &'static str {
    match order {
        SessionOrder::Name => "name",
        SessionOrder::Lag => "lag",
        SessionOrder::Dropped => "dropped",
        SessionOrder::Bitrate => "bitrate in",
    }
}

pub(super) fn colour(ink: Ink) -> Colour {
    match ink {
        Ink::Good => Colour::Good,
        Ink::Caution => Colour::Caution,
        Ink::Bad | Ink::Alarm => Colour::Bad,
        Ink::Plain
        | Ink::Heading
        | Ink::Title
        | Ink::Focus
        | Ink::LazyFree
        | Ink::Rest
        | Ink::Limit => Colour::Plain,
    }
}

#[cfg(test)]
mod tests;
