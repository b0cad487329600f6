//! A status as Prometheus reads it (text format 0.0.4), names and units by its conventions:
//! <https://prometheus.io/docs/practices/naming/>. Pure.
//!
//! What counts since the start of the server or of a stream ends in `_total`; streams are told apart
//! by application and public name, workers by their slot, which outlives the process in it.

mod delivery;
mod page;

use page::{Labels, Page, Samples, float};
use std::collections::BTreeMap;
use tasuki_shared::status::{
    HlsStatus, MemoryStatus, PushStatus, RecordStatus, RungStatus, SessionStatus, Status,
    WorkerStatus,
};

/// Content-Type of what [`render`] gives.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// Everything that a status says in numbers.
pub fn render(status: &Status) -> Result<String, prometheus::Error> {
    let mut page = Page::new();
    node(&mut page, status);
    totals(&mut page, status);
    workers(&mut page, &status.workers);
    delivery::render(&mut page, &status.audience);
    let live: Vec<&SessionStatus> =
        status.sessions.iter().filter(|it| it.state == "live" && !it.name.is_empty()).collect();
    streams(&mut page, &live);
    outputs(&mut page, &live);
    page.render()
}

fn node(page: &mut Page, status: &Status) {
    let version = vec![("version", status.version.clone())];
    page.gauge("tasuki_build_info", "Version of the server.", vec![(version, 1.0)]);
    page.gauge(
        "tasuki_uptime_seconds",
        "Time since the supervisor started.",
        one(seconds(status.uptime_ms)),
    );
    let serving = f64::from(u8::from(status.state == "serving"));
    page.gauge(
        "tasuki_serving",
        "1 while new publishers are taken, 0 while the node drains.",
        one(serving),
    );
    page.gauge(
        "tasuki_streams_free",
        "Streams that would be admitted now.",
        one(f64::from(status.streams_free)),
    );
    page.gauge(
        "tasuki_cpu_ratio",
        "Share of all processors that is busy.",
        one(f64::from(status.cpu_percent) / 100.0),
    );
    let mut states =
        BTreeMap::from([("lobby", 0.0), ("authorizing", 0.0), ("live", 0.0), ("ending", 0.0)]);
    for session in &status.sessions {
        if let Some(count) = states.get_mut(session.state.as_str()) {
            *count += 1.0;
        }
    }
    let states =
        states.into_iter().map(|(state, count)| (vec![("state", state.to_owned())], count));
    page.gauge("tasuki_sessions", "Connections of publishers, by state.", states.collect());
}

fn totals(page: &mut Page, status: &Status) {
    let totals = &status.totals;
    page.counter(
        "tasuki_sessions_total",
        "Connections of publishers since start.",
        one(float(status.sessions_total)),
    );
    page.counter(
        "tasuki_refusals_total",
        "Publishers that were refused, by reason.",
        by("reason", &status.refusals),
    );
    page.counter("tasuki_frames_lost_total", "Frames that no owner encoded after a hand-off or a death, for want of a keyframe to go on from.", one(float(status.frames_lost)));
    page.counter(
        "tasuki_control_frames_ignored_total",
        "Control frames about what was not their sender's to speak of.",
        one(float(status.ignored_frames)),
    );
    page.counter(
        "tasuki_recycles_total",
        "Workers that were replaced as planned, by reason.",
        by("reason", &totals.recycles),
    );
    page.counter(
        "tasuki_recycles_failed_total",
        "Of these, those that failed.",
        by("reason", &totals.recycles_failed),
    );
    page.counter(
        "tasuki_process_deaths_total",
        "Deaths of processes that nobody had planned, by role.",
        by("role", &totals.deaths),
    );
    page.counter(
        "tasuki_moves_total",
        "Hand-offs of live streams, by outcome.",
        by("outcome", &totals.moves),
    );
    page.pauses("tasuki_move_pause_seconds", "From the last byte that the old owner of a moved stream handled to the first of the new one.", &totals.pauses);
}

