//! The rows of the three panes.

use super::super::human;
use super::super::status::report::{lag_colour, session_colour, session_state, worker_colour};
use super::super::table::{Align, Colour};
use super::bar::{Bar, Spark, level};
use super::grid::{Cell, Column, Drawing, Room, Row};
use super::model::{Model, is_under_way};
use super::view::{Content, colour, session_order, worker_order};
use tasuki_shared::status::{
    AudienceStatus, MemoryStatus, MoveStatus, RecycleStatus, SessionStatus, WorkerStatus,
};

const WORKERS: [Column; 14] = [
    left("SLOT", 0, 8),
    right("GEN", 7, 7),
    left("STATE", 1, 8),
    right("AGE", 6, 6),
    right("SESS", 2, 7),
    Column { heading: "MEMORY", align: Align::Left, rank: 0, room: Room::Flexible(12, 40) },
    right("FOOTPRINT", 0, 9),
    right("LAZYFREE", 8, 8),
    right("RSS", 8, 8),
    right("SPARES", 9, 6),
    Column { heading: "HISTORY", align: Align::Left, rank: 5, room: Room::Flexible(8, 60) },
    right("SLOPE", 4, 10),
    right("LIMIT IN", 3, 8),
    left("VERDICT", 0, 24),
];

pub(super) fn workers(model: &Model) -> Content {
    let full = model.bar_bytes();
    let workers = model.workers();
    Content {
        title: format!("WORKERS {} by {}", workers.len(), worker_order(model.worker_order)),
        columns: &WORKERS,
        rows: workers.into_iter().map(|worker| worker_row(model, worker, full)).collect(),
    }
}

fn worker_row(model: &Model, worker: &WorkerStatus, full: u64) -> Row {
    let memory = worker.memory.as_ref();
    let limit = |bytes: u64| Some(bytes).filter(|bytes| *bytes > 0);
    let soft = memory.and_then(|memory| limit(memory.soft_limit_bytes));
    let hard = memory.and_then(|memory| limit(memory.hard_limit_bytes));
    let ink = level(worker.footprint_bytes, soft, hard);
    let spark = Spark { history: model.history(worker), full: soft.unwrap_or(0), ink };
    let verdict = memory.map_or("", |memory| memory.verdict.as_str());
    Row::Cells(vec![
        Cell::plain(&worker.slot),
        Cell::plain(worker.generation.to_string()),
        Cell::new(&worker.state, worker_colour(&worker.state)),
        Cell::plain(human::age(worker.age_ms)),
        Cell::plain(format!("{}/{}", worker.sessions, worker.streams_max)),
        Cell::Drawn(Drawing::Bar(Bar::new(worker, full))),
        Cell::new(human::bytes(worker.footprint_bytes), colour(ink)),
        Cell::plain(human::bytes(worker.lazy_free_bytes)),
        Cell::plain(human::bytes(worker.rss_bytes)),
        Cell::plain(worker.spare_codecs.to_string()),
        Cell::Drawn(Drawing::Spark(spark)),
        Cell::plain(memory.map(slope).unwrap_or_default()),
        Cell::plain(memory.map(|memory| time_to_limit(worker, memory)).unwrap_or_default()),
        Cell::new(verdict, verdict_colour(verdict)),
    ])
}

/// Bytes a minute; nothing for a footprint that does not grow.
fn slope(memory: &MemoryStatus) -> String {
    let per_minute = memory.slope_bytes_per_s * 60.0;
    if !per_minute.is_finite() || per_minute < 1.0 {
        return String::new();
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "positive, and the cast saturates"
    )]
    let per_minute = per_minute as u64;
    format!("{}/min", human::bytes(per_minute))
}

fn time_to_limit(worker: &WorkerStatus, memory: &MemoryStatus) -> String {
    let soft = memory.soft_limit_bytes;
    if soft > 0 && worker.footprint_bytes >= soft {
        return "over".into();
    }
    memory.time_to_limit_ms.map(human::age).unwrap_or_default()
}

fn verdict_colour(verdict: &str) -> Colour {
    match verdict {
        "fine" => Colour::Good,
        "" => Colour::Plain,
        "evacuate" => Colour::Bad,
        _ => Colour::Caution,
    }
}

const RECYCLES: [Column; 11] = [
    right("ID", 0, 8),
    left("WORKER", 0, 12),
    left("REASON", 0, 16),
    left("OUTCOME", 0, 30),
    right("MOVED", 1, 9),
    right("PAUSE", 2, 8),
    right("LOST", 4, 8),
    right("TOOK", 3, 8),
    right("BEFORE", 5, 8),
    right("AFTER", 5, 8),
    left("DETAIL", 6, 60),
];

pub(super) fn recycles(model: &Model) -> Content {
    let recycles = model.recycles();
    let under_way = recycles.iter().filter(|recycle| is_under_way(recycle));
    let over = recycles.iter().filter(|recycle| !is_under_way(recycle));
    let mut rows = Vec::new();
    for recycle in under_way.clone() {
        rows.push(recycle_row(recycle));
        rows.extend(recycle.moves.iter().map(|way| Row::Line(move_line(way))));
    }
    rows.extend(over.map(recycle_row));
    let count = under_way.count();
    Content {
        title: format!("RECYCLES {count} under way, last {}", recycles.len() - count),
        columns: &RECYCLES,
        rows,
    }
}

