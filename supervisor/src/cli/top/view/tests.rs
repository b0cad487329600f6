use super::super::model::Key;
use super::*;
use crate::cli::table::Paint;
use proptest::prelude::*;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use tasuki_shared::status::{
    AudienceStatus, Event, MemoryStatus, MoveStatus, RecycleStatus, SessionStatus, Totals,
    WorkerStatus,
};

const MIB: u64 = 1 << 20;

fn worker(slot: &str, generation: u32, footprint_mib: u64, memory: Option<&str>) -> WorkerStatus {
    let memory = memory.map(|verdict| MemoryStatus {
        soft_limit_bytes: 512 * MIB,
        hard_limit_bytes: 768 * MIB,
        slope_bytes_per_s: 349_525.4,
        time_to_limit_ms: Some(930_000),
        verdict: verdict.into(),
        ..MemoryStatus::default()
    });
    WorkerStatus {
        slot: slot.into(),
        role: "worker".into(),
        state: "serving".into(),
        generation,
        pid: 4242,
        age_ms: 3_720_000,
        sessions: 1,
        streams_max: 8,
        lobby: 0,
        footprint_bytes: footprint_mib * MIB,
        rss_bytes: (footprint_mib + 130) * MIB,
        lazy_free_bytes: 70 * MIB,
        cpu_percent: 40.0,
        spare_codecs: 0,
        memory,
        last_death: None,
        restarts: 0,
    }
}

fn status() -> Status {
    let way = |name: &str, to: &str, outcome: &str, pause_us| MoveStatus {
        session: "5-1".into(),
        name: name.into(),
        from: "w0/7".into(),
        to: to.into(),
        outcome: outcome.into(),
        pause_us,
        frames_lost: 0,
    };
    let moving = RecycleStatus {
        id: 12,
        worker: "w0".into(),
        generation: 7,
        reason: "memory_soft".into(),
        detail: "520.0M over \x1b[2J512.0M".into(),
        outcome: "moving".into(),
        took_ms: 1200,
        footprint_before_bytes: 520 * MIB,
        moves: vec![way("cam-1", "w1/9", "done", 4200), way("cam-2", "", "preparing", 0)],
        ..RecycleStatus::default()
    };
    let done = RecycleStatus {
        id: 11,
        outcome: "done".into(),
        reason: "operator".into(),
        footprint_after_bytes: 90 * MIB,
        moves: vec![way("cam-1", "w0/7", "done", 870)],
        ..moving.clone()
    };
    let session = SessionStatus {
        id: "5-1".into(),
        name: "cam-1".into(),
        worker: "w0/7".into(),
        state: "live".into(),
        video_codec: "h264".into(),
        audio_codec: "aac".into(),
        width: 1920,
        height: 1080,
        fps: 30.0,
        in_bitrate_bps: 5_120_000,
        out_bitrate_bps: 9_300_000,
        frames_dropped: 2,
        lag_ms: 66,
        flv_viewers: 2,
        uptime_ms: 61_000,
        ..SessionStatus::default()
    };
    let lobby = SessionStatus {
        id: "5-2".into(),
        worker: "w1/9".into(),
        state: "lobby".into(),
        ..SessionStatus::default()
    };
    Status {
        version: "0.1.0".into(),
        pid: 4200,
        uptime_ms: 7_200_000,
        state: "serving".into(),
        listeners: vec!["127.0.0.1:1935".into()],
        viewers: vec!["http://127.0.0.1:8935".into()],
        consoles: Vec::new(),
        config: "embedded defaults".into(),
        streams_free: 15,
        cpu_percent: 43.6,
        workers: vec![
            worker("w0", 7, 520, Some("recycle")),
            worker("w1", 9, 180, Some("fine")),
            worker("dialer", 3, 20, None),
        ],
        sessions: vec![lobby, session],
        recycles: vec![moving, done],
        deaths: Vec::new(),
        refusals: std::collections::BTreeMap::new(),
        sessions_total: 12,
        frames_lost: 0,
        ignored_frames: 0,
        totals: Totals::default(),
        audience: AudienceStatus { connections: 9, flv_viewers: 2, ..AudienceStatus::default() },
    }
}