fn workers(page: &mut Page, workers: &[WorkerStatus]) {
    let all = || workers.iter().filter(|worker| worker.pid != 0);
    let labels = |worker: &WorkerStatus| {
        vec![("worker", worker.slot.clone()), ("role", worker.role.clone())]
    };
    let states = workers.iter().map(|worker| {
        // The rest of a longer word is about a single process.
        let state = worker.state.split(':').next().unwrap_or_default().to_owned();
        let mut labels = labels(worker);
        labels.push(("state", state));
        (labels, 1.0)
    });
    page.gauge("tasuki_worker_state", "1 for the state that the process is in.", states.collect());
    let mut gauge = |name, help, value: &dyn Fn(&WorkerStatus) -> f64| {
        page.gauge(name, help, all().map(|worker| (labels(worker), value(worker))).collect());
    };
    gauge(
        "tasuki_worker_footprint_bytes",
        "Anonymous - LazyFree + Swap: what comes back when the process exits, and what the memory policy judges.",
        &|it| float(it.footprint_bytes),
    );
    gauge(
        "tasuki_worker_rss_bytes",
        "Resident set: also counts shared memory and pages that the kernel may take at any time.",
        &|it| float(it.rss_bytes),
    );
    gauge(
        "tasuki_worker_lazy_free_bytes",
        "Of the resident set, pages given back with MADV_FREE that the kernel has not taken yet.",
        &|it| float(it.lazy_free_bytes),
    );
    gauge("tasuki_worker_cpu_ratio", "Processors that the process keeps busy.", &|it| {
        f64::from(it.cpu_percent) / 100.0
    });
    gauge("tasuki_worker_age_seconds", "Time since the process started.", &|it| seconds(it.age_ms));
    gauge("tasuki_worker_generation", "Number of the process, counted over all slots.", &|it| {
        f64::from(it.generation)
    });
    gauge("tasuki_worker_streams", "Streams that it owns.", &|it| f64::from(it.sessions));
    gauge("tasuki_worker_streams_max", "Streams that it may own.", &|it| f64::from(it.streams_max));
    let restarts = workers.iter().map(|worker| (labels(worker), f64::from(worker.restarts)));
    page.counter(
        "tasuki_worker_restarts_total",
        "Times that the slot's process was replaced after a death.",
        restarts.collect(),
    );
    let mut judged = |name, help, value: &dyn Fn(&MemoryStatus) -> Option<f64>| {
        let samples = all().filter_map(|it| Some((labels(it), value(it.memory.as_ref()?)?)));
        page.gauge(name, help, samples.collect());
    };
    judged(
        "tasuki_worker_soft_limit_bytes",
        "Footprint from which on the process is recycled.",
        &|it| Some(float(it.soft_limit_bytes)),
    );
    judged(
        "tasuki_worker_hard_limit_bytes",
        "Footprint from which on its streams are moved at once.",
        &|it| Some(float(it.hard_limit_bytes)),
    );
    judged(
        "tasuki_worker_footprint_slope_bytes_per_second",
        "Growth of the footprint, a robust estimate; 0 where it does not grow.",
        &|it| Some(it.slope_bytes_per_s),
    );
    judged(
        "tasuki_worker_time_to_limit_seconds",
        "Until the soft limit at that slope; absent where it does not grow.",
        &|it| Some(seconds(it.time_to_limit_ms?)),
    );
    judged(
        "tasuki_worker_allocated_bytes",
        "In use by the program according to its allocator.",
        &|it| Some(float(it.allocated_bytes)),
    );
    judged(
        "tasuki_worker_allocator_idle_bytes",
        "What the allocator has from the kernel and does not use.",
        &|it| Some(float(it.idle_bytes)),
    );
    judged(
        "tasuki_worker_shared_bytes",
        "Of the resident set, shared memory: logs, counted as often as they are mapped.",
        &|it| Some(float(it.shared_bytes)),
    );
    judged("tasuki_worker_threads", "Threads of the process.", &|it| Some(f64::from(it.threads)));
    judged("tasuki_worker_fds", "File descriptors that it has open.", &|it| {
        Some(f64::from(it.fds))
    });
}

