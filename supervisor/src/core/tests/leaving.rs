//! The end of the server, and of processes that do not want to end.

use super::*;

#[test]
fn a_first_terminate_lets_streams_finish_and_a_second_ends_them() {
    let mut bench = Bench::ready(Settings { workers: 1, standby: 0, ..settings() });
    let (session, worker) = bench.live("a");
    let effects = bench.on(Event::Terminate);
    assert!(effects.contains(&Effect::StopListening));
    let drain = Effect::Send { to: worker, body: ToWorker::Drain, fds: Fds::None };
    assert!(effects.contains(&drain));
    let effects = bench.on(Event::Terminate);
    assert!(effects.contains(&Effect::Kill { generation: worker }), "at once means at once");
    let effects = bench.on(died(worker, Death::Signalled(9)));
    assert!(closes(&effects, session));
    let dialer = bench.dialer();
    let effects = bench.on(died(dialer, Death::Signalled(9)));
    assert!(effects.contains(&Effect::Leave(tasuki_shared::exit::Exit::Done)));
}

#[test]
fn the_deadline_of_a_drain_ends_sessions_and_the_last_worker_takes_the_dialer_with_it() {
    let deadline = 30 * SECOND;
    let settings = Settings { workers: 1, standby: 0, shutdown_deadline: deadline, ..settings() };
    let mut bench = Bench::ready(settings);
    let (session, worker) = bench.live("a");
    bench.on(Event::Terminate);
    let effects = bench.after_heard(deadline, &[worker]);
    let body = ToWorker::End { session, reason: EndReason::Shutdown };
    assert!(effects.contains(&Effect::Send { to: worker, body, fds: Fds::None }));
    bench.says(worker, FromWorker::Ended { session, reason: EndReason::Shutdown });
    let dialer = bench.dialer();
    let effects = bench.on(died(worker, Death::Exited(0)));
    let drain = Effect::Send { to: dialer, body: ToWorker::Drain, fds: Fds::None };
    assert!(effects.contains(&drain));
    let effects = bench.on(died(dialer, Death::Exited(0)));
    assert!(effects.contains(&Effect::Leave(tasuki_shared::exit::Exit::Done)));
}

#[test]
fn a_drain_refuses_who_has_not_published_and_a_publish_that_comes_late() {
    let mut bench = Bench::ready(settings());
    bench.live("live");
    let (lobby, worker) = bench.admit();
    let effects = bench.on(Event::Terminate);
    let reason = EndReason::Refused(RefuseReason::Draining);
    let body = ToWorker::End { session: lobby, reason };
    assert!(effects.contains(&Effect::Send { to: worker, body, fds: Fds::None }));
    let late = bench.publish(lobby, worker, "late");
    assert!(!matches!(verdict_in(&late), Some(Verdict::Allow(_))));
    assert!(closes(&bench.after(END_GRACE), lobby));
}

#[test]
fn a_dialer_that_dies_in_a_drain_is_replaced_while_a_stream_goes_on() {
    let mut bench = Bench::ready(Settings { workers: 1, standby: 0, ..settings() });
    bench.live("a");
    bench.on(Event::Terminate);
    let dialer = bench.dialer();
    bench.on(died(dialer, Death::Exited(104)));
    bench.after(SECOND);
    assert_ne!(bench.dialer(), dialer);
}
