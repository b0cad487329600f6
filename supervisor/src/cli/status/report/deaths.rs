//! The last deaths of processes that nobody had planned, with what became of their streams.

use super::super::super::human;
use super::super::super::table::{Cell, Colour, Screen, Table};
use super::{INDENT, blank, left, right, tell_hidden};
use tasuki_shared::clock;
use tasuki_shared::status::DeathStatus;

const SHOWN_MAX: usize = 6;

/// The newest few, each with its streams below it.
pub fn draw(deaths: &[DeathStatus], screen: Screen, lines: &mut Vec<String>) {
    let now_ms = clock::unix_ms();
    let mut table = Table::new([
        left("DEATH", 0),
        left("ROLE", 2),
        right("AGO", 1),
        left("CAUSE", 0),
        right("STREAMS", 1),
    ]);
    let width = screen.width.map(|width| width.saturating_sub(INDENT.len()));
    let mut streams =
        Table::new([left("STREAM", 1), left("NAME", 0), left("WENT TO", 0), left("SUSPECTED", 2)]);
    let shown = &deaths[..deaths.len().min(SHOWN_MAX)];
    for death in shown {
        table.push([
            Cell::plain(&death.worker),
            Cell::plain(&death.role),
            Cell::plain(human::age(now_ms.saturating_sub(death.unix_ms))),
            Cell::new(&death.cause, Colour::Caution),
            Cell::plain(death.sessions.len().to_string()),
        ]);
        for stream in &death.sessions {
            let ended = stream.outcome.starts_with("ended");
            let outcome =
                Cell::new(&stream.outcome, if ended { Colour::Bad } else { Colour::Good });
            let suspicion = match stream.suspicion.as_str() {
                "" => blank(),
                words => Cell::new(words, Colour::Bad),
            };
            streams.push([
                Cell::plain(&stream.session),
                Cell::plain(&stream.name),
                outcome,
                suspicion,
            ]);
        }
    }
    let (heading, rows, hidden) = table.render(screen);
    let (_, stream_lines, _) = streams.render(Screen { width, paint: screen.paint });
    let mut stream_lines = stream_lines.into_iter();
    lines.push(heading);
    for (row, death) in rows.into_iter().zip(shown) {
        lines.push(row);
        let of_it = stream_lines.by_ref().take(death.sessions.len());
        lines.extend(of_it.map(|line| format!("{INDENT}{line}")));
    }
    tell_hidden(&hidden, lines);
}