fn streams(page: &mut Page, live: &[&SessionStatus]) {
    let about = live.iter().map(|it| {
        let mut labels = stream_labels(it);
        labels.push(("worker", it.worker.split('/').next().unwrap_or_default().to_owned()));
        labels.push(("video_codec", it.video_codec.clone()));
        labels.push(("audio_codec", it.audio_codec.clone()));
        labels.push(("size", format!("{}x{}", it.width, it.height)));
        (labels, 1.0)
    });
    page.gauge(
        "tasuki_stream_info",
        "What a live stream is and which worker has it.",
        about.collect(),
    );
    let of = |value: &dyn Fn(&SessionStatus) -> f64| -> Samples {
        live.iter().map(|it| (stream_labels(it), value(it))).collect()
    };
    page.gauge(
        "tasuki_stream_uptime_seconds",
        "Time since the publisher connected.",
        of(&|it| seconds(it.uptime_ms)),
    );
    page.counter(
        "tasuki_stream_received_bytes_total",
        "Media received from the publisher.",
        of(&|it| float(it.in_bytes)),
    );
    page.counter(
        "tasuki_stream_sent_bytes_total",
        "Media sent to origins.",
        of(&|it| float(it.out_bytes)),
    );
    page.gauge(
        "tasuki_stream_received_bytes_per_second",
        "Received lately.",
        of(&|it| float(it.in_bitrate_bps) / 8.0),
    );
    page.counter(
        "tasuki_stream_received_frames_total",
        "Video packets received.",
        of(&|it| float(it.frames_in)),
    );
    page.counter(
        "tasuki_stream_encoded_frames_total",
        "Frames that are through in all rungs.",
        of(&|it| float(it.frames_out)),
    );
    page.counter(
        "tasuki_stream_dropped_frames_total",
        "Frames dropped before decoding because the pipeline fell behind.",
        of(&|it| float(it.frames_dropped)),
    );
    page.counter(
        "tasuki_stream_lost_frames_total",
        "Frames that no owner encoded, for want of a keyframe to go on from.",
        of(&|it| float(it.frames_lost)),
    );
    page.gauge(
        "tasuki_stream_frames_per_second",
        "Frame rate of the source.",
        of(&|it| f64::from(it.fps)),
    );
    page.gauge(
        "tasuki_stream_lag_seconds",
        "Newest received minus the oldest that is not through the pipeline.",
        of(&|it| seconds(it.lag_ms)),
    );
    page.gauge(
        "tasuki_stream_frames_inside",
        "Frames received and not through the pipeline.",
        of(&|it| float(it.frames_inside)),
    );
    page.gauge(
        "tasuki_stream_keyframe_interval_seconds",
        "Between the source's last two keyframes; 0 before there are two.",
        of(&|it| seconds(it.keyframe_interval_ms)),
    );
    page.gauge(
        "tasuki_stream_av_skew_seconds",
        "Newest sound received minus newest picture received.",
        of(&|it| signed_seconds(it.av_skew_ms)),
    );
    page.gauge(
        "tasuki_stream_stalled_seconds",
        "How long something has waited in it while nothing moved.",
        of(&|it| seconds(it.stalled_ms)),
    );
    page.gauge(
        "tasuki_stream_no_anchor",
        "1 while the log lacks the keyframe that a move or a death would need.",
        of(&|it| f64::from(u8::from(it.no_anchor))),
    );
    page.gauge(
        "tasuki_stream_flv_viewers",
        "Who watches it as FLV, over HTTP and WebSockets.",
        of(&|it| f64::from(it.flv_viewers)),
    );
    let faults = live.iter().flat_map(|it| {
        it.faults.iter().map(|(kind, count)| {
            let mut labels = stream_labels(it);
            labels.push(("kind", kind.clone()));
            (labels, float(*count))
        })
    });
    page.counter(
        "tasuki_stream_input_faults_total",
        "Corrections of timestamps and other faults of the input, by kind.",
        faults.collect(),
    );
}