fn model() -> Model {
    let mut model = Model::new();
    for step in 0..30 {
        let mut status = status();
        status.workers[0].footprint_bytes = (230 + step * 10) * MIB;
        model.observe(status);
    }
    model.observe(status());
    model.hear(Event {
        unix_ms: 1_700_000_000_123,
        event: "worker_started".into(),
        session: None,
        name: None,
        worker: Some("w1".into()),
        detail: "generation 9\x1b[2J".into(),
    });
    model
}

fn drawn(model: &mut Model, now: Duration, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    let palette = Palette(Paint::Plain);
    let mut scroll = [0; 3];
    terminal
        .draw(|frame| {
            let area = frame.area();
            scroll = draw(model, now, palette, area, frame.buffer_mut());
        })
        .unwrap();
    model.settle(scroll);
    super::super::text(terminal.backend().buffer())
}

/// Compares with a file beside this one; `TASUKI_BLESS` writes it.
fn matches(name: &str, text: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli/top/view").join(name);
    if std::env::var_os("TASUKI_BLESS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert!(text == expected, "{name} is\n{text}\nexpected\n{expected}");
}

#[test]
fn a_wide_screen_shows_limits_history_moves_under_way_and_sessions() {
    matches("wide.txt", &drawn(&mut model(), Duration::ZERO, 120, 40));
}

#[test]
fn a_small_screen_leaves_columns_out_and_keeps_what_matters() {
    matches("small.txt", &drawn(&mut model(), Duration::ZERO, 80, 24));
}

#[test]
fn a_server_without_a_memory_policy_is_shown_without_limits() {
    let mut status = status();
    for worker in &mut status.workers {
        worker.memory = None;
    }
    status.recycles.clear();
    status.sessions.clear();
    let mut model = Model::new();
    model.observe(status);
    matches("unjudged.txt", &drawn(&mut model, Duration::ZERO, 80, 24));
}

#[test]
fn a_lost_server_is_announced_over_what_was_and_forgotten_when_it_is_back() {
    let mut model = model();
    model.lose(Duration::from_secs(10), "no server listens at s.sock\n  start one");
    model.lose(Duration::from_secs(11), "no server listens at s.sock");
    let text = drawn(&mut model, Duration::from_secs(15), 80, 24);
    let first = text.lines().next().unwrap();
    assert_eq!(first, " NO SERVER for 5s; this is what was; no server listens at s.sock");
    assert!(text.contains("cam-1"), "{text}");
    model.observe(status());
    assert!(!drawn(&mut model, Duration::from_secs(16), 80, 24).contains("NO SERVER"));
}

#[test]
fn keys_turn_panes_sort_them_and_scroll_no_farther_than_there_is_something() {
    let mut model = model();
    model.press(Key::Sort);
    model.press(Key::Sort);
    assert!(drawn(&mut model, Duration::ZERO, 80, 24).contains("WORKERS 3 by time to limit"));
    model.press(Key::NextPane);
    model.press(Key::NextPane);
    model.press(Key::Sort);
    assert!(drawn(&mut model, Duration::ZERO, 80, 24).contains("SESSIONS 2 by lag"));
    model.press(Key::PreviousPane);
    // On a low screen the pane in focus is alone.
    model.press(Key::End);
    let low = drawn(&mut model, Duration::ZERO, 80, 7);
    assert!(low.contains("RECYCLES 1 under way, last 1, lines 3-4 of 4"), "{low}");
    assert_eq!(model.scroll(Pane::Recycles), 2);
    model.press(Key::Up);
    assert!(drawn(&mut model, Duration::ZERO, 80, 7).contains("lines 2-3 of 4"));
    model.press(Key::Help);
    assert!(drawn(&mut model, Duration::ZERO, 80, 24).contains("LazyFree: the kernel takes it"));
}

#[test]
fn the_parts_of_the_bar_have_colours_of_their_own_and_none_where_none_are_wanted() {
    use ratatui::style::Color;
    let colours = |paint| {
        let area = Rect::new(0, 0, 120, 40);
        let mut buffer = Buffer::empty(area);
        draw(&model(), Duration::ZERO, Palette(paint), area, &mut buffer);
        let of = |symbol: &str| {
            let cell = buffer.content.iter().rev().find(|cell| cell.symbol() == symbol);
            cell.map(|cell| cell.fg)
        };
        [of("█"), of("▒"), of("░")]
    };
    let painted = colours(Paint::Colours);
    assert_eq!(painted[1..], [Some(Color::Blue), Some(Color::DarkGray)]);
    assert_eq!(colours(Paint::Plain), [Some(Color::Reset); 3]);
}

/// Text as others may send it.
fn foreign() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z0-9.-]{0,12}", "\\PC{0,40}", ".{0,20}", Just("\x1b[2J\u{9b}\u{202e}".into())]
}

