//! A `Status` as text: a headline, the workers, the sessions with their rungs, pushes and
//! recording under each.

mod deaths;

use super::super::human;
use super::super::table::{Align, Cell, Colour, Column, Paint, Screen, Table, bold};
use tasuki_shared::status::{
    AudienceStatus, HlsStatus, PushStatus, RecordStatus, RecycleStatus, RungStatus, SessionStatus,
    Status, WorkerStatus,
};

const INDENT: &str = "    ";

pub(super) fn draw(status: &Status, screen: Screen) -> String {
    let mut lines = headline(status, screen.paint);
    lines.push(String::new());
    if status.workers.is_empty() {
        lines.push("no workers".to_owned());
    } else {
        draw_workers(&status.workers, screen, &mut lines);
    }
    lines.push(String::new());
    if status.sessions.is_empty() {
        lines.push("no sessions".to_owned());
    } else {
        draw_sessions(&status.sessions, screen, &mut lines);
    }
    if !status.recycles.is_empty() {
        lines.push(String::new());
        draw_recycles(&status.recycles, screen, &mut lines);
    }
    if !status.deaths.is_empty() {
        lines.push(String::new());
        deaths::draw(&status.deaths, screen, &mut lines);
    }
    lines.push(String::new());
    lines.join("\n")
}

fn headline(status: &Status, paint: Paint) -> Vec<String> {
    let first = format!(
        "tasuki {} pid {}: {} for {} on {}",
        status.version,
        status.pid,
        status.state,
        human::age(status.uptime_ms),
        status.listeners.join(", "),
    );
    let second = format!(
        "config {}; {} streams free; processor {:.0}%; {} sessions since start",
        status.config, status.streams_free, status.cpu_percent, status.sessions_total,
    );
    let mut lines = vec![bold(&human::printable(&first), paint), human::printable(&second)];
    if !status.viewers.is_empty() {
        let path = "/live/APP/NAME/index.m3u8";
        let viewers = format!("viewers on {}, at {path}", status.viewers.join(", "));
        lines.push(human::printable(&viewers));
        lines.extend(audience(&status.audience));
    }
    if !status.consoles.is_empty() {
        let pages = status.consoles.iter().map(|address| format!("http://{address}/"));
        let pages = pages.collect::<Vec<_>>().join(", ");
        lines.push(human::printable(&format!("console on {pages}")));
    }
    if status.frames_lost > 0 {
        let count = status.frames_lost;
        lines.push(format!("lost: {count} frames, for want of a keyframe to go on from"));
    }
    if !status.refusals.is_empty() {
        let counts = status.refusals.iter().map(|(reason, count)| format!("{reason} {count}×"));
        let counts = counts.collect::<Vec<_>>().join("; ");
        lines.push(human::printable(&format!("refused: {counts}")));
    }
    lines
}

/// Who watches; and in a line of its own, who was not served.
fn audience(audience: &AudienceStatus) -> Vec<String> {
    let AudienceStatus {
        connections,
        waits,
        flv_viewers,
        refused,
        answers,
        sent_bytes,
        flv_jumps,
        flv_stalled,
    } = audience;
    let answered: u64 = answers.values().sum();
    let sent = human::bytes(*sent_bytes);
    let mut lines = vec![format!(
        "watching: {connections} connections, {flv_viewers} viewers of FLV, {waits} requests wait; \
         {answered} answered, {sent} sent since start"
    )];
    let refused = refused.iter().map(|(setting, count)| (format!("refused by {setting}"), *count));
    let slow = [("overtaken", *flv_jumps), ("closed for taking nothing", *flv_stalled)];
    let slow = slow.map(|(what, count)| (format!("FLV {what}"), count));
    let all = refused.chain(slow).filter(|(_, count)| *count > 0);
    let all: Vec<_> = all.map(|(what, count)| format!("{what} {count}×")).collect();
    if !all.is_empty() {
        lines.push(human::printable(&format!("viewers: {}", all.join("; "))));
    }
    lines
}

