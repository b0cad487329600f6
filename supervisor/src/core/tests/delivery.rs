//! What delivery is told of live streams.

use super::*;
use crate::core::settings::{Delivery, MissingFamily};
use tasuki_shared::message::{Audience, DeliveryPlan, Served};

pub fn with_viewers() -> Settings {
    let plan = DeliveryPlan {
        hls_root: "/nowhere".into(),
        tls: None,
        allow_origin: "*".into(),
        connections_max: 1,
        drain_ms: 60_000,
        connections_per_address_max: 0,
    };
    let delivery = Delivery { listen: vec![], missing_family: MissingFamily::Skip, plan };
    Settings { delivery: Some(delivery), ..settings() }
}

pub fn delivery(bench: &Bench) -> Generation {
    bench.spawned.iter().rev().find(|(role, _)| *role == Role::Delivery).unwrap().1
}

/// What this process is told, in a word each.
pub fn told(effects: &[Effect], to: Generation) -> Vec<String> {
    let sent = effects.iter().filter_map(|effect| match effect {
        Effect::Send { to: receiver, body, fds } if *receiver == to => Some((body, fds)),
        _ => None,
    });
    sent.filter_map(|(body, fds)| match body {
        ToWorker::StreamLive { session, plan } => {
            assert_eq!(*fds, Fds::ReadOnlyLogs(*session));
            assert!(plan.pushes.is_empty(), "where else it goes is no viewer's affair");
            Some(format!("live {}", plan.name))
        }
        ToWorker::StreamGone { session } => Some(format!("gone {}", session.counter)),
        ToWorker::Hello { .. } => Some("hello".to_owned()),
        ToWorker::Serve(_) => Some("serve".to_owned()),
        ToWorker::Drain => Some("drain".to_owned()),
        _ => None,
    })
    .collect()
}

/// Of each stream as it begins and ends; a new process of all of them, before it serves, and of
/// nothing before it was greeted.
#[test]
fn delivery_is_told_of_every_live_stream_and_of_its_end() {
    let mut bench = Bench::ready(with_viewers());
    let first = delivery(&bench);
    let (session, worker) = bench.admit();
    assert_eq!(told(&bench.publish(session, worker, "a"), first), ["live a"]);
    let again = bench.publish(session, worker, "a");
    assert!(told(&again, first).is_empty(), "the verdict is repeated, the stream is not new");
    let (other, _) = bench.live("b");
    let (lobby, lobby_worker) = bench.admit();
    let reason = EndReason::PeerClosed;
    let ended = bench.says(lobby_worker, FromWorker::Ended { session: lobby, reason });
    assert!(told(&ended, first).is_empty(), "it was no stream");

    bench.on(died(first, Death::Signalled(9)));
    bench.after(Duration::from_secs(1));
    let second = delivery(&bench);
    assert_ne!(first, second);
    let (meanwhile, worker) = bench.admit();
    assert!(told(&bench.publish(meanwhile, worker, "c"), second).is_empty());
    let spawned = bench.on(Event::Spawned { generation: second, pid: 1001 });
    assert_eq!(told(&spawned, second), ["hello", "live a", "live b", "live c", "serve"]);
    let worker = bench.core.sessions[&other].generation().unwrap();
    let reason = EndReason::PeerClosed;
    let ended = bench.says(worker, FromWorker::Ended { session: other, reason });
    assert_eq!(told(&ended, second), [format!("gone {}", other.counter)]);
}

/// A stream that delivery could not be told of goes on without those viewers.
#[test]
fn want_of_fds_costs_viewers_and_not_the_stream() {
    let mut bench = Bench::ready(with_viewers());
    let (session, worker) = bench.live("a");
    let (fds, what) = (Fds::ReadOnlyLogs(session), "no fd".to_owned());
    let effects = bench.on(Event::ResourceFailed { session, fds, what });
    assert!(
        matches!(&effects[..], [Effect::Announce(said)] if said.event == "stream_not_watchable")
    );
    assert_eq!(bench.core.sessions[&session].generation(), Some(worker));
    // A verdict that never left makes the stream one that never was.
    let (fds, what) = (Fds::Logs(session), "no memory".to_owned());
    let effects = bench.on(Event::ResourceFailed { session, fds, what });
    let to = delivery(&bench);
    assert_eq!(told(&effects, to), [format!("gone {}", session.counter)]);
}

/// Viewers are told of with their stream while their process is there, and what it has counted stays
/// after its death; nobody else's word counts.
#[test]
fn what_a_dead_delivery_process_counted_is_not_lost() {
    let mut bench = Bench::ready(with_viewers());
    let first = delivery(&bench);
    let (session, worker) = bench.live("a");
    let audience = |sent_bytes| {
        FromWorker::Audience(Box::new(Audience {
            connections: 3,
            flv_viewers: 2,
            flv_by_session: vec![(session, 2)],
            served: Served { sent_bytes, ..Served::default() },
            ..Audience::default()
        }))
    };
    let told = |bench: &Bench| {
        let status = bench.core.status(bench.now);
        (status.audience.connections, status.sessions[0].flv_viewers, status.audience.sent_bytes)
    };
    bench.says(first, audience(100));
    assert_eq!(told(&bench), (3, 2, 100));
    let ignored = bench.core.status(bench.now).ignored_frames;
    bench.says(worker, audience(7));
    assert_eq!(told(&bench), (3, 2, 100));
    assert_eq!(bench.core.status(bench.now).ignored_frames, ignored + 1);
    bench.on(died(first, Death::Signalled(9)));
    assert_eq!(told(&bench), (0, 0, 100));
    bench.after(Duration::from_secs(1));
    let second = delivery(&bench);
    bench.on(Event::Spawned { generation: second, pid: 1001 });
    bench.says(second, audience(10));
    assert_eq!(told(&bench), (3, 2, 110));
}
