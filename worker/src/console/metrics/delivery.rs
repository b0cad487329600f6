//! Whom delivery serves. Each stream's viewers are told of with the stream.

use super::page::{Page, float};
use super::{by, one};
use tasuki_shared::status::AudienceStatus;

pub fn render(page: &mut Page, audience: &AudienceStatus) {
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
    page.gauge(
        "tasuki_delivery_connections",
        "Connections of viewers that are open.",
        one(f64::from(*connections)),
    );
    page.gauge(
        "tasuki_delivery_waiting_requests",
        "Requests that wait for what is not there yet: blocking reloads, parts that are hinted at.",
        one(f64::from(*waits)),
    );
    page.gauge(
        "tasuki_delivery_flv_viewers",
        "Viewers of FLV, over HTTP and WebSockets.",
        one(f64::from(*flv_viewers)),
    );
    page.counter(
        "tasuki_delivery_refused_total",
        "Connections of viewers that were closed at once, by the setting that says so.",
        by("setting", refused),
    );
    page.counter(
        "tasuki_delivery_requests_total",
        "Requests answered, by the class of the status; 1xx is a WebSocket.",
        by("code_class", answers),
    );
    page.counter(
        "tasuki_delivery_sent_bytes_total",
        "What viewers' sockets took: bodies with their heads, and what TLS adds.",
        one(float(*sent_bytes)),
    );
    page.counter(
        "tasuki_delivery_flv_jumps_total",
        "Times that a log overtook a viewer of FLV, who went on at a keyframe.",
        one(float(*flv_jumps)),
    );
    page.counter(
        "tasuki_delivery_flv_stalled_total",
        "Viewers of FLV that were closed for taking nothing.",
        one(float(*flv_stalled)),
    );
}