fn outputs(page: &mut Page, live: &[&SessionStatus]) {
    let rung = |value: &dyn Fn(&RungStatus) -> f64| -> Samples {
        let rungs = live.iter().flat_map(|it| it.rungs.iter().map(|rung| (*it, rung)));
        rungs.map(|(it, rung)| (rung_labels(it, &rung.label), value(rung))).collect()
    };
    page.counter(
        "tasuki_rung_frames_total",
        "Frames of a rendition.",
        rung(&|it| float(it.frames)),
    );
    page.counter("tasuki_rung_bytes_total", "Bytes of a rendition.", rung(&|it| float(it.bytes)));
    page.counter(
        "tasuki_rung_encode_seconds_total",
        "Time that the rung's encoder worked; begins anew with each owner of the stream.",
        rung(&|it| float(it.encode_us) / 1e6),
    );
    page.gauge(
        "tasuki_rung_active",
        "1 while the rung is passed through or encoded.",
        rung(&|it| is(&it.state, &["passing", "encoding"])),
    );
    let push = |value: &dyn Fn(&PushStatus) -> f64| -> Samples {
        let pushes = live.iter().flat_map(|it| it.pushes.iter().map(|push| (*it, push)));
        pushes
            .map(|(it, push)| {
                let mut labels = rung_labels(it, &push.rung);
                labels.push(("to", push.to.clone()));
                (labels, value(push))
            })
            .collect()
    };
    page.gauge(
        "tasuki_push_up",
        "1 while the origin takes the rendition.",
        push(&|it| is(&it.state, &["live"])),
    );
    page.counter(
        "tasuki_push_sent_bytes_total",
        "Bytes sent to the origin.",
        push(&|it| float(it.sent_bytes)),
    );
    page.counter(
        "tasuki_push_messages_total",
        "Messages sent to the origin.",
        push(&|it| float(it.messages)),
    );
    page.counter(
        "tasuki_push_skipped_messages_total",
        "Messages skipped because the origin was away or slow.",
        push(&|it| float(it.skipped)),
    );
    page.counter(
        "tasuki_push_reconnects_total",
        "Connections after the first.",
        push(&|it| float(it.reconnects)),
    );
    let record = |value: &dyn Fn(&RecordStatus) -> f64| -> Samples {
        let records = live.iter().flat_map(|it| it.records.iter().map(|record| (*it, record)));
        records.map(|(it, record)| (rung_labels(it, &record.rung), value(record))).collect()
    };
    page.gauge(
        "tasuki_record_up",
        "1 while the rendition is recorded.",
        record(&|it| is(&it.state, &["recording"])),
    );
    let hls = |value: &dyn Fn(&HlsStatus) -> f64| -> Samples {
        let all = live.iter().flat_map(|it| it.hls.iter().map(|hls| (*it, hls)));
        all.map(|(it, hls)| (rung_labels(it, &hls.rung), value(hls))).collect()
    };
    page.gauge(
        "tasuki_hls_up",
        "1 while the rendition is packaged for viewers.",
        hls(&|it| is(&it.state, &["packaging"])),
    );
    page.gauge("tasuki_hls_segment", "Number of the newest segment.", hls(&|it| float(it.segment)));
    page.gauge(
        "tasuki_hls_discontinuities",
        "Breaks in the playlist made by the present owner.",
        hls(&|it| float(it.discontinuities)),
    );
    page.gauge(
        "tasuki_hls_gaps",
        "Breaks in what could be packaged by the present owner.",
        hls(&|it| float(it.gaps)),
    );
}

fn one(value: f64) -> Samples {
    vec![(Vec::new(), value)]
}

fn by(label: &'static str, counts: &BTreeMap<String, u64>) -> Samples {
    counts.iter().map(|(name, count)| (vec![(label, name.clone())], float(*count))).collect()
}

fn stream_labels(session: &SessionStatus) -> Labels {
    vec![("app", session.app.clone()), ("name", session.name.clone())]
}

fn rung_labels(session: &SessionStatus, rung: &str) -> Labels {
    let mut labels = stream_labels(session);
    labels.push(("rung", rung.to_owned()));
    labels
}

fn is(state: &str, wanted: &[&str]) -> f64 {
    f64::from(u8::from(wanted.contains(&state)))
}

fn seconds(ms: u64) -> f64 {
    float(ms) / 1000.0
}