fn draw_workers(workers: &[WorkerStatus], screen: Screen, lines: &mut Vec<String>) {
    let mut table = Table::new([
        left("SLOT", 0),
        left("ROLE", 5),
        left("STATE", 0),
        right("GEN", 3),
        right("PID", 1),
        right("AGE", 2),
        right("SESSIONS", 0),
        right("LOBBY", 7),
        right("CPU", 1),
        right("FOOTPRINT", 2),
        right("RSS", 5),
        right("LAZYFREE", 7),
        right("SPARES", 6),
        right("LIMIT", 4),
        right("TO LIMIT", 5),
        left("MEMORY", 3),
        right("RESTARTS", 4),
        left("LAST DEATH", 8),
    ]);
    for worker in workers {
        let memory = worker.memory.as_ref();
        let left_ms = memory.and_then(|memory| memory.time_to_limit_ms);
        let verdict = memory.map_or("", |memory| memory.verdict.as_str());
        table.push([
            Cell::plain(&worker.slot),
            Cell::plain(&worker.role),
            Cell::new(&worker.state, worker_colour(&worker.state)),
            Cell::plain(worker.generation.to_string()),
            Cell::plain(worker.pid.to_string()),
            Cell::plain(human::age(worker.age_ms)),
            Cell::plain(format!("{}/{}", worker.sessions, worker.streams_max)),
            Cell::plain(worker.lobby.to_string()),
            Cell::plain(format!("{:.0}%", worker.cpu_percent)),
            Cell::plain(human::bytes(worker.footprint_bytes)),
            Cell::plain(human::bytes(worker.rss_bytes)),
            Cell::plain(human::bytes(worker.lazy_free_bytes)),
            Cell::plain(worker.spare_codecs.to_string()),
            Cell::plain(memory.map_or_else(String::new, |m| human::bytes(m.soft_limit_bytes))),
            Cell::plain(left_ms.map_or_else(String::new, human::age)),
            Cell::new(verdict, verdict_colour(verdict)),
            counted(worker.restarts.into(), Colour::Caution),
            Cell::plain(worker.last_death.as_deref().unwrap_or_default()),
        ]);
    }
    let (heading, rows, hidden) = table.render(screen);
    lines.push(heading);
    lines.extend(rows);
    tell_hidden(&hidden, lines);
}

fn draw_sessions(sessions: &[SessionStatus], screen: Screen, lines: &mut Vec<String>) {
    let mut table = Table::new([
        left("SESSION", 1),
        left("NAME", 0),
        left("APP", 8),
        left("WORKER", 3),
        left("PEER", 4),
        left("STATE", 0),
        left("CODEC", 3),
        left("PICTURE", 2),
        right("IN", 0),
        right("OUT", 0),
        right("FRAMES IN", 5),
        right("FRAMES OUT", 5),
        right("DROPPED", 1),
        right("LAG", 1),
        right("FLV", 3),
        right("UPTIME", 2),
    ]);
    // Rungs, pushes and recordings align over all sessions, so the eye can run down a column.
    let width = screen.width.map(|width| width.saturating_sub(INDENT.len()));
    let mut parts = Table::new([
        left("PART", 0),
        left("LABEL", 0),
        left("STATE", 0),
        left("WHERE", 1),
        right("BYTES", 2),
        right("COUNT", 3),
        left("NOTE", 4),
    ]);
    let mut parts_of = Vec::new();
    for session in sessions {
        table.push(session_row(session));
        let rows: Vec<_> = part_rows(session);
        parts_of.push(rows.len());
        for row in rows {
            parts.push(row);
        }
    }
    let (heading, rows, hidden) = table.render(screen);
    let (_, part_lines, _) = parts.render(Screen { width, paint: screen.paint });
    let mut part_lines = part_lines.into_iter();
    lines.push(heading);
    for (row, count) in rows.into_iter().zip(parts_of) {
        lines.push(row);
        lines.extend(part_lines.by_ref().take(count).map(|part| format!("{INDENT}{part}")));
    }
    tell_hidden(&hidden, lines);
}