fn recycle_row(recycle: &RecycleStatus) -> Row {
    let is_over = |way: &&MoveStatus| !matches!(way.outcome.as_str(), "preparing" | "releasing");
    let moved = recycle.moves.iter().filter(is_over).count();
    let pause = recycle.moves.iter().map(|way| way.pause_us).max();
    let lost = recycle.moves.iter().fold(0_u64, |sum, way| sum.saturating_add(way.frames_lost));
    let bytes = |bytes: u64| if bytes == 0 { String::new() } else { human::bytes(bytes) };
    let outcome = match recycle.outcome.as_str() {
        "done" => Colour::Good,
        failed if failed.starts_with("failed") => Colour::Bad,
        _ => Colour::Caution,
    };
    Row::Cells(vec![
        Cell::plain(format!("#{}", recycle.id)),
        Cell::plain(format!("{}/{}", recycle.worker, recycle.generation)),
        Cell::plain(&recycle.reason),
        Cell::new(&recycle.outcome, outcome),
        Cell::plain(format!("{moved}/{}", recycle.moves.len())),
        Cell::plain(pause.map(duration).unwrap_or_default()),
        Cell::new(lost.to_string(), if lost == 0 { Colour::Plain } else { Colour::Bad }),
        Cell::plain(human::lag(recycle.took_ms)),
        Cell::plain(bytes(recycle.footprint_before_bytes)),
        Cell::plain(bytes(recycle.footprint_after_bytes)),
        Cell::plain(&recycle.detail),
    ])
}

fn move_line(way: &MoveStatus) -> String {
    let MoveStatus { session, name, from, to, outcome, pause_us, frames_lost } = way;
    let name = if name.is_empty() { session } else { name };
    let to = if to.is_empty() { "?" } else { to };
    let mut line = format!("    {name}: {from} → {to} {outcome}");
    if *pause_us > 0 {
        line.push_str(", pause ");
        line.push_str(&duration(*pause_us));
    }
    if *frames_lost > 0 {
        line.push_str(&format!(", {frames_lost} frames lost"));
    }
    human::printable(&line)
}

/// `870us`, `4.2ms`, `1.3s`.
fn duration(us: u64) -> String {
    match us {
        0..1000 => format!("{us}us"),
        1000..1_000_000 => format!("{}.{}ms", us / 1000, us / 100 % 10),
        1_000_000.. => human::lag(us / 1000),
    }
}

const SESSIONS: [Column; 13] = [
    left("NAME", 0, 32),
    left("SESSION", 7, 16),
    left("WORKER", 1, 12),
    left("STATE", 1, 24),
    left("CODEC", 4, 16),
    left("PICTURE", 3, 11),
    right("FPS", 2, 5),
    right("IN", 0, 8),
    right("OUT", 0, 8),
    right("LAG", 0, 8),
    right("DROPPED", 0, 9),
    right("FLV", 6, 6),
    right("UPTIME", 5, 7),
];

pub(super) fn sessions(model: &Model) -> Content {
    let sessions = model.sessions();
    let order = session_order(model.session_order);
    let mut title = format!("SESSIONS {} by {order}", sessions.len());
    if let Some(status) = model.status.as_ref().filter(|status| !status.viewers.is_empty()) {
        let AudienceStatus { connections, flv_viewers, .. } = &status.audience;
        title.push_str(&format!(", {connections} connections of viewers, {flv_viewers} watch FLV"));
    }
    Content { title, columns: &SESSIONS, rows: sessions.into_iter().map(session_row).collect() }
}

fn session_row(session: &SessionStatus) -> Row {
    let codec = [session.video_codec.as_str(), session.audio_codec.as_str()];
    let codec: Vec<_> = codec.into_iter().filter(|codec| !codec.is_empty()).collect();
    let picture = match (session.width, session.height) {
        (0, _) | (_, 0) => String::new(),
        (width, height) => format!("{width}x{height}"),
    };
    let fps = if session.fps > 0.0 { format!("{:.0}", session.fps) } else { String::new() };
    let dropped = if session.frames_dropped == 0 { Colour::Plain } else { Colour::Bad };
    Row::Cells(vec![
        Cell::plain(&session.name),
        Cell::plain(&session.id),
        Cell::plain(&session.worker),
        Cell::new(session_state(session), session_colour(session)),
        Cell::plain(codec.join("+")),
        Cell::plain(picture),
        Cell::plain(fps),
        Cell::plain(human::bitrate(session.in_bitrate_bps)),
        Cell::plain(human::bitrate(session.out_bitrate_bps)),
        Cell::new(human::lag(session.lag_ms), lag_colour(session.lag_ms)),
        Cell::new(session.frames_dropped.to_string(), dropped),
        Cell::plain(session.flv_viewers.to_string()),
        Cell::plain(human::age(session.uptime_ms)),
    ])
}

const fn left(heading: &'static str, rank: u8, most: usize) -> Column {
    Column { heading, align: Align::Left, rank, room: Room::Content(most) }
}

const fn right(heading: &'static str, rank: u8, most: usize) -> Column {
    Column { heading, align: Align::Right, rank, room: Room::Content(most) }
}