fn signed_seconds(ms: i64) -> f64 {
    let length = seconds(ms.unsigned_abs());
    if ms < 0 { -length } else { length }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::health::tests::{node, stream, worker};

    /// Something of everything.
    fn full() -> Status {
        let mut status = node();
        status.workers = vec![worker("w0", 1)];
        status.workers[0].memory =
            Some(MemoryStatus { soft_limit_bytes: 400, ..MemoryStatus::default() });
        let mut cam = stream("cam \"1\"");
        cam.in_bytes = 7;
        cam.av_skew_ms = -250;
        cam.flv_viewers = 2;
        cam.faults.insert("backwards".to_owned(), 3);
        let (rung, state) = ("720p".to_owned(), "encoding".to_owned());
        cam.rungs = vec![RungStatus { label: rung.clone(), state, ..RungStatus::default() }];
        cam.pushes = vec![PushStatus { rung: rung.clone(), ..PushStatus::default() }];
        cam.records = vec![RecordStatus { rung: rung.clone(), ..RecordStatus::default() }];
        cam.hls = vec![HlsStatus { rung, ..HlsStatus::default() }];
        status.sessions = vec![cam];
        status.refusals.insert("no_slot".to_owned(), 1);
        let audience = &mut status.audience;
        (audience.connections, audience.sent_bytes) = (3, 1 << 40);
        audience.refused.insert("connections_max".to_owned(), 5);
        audience.answers.insert("2xx".to_owned(), 6);
        let totals = &mut status.totals;
        totals.recycles.insert("memory_soft".to_owned(), 2);
        totals.recycles_failed.insert("memory_soft".to_owned(), 1);
        totals.deaths.insert("worker".to_owned(), 1);
        totals.moves.insert("done".to_owned(), 3);
        for pause_us in [90, 300, 2_000_000] {
            totals.pauses.add(pause_us);
        }
        status
    }

    #[test]
    fn every_number_has_its_name_unit_and_labels() {
        let text = render(&full()).unwrap();
        for line in [
            "tasuki_build_info{version=\"1.2.3\"} 1",
            "tasuki_uptime_seconds 5",
            "tasuki_sessions{state=\"live\"} 1",
            "tasuki_recycles_total{reason=\"memory_soft\"} 2",
            "tasuki_worker_footprint_bytes{worker=\"w0\",role=\"worker\"} 100",
            "tasuki_worker_soft_limit_bytes{worker=\"w0\",role=\"worker\"} 400",
            "tasuki_stream_received_bytes_total{app=\"live\",name=\"cam \\\"1\\\"\"} 7",
            "tasuki_stream_input_faults_total{app=\"live\",name=\"cam \\\"1\\\"\",kind=\"backwards\"} 3",
            "tasuki_rung_active{app=\"live\",name=\"cam \\\"1\\\"\",rung=\"720p\"} 1",
            "tasuki_stream_flv_viewers{app=\"live\",name=\"cam \\\"1\\\"\"} 2",
            "tasuki_delivery_connections 3",
            "tasuki_delivery_sent_bytes_total 1099511627776",
            "tasuki_delivery_refused_total{setting=\"connections_max\"} 5",
            "tasuki_delivery_requests_total{code_class=\"2xx\"} 6",
            "tasuki_move_pause_seconds_bucket{le=\"0.0001\"} 1",
            "tasuki_move_pause_seconds_bucket{le=\"1\"} 2",
            "tasuki_move_pause_seconds_bucket{le=\"+Inf\"} 3",
            "tasuki_move_pause_seconds_count 3",
            "tasuki_stream_av_skew_seconds{app=\"live\",name=\"cam \\\"1\\\"\"} -0.25",
        ] {
            assert!(text.lines().any(|it| it == line), "{line}\nis not in\n{text}");
        }
        assert!(!text.contains("time_to_limit"), "it does not grow");
    }

    /// Whatever happened or did not, each family is there once, with its help.
    #[test]
    fn families_are_whole() {
        for status in [node(), full()] {
            let text = render(&status).unwrap();
            let named = |word: &str| -> Vec<String> {
                let lines = text.lines().filter_map(|line| line.strip_prefix(word));
                lines.map(|rest| rest.split(' ').next().unwrap_or_default().to_owned()).collect()
            };
            let (help, types) = (named("# HELP "), named("# TYPE "));
            assert_eq!(help, types);
            let mut once = types.clone();
            once.sort();
            once.dedup();
            assert_eq!(once.len(), types.len());
        }
    }

    /// What alert rules and dashboard ask for is told.
    #[test]
    fn rules_and_dashboard_ask_for_what_there_is() {
        let mut status = full();
        let growing = MemoryStatus { time_to_limit_ms: Some(1), ..MemoryStatus::default() };
        status.workers[0].memory = Some(growing);
        let text = render(&status).unwrap();
        let told = |name: &str| {
            let parts = ["_bucket", "_sum", "_count"];
            let family = parts.iter().find_map(|part| name.strip_suffix(part)).unwrap_or(name);
            let known = |family: &str| text.contains(&format!("# TYPE {family} "));
            known(name) || known(family)
        };
        let rules = include_str!("../../../docs/monitoring/alerts.yml");
        let dashboard = include_str!("../../../docs/monitoring/grafana-dashboard.json");
        let is_of_name = |letter: char| letter.is_ascii_lowercase() || letter == '_';
        let mut asked = 0;
        for file in [rules, dashboard] {
            for word in file.split(|letter| !is_of_name(letter)) {
                if word.starts_with("tasuki_") {
                    assert!(told(word), "{word} is asked for and not told");
                    asked += 1;
                }
            }
        }
        assert!(asked > 30, "{asked}");
    }
}