/// The first few: those under way, then the newest.
fn draw_recycles(recycles: &[RecycleStatus], screen: Screen, lines: &mut Vec<String>) {
    const SHOWN_MAX: usize = 6;
    let mut table = Table::new([
        right("RECYCLE", 0),
        left("WORKER", 0),
        left("REASON", 2),
        left("OUTCOME", 0),
        right("TOOK", 1),
        right("BEFORE", 3),
        right("AFTER", 3),
        right("MOVES", 1),
        left("DETAIL", 4),
    ]);
    let width = screen.width.map(|width| width.saturating_sub(INDENT.len()));
    let mut moves = Table::new([
        left("MOVE", 0),
        left("NAME", 0),
        left("FROM", 2),
        left("TO", 2),
        left("OUTCOME", 0),
        right("PAUSE", 1),
        right("LOST", 3),
    ]);
    let shown = &recycles[..recycles.len().min(SHOWN_MAX)];
    for recycle in shown {
        table.push([
            Cell::plain(recycle.id.to_string()),
            Cell::plain(human::replaced(recycle)),
            Cell::plain(&recycle.reason),
            Cell::new(&recycle.outcome, outcome_colour(&recycle.outcome)),
            Cell::plain(human::lag(recycle.took_ms)),
            Cell::plain(human::bytes(recycle.footprint_before_bytes)),
            Cell::plain(human::bytes(recycle.footprint_after_bytes)),
            Cell::plain(recycle.moves.len().to_string()),
            Cell::plain(&recycle.detail),
        ]);
        for moved in &recycle.moves {
            moves.push([
                Cell::plain(&moved.session),
                Cell::plain(&moved.name),
                Cell::plain(&moved.from),
                Cell::plain(&moved.to),
                Cell::new(&moved.outcome, outcome_colour(&moved.outcome)),
                Cell::plain(human::pause(moved.pause_us)),
                counted(moved.frames_lost, Colour::Bad),
            ]);
        }
    }
    let (heading, rows, hidden) = table.render(screen);
    let (_, move_lines, _) = moves.render(Screen { width, paint: screen.paint });
    let mut move_lines = move_lines.into_iter();
    lines.push(heading);
    for (row, recycle) in rows.into_iter().zip(shown) {
        lines.push(row);
        let moves = move_lines.by_ref().take(recycle.moves.len());
        lines.extend(moves.map(|line| format!("{INDENT}{line}")));
        // Whole on any screen: it is there to be copied.
        if let Some(path) = &recycle.evidence {
            lines.push(format!("{INDENT}evidence in {}", human::printable(path)));
        }
    }
    tell_hidden(&hidden, lines);
}

fn session_row(session: &SessionStatus) -> [Cell; 16] {
    let codec = [session.video_codec.as_str(), session.audio_codec.as_str()];
    let codec: Vec<_> = codec.into_iter().filter(|codec| !codec.is_empty()).collect();
    let picture = match (session.width, session.height) {
        (0, _) | (_, 0) => String::new(),
        (width, height) => format!("{width}x{height}@{:.0}", session.fps),
    };
    [
        Cell::plain(&session.id),
        Cell::plain(&session.name),
        Cell::plain(&session.app),
        Cell::plain(&session.worker),
        Cell::plain(&session.peer),
        Cell::new(session_state(session), session_colour(session)),
        Cell::plain(codec.join("+")),
        Cell::plain(picture),
        Cell::plain(human::bitrate(session.in_bitrate_bps)),
        Cell::plain(human::bitrate(session.out_bitrate_bps)),
        Cell::plain(session.frames_in.to_string()),
        Cell::plain(session.frames_out.to_string()),
        counted(session.frames_dropped, Colour::Bad),
        Cell::new(human::lag(session.lag_ms), lag_colour(session.lag_ms)),
        Cell::plain(session.flv_viewers.to_string()),
        Cell::plain(human::age(session.uptime_ms)),
    ]
}

fn part_rows(session: &SessionStatus) -> Vec<[Cell; 7]> {
    let rungs = session.rungs.iter().map(rung_row);
    let pushes = session.pushes.iter().map(push_row);
    let records = session.records.iter().map(record_row);
    let hls = session.hls.iter().map(hls_row);
    let suspicion = Some(&session.suspicion).filter(|words| !words.is_empty());
    let outputs = pushes.chain(records).chain(hls);
    rungs.chain(outputs).chain(suspicion.map(|words| suspicion_row(words))).collect()
}

/// Of deaths of its workers.
fn suspicion_row(words: &str) -> [Cell; 7] {
    let words = Cell::new(words, Colour::Bad);
    [Cell::plain("suspected"), blank(), blank(), blank(), blank(), blank(), words]
}

fn rung_row(rung: &RungStatus) -> [Cell; 7] {
    let picture = match (rung.width, rung.height) {
        (0, _) | (_, 0) => String::new(),
        (width, height) => format!("{width}x{height}"),
    };
    [
        Cell::plain("rung"),
        Cell::plain(&rung.label),
        Cell::new(&rung.state, part_colour(&rung.state)),
        Cell::plain(picture),
        Cell::plain(human::bytes(rung.bytes)),
        Cell::plain(format!("{} frames", rung.frames)),
        blank(),
    ]
}

fn push_row(push: &PushStatus) -> [Cell; 7] {
    let mut notes = Vec::new();
    if push.reconnects > 0 {
        notes.push(format!("{} reconnects", push.reconnects));
    }
    if push.skipped > 0 {
        notes.push(format!("{} skipped", push.skipped));
    }
    if !push.last_error.is_empty() {
        notes.push(push.last_error.clone());
    }
    [
        Cell::plain("push"),
        Cell::plain(&push.rung),
        Cell::new(&push.state, part_colour(&push.state)),
        Cell::plain(&push.to),
        Cell::plain(human::bytes(push.sent_bytes)),
        Cell::plain(format!("{} messages", push.messages)),
        note(&notes),
    ]
}