prop_compose! {
    fn any_worker()(
        words in [foreign(), foreign(), foreign()],
        bytes in any::<[u64; 5]>(),
        counts in any::<[u32; 3]>(),
        slope in any::<f64>(),
        limit in any::<Option<u64>>(),
        is_judged in any::<bool>(),
    ) -> WorkerStatus {
        let [slot, state, verdict] = words;
        let mut worker = worker(&slot, counts[0], 0, is_judged.then_some(&verdict));
        worker.state = state;
        (worker.sessions, worker.streams_max) = (counts[1], counts[2]);
        [worker.footprint_bytes, worker.rss_bytes, worker.lazy_free_bytes, ..] = bytes;
        if let Some(memory) = &mut worker.memory {
            (memory.soft_limit_bytes, memory.hard_limit_bytes) = (bytes[3], bytes[4]);
            (memory.slope_bytes_per_s, memory.time_to_limit_ms) = (slope, limit);
        }
        worker
    }
}

prop_compose! {
    fn any_status()(
        workers in prop::collection::vec(any_worker(), 0..8),
        words in prop::collection::vec((foreign(), foreign(), any::<u64>()), 0..12),
        float in any::<f32>(),
    ) -> Status {
        let mut status = Status { workers, cpu_percent: float, ..status() };
        let (recycle, session) = (status.recycles[0].clone(), status.sessions[0].clone());
        for (one, other, number) in words {
            let mut recycle = recycle.clone();
            recycle.moves[0].outcome.clone_from(&one);
            recycle.moves[1].frames_lost = number;
            (recycle.took_ms, recycle.moves[0].pause_us) = (number, number);
            (recycle.outcome, recycle.detail) = (one.clone(), other.clone());
            status.recycles.push(recycle);
            let session = SessionStatus { fps: float, lag_ms: number, ..session.clone() };
            status.sessions.push(SessionStatus { name: one, worker: other, ..session });
        }
        status
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn no_status_and_no_size_panics_or_steers_the_terminal(
        status in any_status(),
        size in prop_oneof![(0_u16..30, 0_u16..12), (0_u16..250, 0_u16..90)],
        keys in prop::collection::vec(0_usize..10, 0..20),
        lost in prop::option::of(foreign()),
    ) {
        const KEYS: [Key; 10] = [
            Key::Up, Key::Down, Key::PageUp, Key::PageDown, Key::Home, Key::End, Key::NextPane,
            Key::PreviousPane, Key::Sort, Key::Help,
        ];
        let mut model = Model::new();
        model.observe(status.clone());
        model.observe(status);
        let mut now = Duration::ZERO;
        if let Some(reason) = lost {
            model.lose(Duration::from_secs(5), &reason);
        }
        for key in keys {
            model.press(KEYS[key]);
            let text = drawn(&mut model, now, size.0, size.1);
            prop_assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
            now += Duration::from_secs(1);
        }
        let area = Rect::new(3, 2, size.0, size.1);
        let mut buffer = Buffer::empty(area);
        draw(&model, now, Palette(Paint::Colours), area, &mut buffer);
        lines_needed(&model);
    }
}
