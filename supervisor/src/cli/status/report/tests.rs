use super::*;
use std::collections::BTreeMap;
use tasuki_shared::status::MoveStatus;
use tasuki_shared::status::{AudienceStatus, HlsStatus, MemoryStatus, Totals};
use tasuki_shared::status::{DeathSession, DeathStatus};

fn status() -> Status {
    let worker = WorkerStatus {
        slot: "w0".into(),
        role: "worker".into(),
        state: "serving".into(),
        generation: 7,
        pid: 4242,
        age_ms: 3_720_000,
        sessions: 1,
        streams_max: 8,
        lobby: 0,
        footprint_bytes: 180 << 20,
        rss_bytes: 240 << 20,
        lazy_free_bytes: 3 << 20,
        cpu_percent: 87.4,
        spare_codecs: 0,
        memory: Some(MemoryStatus {
            soft_limit_bytes: 256 << 20,
            time_to_limit_ms: Some(754_000),
            verdict: "watch".into(),
            ..MemoryStatus::default()
        }),
        last_death: Some("killed by signal 9".into()),
        restarts: 1,
    };
    let standby = WorkerStatus {
        slot: "w1".into(),
        state: "standby".into(),
        generation: 8,
        pid: 4243,
        sessions: 0,
        spare_codecs: 12,
        memory: None,
        last_death: None,
        restarts: 0,
        ..worker.clone()
    };
    let record = |rung: &str, state: &str, bytes, last_error: &str| RecordStatus {
        rung: rung.into(),
        state: state.into(),
        path: format!("/rec/cam-1_{rung}.mp4"),
        bytes,
        last_error: last_error.into(),
    };
    let rung = |label: &str, state: &str, width, height| RungStatus {
        label: label.into(),
        state: state.into(),
        width,
        height,
        frames: 1800,
        bytes: 18 << 20,
        encode_us: 0,
    };
    let session = SessionStatus {
        id: "65f0-12".into(),
        name: "cam-1".into(),
        app: "live".into(),
        worker: "w0".into(),
        peer: "127.0.0.1:50123".into(),
        state: "live".into(),
        uptime_ms: 61_000,
        video_codec: "h264".into(),
        audio_codec: "aac".into(),
        width: 1920,
        height: 1080,
        fps: 30.0,
        in_bitrate_bps: 5_120_000,
        out_bitrate_bps: 9_300_000,
        frames_in: 1830,
        frames_out: 1828,
        frames_dropped: 2,
        lag_ms: 66,
        flv_viewers: 2,
        rungs: vec![rung("source", "passing", 1920, 1080), rung("720p", "dropped", 1280, 720)],
        pushes: vec![PushStatus {
            rung: "720p".into(),
            to: "origin:1935/live".into(),
            state: "backoff".into(),
            sent_bytes: 17 << 20,
            messages: 4000,
            reconnects: 2,
            skipped: 0,
            last_error: "cannot connect: \x1b[2Jrefused".into(),
        }],
        records: vec![
            record("source", "recording", 9 << 20, ""),
            record("720p", "stopped", 4 << 20, "disk full"),
        ],
        hls: vec![hls("source", "left", 0), hls("720p", "packaging", 2)],
        ..SessionStatus::default()
    };
    let waiting = SessionStatus {
        id: "65f0-13".into(),
        state: "lobby".into(),
        worker: "w0".into(),
        peer: "[::1]:40000".into(),
        ..SessionStatus::default()
    };
    Status {
        version: "0.1.0".into(),
        pid: 4200,
        uptime_ms: 7_200_000,
        state: "serving".into(),
        listeners: vec!["127.0.0.1:1935".into(), "[::1]:1935".into()],
        viewers: vec!["http://127.0.0.1:8935".into()],
        consoles: vec!["127.0.0.1:8936".into()],
        config: "embedded defaults".into(),
        streams_free: 15,
        cpu_percent: 43.6,
        workers: vec![worker, standby],
        sessions: vec![session, waiting],
        recycles: vec![],
        deaths: Vec::new(),
        refusals: BTreeMap::from([("stream key not accepted".into(), 3)]),
        sessions_total: 12,
        frames_lost: 0,
        ignored_frames: 0,
        totals: Totals::default(),
        audience: AudienceStatus {
            connections: 9,
            waits: 4,
            flv_viewers: 2,
            refused: BTreeMap::from([
                ("connections_max".into(), 0),
                ("connections_per_address_max".into(), 7),
            ]),
            answers: BTreeMap::from([("2xx".into(), 1200), ("4xx".into(), 30)]),
            sent_bytes: 3 << 30,
            flv_jumps: 1,
            flv_stalled: 0,
        },
    }
}

