//! Shortages, and bounds on what one peer or worker may take.

use super::*;

#[test]
fn a_stream_whose_memory_cannot_be_made_is_refused_by_name_and_its_name_is_free() {
    let mut bench = Bench::ready(settings());
    let (session, worker) = bench.live("a");
    let what = "memory for a log: too many open files".to_owned();
    let effects =
        bench.on(Event::ResourceFailed { session, fds: Fds::Logs(session), what: what.clone() });
    assert_eq!(verdict_in(&effects), Some(Verdict::Refuse(RefuseReason::NoResource)));
    let refused = effects
        .iter()
        .position(|effect| matches!(effect, Effect::Send { body: ToWorker::Verdict { .. }, .. }));
    let body = ToWorker::End { session, reason: EndReason::Resource(what) };
    let ended = effects.iter().position(|effect| {
        *effect == Effect::Send { to: worker, body: body.clone(), fds: Fds::None }
    });
    assert!(refused.unwrap() < ended.unwrap(), "the reason is said before the end");
    bench.live("a");
}

#[test]
fn a_lease_that_cannot_be_sent_closes_its_session_and_a_socket_fails_its_dial_alone() {
    let mut bench = Bench::ready(settings());
    let (session, _) = bench.accept();
    let what = "EMFILE".to_owned();
    let event = Event::ResourceFailed { session, fds: Fds::Session(session), what: what.clone() };
    assert!(closes(&bench.on(event), session));
    let (session, worker) = bench.live("a");
    let push = PushId(0);
    bench.says(worker, FromWorker::Dial { session, push });
    let dialer = bench.dialer();
    bench.says(dialer, FromWorker::Connected { ticket: 1, outcome: Ok(()) });
    let fds = Fds::Dialed { session, push, ticket: 1 };
    let effects = bench.on(Event::ResourceFailed { session, fds, what: what.clone() });
    let outcome = Err(DialError::Connect(what));
    let body = ToWorker::Dialed { session, push, outcome };
    assert!(effects.contains(&Effect::DropPush { session, push }));
    assert!(effects.contains(&Effect::Send { to: worker, body, fds: Fds::None }));
    assert!(bench.core.has_session(session));
}

#[test]
fn one_address_has_its_share_of_the_lobbies_and_gets_it_back_by_publishing() {
    let mut bench = Bench::ready(Settings { lobby_per_address: 2, ..settings() });
    let (first, worker) = bench.admit();
    bench.admit();
    let (third, effects) = bench.accept();
    assert!(closes(&effects, third));
    assert_eq!(bench.core.status(bench.now).refusals["lobby_per_address"], 1);
    bench.publish(first, worker, "a");
    bench.admit();
    let accept = |bench: &mut Bench, counter, peer: &str| {
        let session = SessionId { epoch: 2, counter };
        let effects = bench.on(Event::Accepted { session, peer: peer.parse().unwrap() });
        lease_in(&effects).is_some()
    };
    assert!(accept(&mut bench, 1, "192.0.2.7:1"), "another address has its own share");
    for (counter, peer) in [(2, "[2001:db8::1]:1"), (3, "[2001:db8::2]:1")] {
        assert!(accept(&mut bench, counter, peer));
    }
    assert!(!accept(&mut bench, 4, "[2001:db8::3]:1"), "a /64 is one subscriber");
    for counter in 5..12 {
        assert!(accept(&mut bench, counter, "127.0.0.1:9"), "loopback is not counted");
    }
}

#[test]
fn a_full_host_counts_streams_and_not_who_has_not_published() {
    let mut bench = Bench::ready(Settings { sessions_max: 2, ..settings() });
    for _ in 0..5 {
        bench.admit();
    }
    bench.live("a");
    let (late, worker) = bench.admit();
    bench.live("b");
    let refused = bench.publish(late, worker, "c");
    assert_eq!(verdict_in(&refused), Some(Verdict::Refuse(RefuseReason::HostCap)));
}

#[test]
fn a_worker_whose_slots_are_spoken_for_comes_after_one_with_room() {
    let mut bench = Bench::ready(settings());
    let (_, full) = bench.live("a");
    // Two that wait on the other one speak for its two slots; then the first has room again.
    let (_, other) = bench.admit();
    assert_ne!(full, other);
    let (_, third) = bench.admit();
    let (_, fourth) = bench.admit();
    let spoken_for = [third, fourth].iter().filter(|worker| **worker == other).count();
    assert_eq!(spoken_for, 1, "each has two slots and each slot is spoken for once");
}

#[test]
fn a_refusal_names_the_peer_and_never_the_key() {
    let mut bench = Bench::ready(settings());
    let (session, worker) = bench.admit();
    let effects = bench.publish(session, worker, "bad");
    let said = effects.iter().find_map(|effect| match effect {
        Effect::Announce(announcement) => Some(announcement.clone()),
        _ => None,
    });
    let said = said.unwrap();
    assert_eq!(said.detail, "stream key not accepted (192.0.2.1:5000)");
    assert_eq!(said.peer, Some(peer().ip()));
}

#[test]
fn a_rate_that_is_no_number_does_not_reach_the_status() {
    let mut bench = Bench::ready(settings());
    let (session, worker) = bench.live("a");
    let status = tasuki_shared::status::SessionStatus {
        id: session.to_string(),
        fps: f32::NAN,
        ..Default::default()
    };
    let heartbeat = tasuki_shared::message::Heartbeat {
        session: Some(status),
        lobby: 0,
        allocator: None,
        spare_codecs: 0,
    };
    bench.says(worker, FromWorker::Heartbeat(Box::new(heartbeat)));
    let status = bench.core.status(bench.now);
    assert_eq!(status.sessions[0].fps.to_bits(), 0.0_f32.to_bits());
}

/// What the largest worker holds may be needed again at any moment: while there is no more than
/// that, nobody new is let in, and whoever is live goes on.
#[test]
fn the_last_of_the_memory_is_kept_for_recovery() {
    const MIB: u64 = 1 << 20;
    let mut bench = Bench::ready(settings());
    let (live, worker) = bench.live("a");
    let (lobby, its) = bench.admit();
    let available = |bench: &mut Bench, available_bytes| {
        let host = HostMemory { total_bytes: 8192 * MIB, available_bytes, ..HostMemory::default() };
        let sample = Sample { footprint_bytes: 200 * MIB, ..Sample::default() };
        bench.on(Event::Sampled { cpu_percent: 1.0, host, workers: vec![(worker, sample)] });
    };
    available(&mut bench, 199 * MIB);
    let (_, effects) = bench.accept();
    let refused = lease_in(&effects).unwrap().1.admission;
    assert_eq!(refused, Admission::Refuse(RefuseReason::NoMemory));
    let refused = bench.publish(lobby, its, "b");
    assert_eq!(verdict_in(&refused), Some(Verdict::Refuse(RefuseReason::NoMemory)));
    let effects = bench.on(died(worker, Death::Signalled(9)));
    assert_eq!(lease_in(&effects).unwrap().1.session, live, "what is live is recovered");
    available(&mut bench, 201 * MIB);
    let (_, effects) = bench.accept();
    assert_eq!(lease_in(&effects).unwrap().1.admission, Admission::Admit);
}