fn record_row(record: &RecordStatus) -> [Cell; 7] {
    let notes: Vec<_> =
        Some(&record.last_error).filter(|error| !error.is_empty()).into_iter().cloned().collect();
    let colour = if notes.is_empty() { Colour::Plain } else { Colour::Bad };
    [
        Cell::plain("record"),
        Cell::plain(&record.rung),
        Cell::new(&record.state, colour),
        Cell::plain(&record.path),
        Cell::plain(human::bytes(record.bytes)),
        blank(),
        note(&notes),
    ]
}

fn hls_row(hls: &HlsStatus) -> [Cell; 7] {
    let mut notes = Vec::new();
    if hls.discontinuities > 0 {
        notes.push(format!("{} discontinuities", hls.discontinuities));
    }
    if hls.forced_cuts > 0 {
        notes.push(format!("{} forced cuts", hls.forced_cuts));
    }
    if hls.gaps > 0 {
        notes.push(format!("{} gaps", hls.gaps));
    }
    if !hls.last_error.is_empty() {
        notes.push(hls.last_error.clone());
    }
    let colour = if hls.state == "stopped" { Colour::Bad } else { Colour::Plain };
    let newest = match hls.segment {
        0 => String::new(),
        segment => format!("segment {segment}, part {}", hls.part),
    };
    [
        Cell::plain("hls"),
        Cell::plain(&hls.rung),
        Cell::new(&hls.state, colour),
        Cell::plain(newest),
        blank(),
        Cell::plain(format!("{} parts", hls.parts)),
        note(&notes),
    ]
}

fn note(notes: &[String]) -> Cell {
    if notes.is_empty() { blank() } else { Cell::new(notes.join(", "), Colour::Caution) }
}

/// A cell that has nothing to say, as against one whose value is missing.
fn blank() -> Cell {
    Cell::plain(" ")
}

fn counted(count: u64, colour: Colour) -> Cell {
    Cell::new(count.to_string(), if count == 0 { Colour::Plain } else { colour })
}

pub(in crate::cli) fn worker_colour(state: &str) -> Colour {
    match state {
        "serving" | "standby" => Colour::Good,
        "starting" | "draining" | "quarantine" => Colour::Caution,
        "backoff" => Colour::Bad,
        stuck if stuck.starts_with("stuck") => Colour::Bad,
        _ => Colour::Plain,
    }
}

fn outcome_colour(outcome: &str) -> Colour {
    if outcome == "done" {
        Colour::Good
    } else if outcome.starts_with("failed") {
        Colour::Bad
    } else {
        Colour::Caution
    }
}

/// Of the memory policy; what it holds back is what an operator has to look at.
fn verdict_colour(verdict: &str) -> Colour {
    match verdict {
        "fine" => Colour::Good,
        "watch" | "purging" | "recycle" => Colour::Caution,
        "evacuate" => Colour::Bad,
        held if held.starts_with("held back") => Colour::Bad,
        _ => Colour::Plain,
    }
}

/// With what an operator should know before a move or a death.
pub(in crate::cli) fn session_state(session: &SessionStatus) -> String {
    let mut state = session.state.clone();
    if session.no_anchor {
        state.push_str(", no anchor");
    }
    if session.frames_lost > 0 {
        state.push_str(&format!(", {} lost", session.frames_lost));
    }
    state
}

pub(in crate::cli) fn session_colour(session: &SessionStatus) -> Colour {
    if session.no_anchor {
        return Colour::Caution;
    }
    match session.state.as_str() {
        "live" => Colour::Good,
        "lobby" | "authorizing" | "ending" => Colour::Caution,
        _ => Colour::Plain,
    }
}

pub(in crate::cli) fn lag_colour(lag_ms: u64) -> Colour {
    match lag_ms {
        0..1000 => Colour::Plain,
        1000..4000 => Colour::Caution,
        4000.. => Colour::Bad,
    }
}

fn part_colour(state: &str) -> Colour {
    match state {
        "passing" | "encoding" | "live" => Colour::Good,
        "dialing" | "handshake" => Colour::Caution,
        "dropped" | "backoff" => Colour::Bad,
        _ => Colour::Plain,
    }
}

fn tell_hidden(hidden: &[&str], lines: &mut Vec<String>) {
    if !hidden.is_empty() {
        lines.push(format!("({} left out: the terminal is too narrow)", hidden.join(", ")));
    }
}

const fn left(heading: &'static str, rank: u8) -> Column {
    Column { heading, align: Align::Left, rank }
}

const fn right(heading: &'static str, rank: u8) -> Column {
    Column { heading, align: Align::Right, rank }
}

#[cfg(test)]
mod tests;