fn hls(rung: &str, state: &str, discontinuities: u64) -> HlsStatus {
    HlsStatus {
        rung: rung.into(),
        state: state.into(),
        segment: 1_790_000_030,
        part: 4,
        parts: 303,
        discontinuities,
        ..HlsStatus::default()
    }
}

fn drawn(width: Option<usize>) -> String {
    draw(&status(), Screen { width, paint: Paint::Plain })
}

#[test]
fn the_report_shows_workers_and_sessions_with_their_parts_indented() {
    let expected = include_str!("snapshot.txt");
    let text = drawn(None);
    assert_eq!(text, expected, "\n{text}");
}

#[test]
fn the_report_keeps_within_the_terminal_and_says_what_it_left_out() {
    for width in [60, 80, 120, 200] {
        let text = drawn(Some(width));
        let tables = text.lines().skip_while(|line| !line.is_empty());
        let tables = tables.filter(|line| !line.starts_with('('));
        let widest = tables.map(|line| line.chars().count()).max().unwrap();
        assert!(widest <= width, "{width}\n{text}");
    }
    let text = drawn(Some(80));
    assert!(text.contains("left out: the terminal is too narrow"), "{text}");
    assert!(text.contains("cam-1") && text.contains("DROPPED"), "{text}");
}

#[test]
fn an_idle_server_says_so() {
    let idle = Status { workers: vec![], sessions: vec![], ..status() };
    let text = draw(&idle, Screen { width: None, paint: Paint::Plain });
    assert!(text.contains("no workers") && text.contains("no sessions"), "{text}");
}

#[test]
fn colour_changes_nothing_but_colour() {
    let coloured = draw(&status(), Screen { width: None, paint: Paint::Colours });
    let mut plain = String::new();
    for (position, part) in coloured.split("\x1b[").enumerate() {
        let rest = if position == 0 { part } else { part.split_once('m').unwrap().1 };
        plain.push_str(rest);
    }
    assert_eq!(plain, drawn(None));
}

#[test]
fn recycles_are_shown_with_the_moves_they_are_made_of() {
    let moved = MoveStatus {
        session: "65f0-12".into(),
        name: "cam-1".into(),
        from: "w0/g7".into(),
        to: "w1/g8".into(),
        outcome: "done".into(),
        pause_us: 740,
        frames_lost: 0,
    };
    let recycle = RecycleStatus {
        id: 3,
        worker: "w0".into(),
        generation: 7,
        reason: "operator".into(),
        detail: "new kernel".into(),
        outcome: "done".into(),
        took_ms: 2100,
        footprint_before_bytes: 180 << 20,
        footprint_after_bytes: 60 << 20,
        moves: vec![moved],
        evidence: Some("/var/lib/tasuki/evidence/1-recycle3-g7".into()),
        ..RecycleStatus::default()
    };
    let status = Status { recycles: vec![recycle], ..status() };
    let text = draw(&status, Screen { width: None, paint: Paint::Plain });
    let lines: Vec<_> = text.lines().rev().take(4).collect();
    assert_eq!(
        lines,
        [
            "    evidence in /var/lib/tasuki/evidence/1-recycle3-g7",
            "    65f0-12  cam-1  w0/g7  w1/g8  done     0.7ms     0",
            "      3  w0/g7   operator  done     2.1s  180.0M  60.0M      1  new kernel",
            "RECYCLE  WORKER  REASON    OUTCOME  TOOK  BEFORE  AFTER  MOVES  DETAIL",
        ]
    );
}

/// A death is shown with its cause and where its streams went; one who is suspected is told of
/// under its session.
#[test]
fn deaths_are_shown_with_what_became_of_their_streams() {
    let stream = |name: &str, outcome: &str, suspicion: &str| DeathSession {
        session: "65f0-12".into(),
        name: name.into(),
        outcome: outcome.into(),
        suspicion: suspicion.into(),
    };
    let death = DeathStatus {
        unix_ms: 0,
        worker: "w0/g6".into(),
        role: "worker".into(),
        cause: "fault signal 11".into(),
        sessions: vec![
            stream("cam-1", "w1/g8", ""),
            stream("cam-2", "ended: again and again", "in quarantine"),
        ],
    };
    let mut status = Status { deaths: vec![death], ..status() };
    status.sessions[0].suspicion = "in quarantine".into();
    let text = draw(&status, Screen { width: None, paint: Paint::Plain });
    let lines: Vec<_> = text.lines().rev().take(3).collect();
    assert!(lines[0].starts_with("    65f0-12  cam-2  ended: again and again"), "{text}");
    assert!(lines[1].starts_with("    65f0-12  cam-1  w1/g8"), "{text}");
    assert!(
        lines[2].starts_with("w0/g6  worker") && lines[2].contains("fault signal 11"),
        "{text}"
    );
    assert!(text.contains("    suspected"), "{text}");
}
