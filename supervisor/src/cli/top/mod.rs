//! `tasuki top`: the node, live, on the terminal.
//!
//! `feed` tells what happens, `model` is what is known, `view` draws it. The terminal is given
//! back as it was on every way out: a key, a signal, an error, a panic.

mod bar;
mod feed;
mod grid;
mod history;
mod model;
mod paint;
mod panes;
mod view;

use super::CommandError;
use super::client::{Client, SocketArgument};
use super::table::Paint;
use feed::Happening;
use model::{Key, Model};
use paint::Palette;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::layout::Rect;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;
use tasuki_shared::clock;
use tasuki_shared::exit::Exit;
use tasuki_shared::limits::{
    TOP_FRAME_COLUMNS, TOP_FRAME_LINES_MAX, TOP_INTERVAL_MAX, TOP_INTERVAL_MIN,
};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Seconds between two looks at the server
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = interval)]
    interval: Duration,
    /// Print one frame as text and leave
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    socket: SocketArgument,
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, CommandError> {
    if arguments.once {
        return once(&arguments.socket);
    }
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return Err(CommandError::NoTerminal);
    }
    live(arguments)
}

fn once(socket: &SocketArgument) -> Result<Exit, CommandError> {
    let mut model = Model::new();
    model.observe(*feed::ask(&mut Client::connect(socket)?)?);
    let mut out = io::stdout().lock();
    let width =
        terminal_size::terminal_size_of(&out).map_or(TOP_FRAME_COLUMNS, |(width, _)| width.0);
    let height = view::lines_needed(&model).min(TOP_FRAME_LINES_MAX);
    let area = Rect::new(0, 0, width, height);
    let mut buffer = Buffer::empty(area);
    view::draw(&model, Duration::ZERO, Palette(Paint::Plain), area, &mut buffer);
    // There are no keys to press here and no news yet.
    let text = text(&buffer);
    let lines = text.lines().filter(|line| *line != view::KEYS);
    writeln!(out, "{}", lines.collect::<Vec<_>>().join("\n").trim_end())?;
    out.flush()?;
    Ok(Exit::Done)
}

/// The symbols of a buffer, without the blanks at the ends of its lines.
fn text(buffer: &Buffer) -> String {
    let mut text = String::new();
    for y in buffer.area.rows() {
        let symbols = y.columns().map(|cell| buffer[cell.as_position()].symbol());
        let line: String = symbols.collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Gives the terminal back when dropped.
struct Screen;

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

fn live(arguments: &Arguments) -> Result<Exit, CommandError> {
    let start = clock::now();
    let palette = Palette(Paint::of_environment());
    let screen = Screen;
    let mut terminal = ratatui::try_init()?;
    let happenings = feed::start(&arguments.socket, arguments.interval)?;
    let mut model = Model::new();
    let left = loop {
        let now = clock::now().saturating_duration_since(start);
        let mut scroll = [0; 3];
        terminal.draw(|frame| {
            let area = frame.area();
            scroll = view::draw(&model, now, palette, area, frame.buffer_mut());
        })?;
        model.settle(scroll);
        // The channel cannot close: each thread says so before it drops its end.
        let Ok(first) = happenings.recv() else { break Left::Broken("channel") };
        let now = clock::now().saturating_duration_since(start);
        // What has piled up is drawn once.
        let mut all = std::iter::once(first).chain(happenings.try_iter());
        if let Some(left) = all.find_map(|happening| take(&mut model, happening, now)) {
            break left;
        }
    };
    drop(terminal);
    drop(screen);
    match left {
        Left::Asked => Ok(Exit::Done),
        Left::Broken(thread) => {
            let text = format!("the thread for {thread} has ended");
            Err(CommandError::Output(io::Error::other(text)))
        }
    }
}

/// Why the loop ends.
enum Left {
    Asked,
    Broken(&'static str),
}

fn take(model: &mut Model, happening: Happening, now: Duration) -> Option<Left> {
    match happening {
        Happening::Status(status) => model.observe(*status),
        Happening::Lost(error) => model.lose(now, &error.to_string()),
        Happening::News(event) => model.hear(event),
        Happening::Terminal(Event::Key(key)) if key.kind != KeyEventKind::Release => {
            match meaning(key) {
                Some(Meaning::Leave) => return Some(Left::Asked),
                Some(Meaning::Key(key)) => model.press(key),
                None => {}
            }
        }
        // A new size is drawn like anything else.
        Happening::Terminal(
            Event::Key(_)
            | Event::Resize(..)
            | Event::FocusGained
            | Event::FocusLost
            | Event::Mouse(_)
            | Event::Paste(_),
        ) => {}
        Happening::Told => return Some(Left::Asked),
        Happening::Broken(thread) => return Some(Left::Broken(thread)),
    }
    None
}

enum Meaning {
    Leave,
    Key(Key),
}

#[expect(clippy::wildcard_enum_match_arm, reason = "most keys mean nothing here")]
fn meaning(event: KeyEvent) -> Option<Meaning> {
    let key = match event.code {
        KeyCode::Char('c') if event.modifiers.contains(KeyModifiers::CONTROL) => {
            return Some(Meaning::Leave);
        }
        KeyCode::Char('q') => return Some(Meaning::Leave),
        KeyCode::Up | KeyCode::Char('k') => Key::Up,
        KeyCode::Down | KeyCode::Char('j') => Key::Down,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        KeyCode::Home => Key::Home,
        KeyCode::End => Key::End,
        KeyCode::Tab | KeyCode::Right => Key::NextPane,
        KeyCode::BackTab | KeyCode::Left => Key::PreviousPane,
        KeyCode::Char('s') => Key::Sort,
        KeyCode::Char('?' | 'h') => Key::Help,
        _ => return None,
    };
    Some(Meaning::Key(key))
}

fn interval(text: &str) -> Result<Duration, String> {
    let number: f64 = text.trim_end_matches('s').parse().map_err(|_| "not a number".to_owned())?;
    let interval = Duration::try_from_secs_f64(number).map_err(|error| error.to_string())?;
    if (TOP_INTERVAL_MIN..=TOP_INTERVAL_MAX).contains(&interval) {
        Ok(interval)
    } else {
        let (least, most) = (TOP_INTERVAL_MIN.as_secs_f64(), TOP_INTERVAL_MAX.as_secs());
        Err(format!("from {least} to {most} seconds"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_a_number_of_seconds_within_its_bounds() {
        assert_eq!(interval("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(interval("2s"), Ok(Duration::from_secs(2)));
        for bad in ["", "x", "0", "-1", "NaN", "inf", "21"] {
            assert!(interval(bad).is_err(), "{bad}");
        }
    }
}
