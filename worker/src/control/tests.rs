use super::*;
use std::sync::mpsc as std_mpsc;
use std::time::Duration;
use tasuki_shared::channel::pair;
use tasuki_shared::id::{SessionId, SlotId};
use tasuki_shared::message::{EndReason, Role};

const PATIENCE: Duration = Duration::from_secs(10);

type Supervisor = Channel<ToWorker, FromWorker>;

/// A supervisor's end, a started control, and its wakes.
fn started() -> (Supervisor, Control, std_mpsc::Receiver<()>) {
    let (supervisor, control) = pair().unwrap();
    let inherited =
        Inherited { role: Role::Worker, generation: Generation(5), control, knell: None };
    let (wake, woken) = std_mpsc::channel();
    let control = Control::start(inherited, move || wake.send(()).unwrap_or(())).unwrap();
    (supervisor, control, woken)
}

fn say(supervisor: &mut Supervisor, body: ToWorker) {
    let envelope = Envelope { generation: Generation(5), body };
    let _ = supervisor.send(&envelope, &[]).unwrap();
}

fn hello() -> ToWorker {
    ToWorker::Hello { version: PROTOCOL_VERSION, slot: SlotId(0) }
}

fn hear(supervisor: &mut Supervisor) -> FromWorker {
    // The socket does not tell of frames that came with one before.
    if !supervisor.has_received() {
        let mut polled = [nix::poll::PollFd::new(
            std::os::fd::AsFd::as_fd(supervisor),
            nix::poll::PollFlags::POLLIN,
        )];
        assert_eq!(nix::poll::poll(&mut polled, 10_000_u16).unwrap(), 1);
    }
    supervisor.recv().unwrap().unwrap().0.body
}

#[test]
fn it_says_hello_first_and_passes_messages_on_with_a_wake_each() {
    let (mut supervisor, mut control, woken) = started();
    assert!(matches!(hear(&mut supervisor), FromWorker::Hello { version: PROTOCOL_VERSION, .. }));
    say(&mut supervisor, hello());
    say(&mut supervisor, ToWorker::Drain);
    woken.recv_timeout(PATIENCE).unwrap();
    woken.recv_timeout(PATIENCE).unwrap();
    assert!(matches!(control.try_recv(), Some(Told::Message(ToWorker::Hello { .. }, _))));
    assert!(matches!(control.try_recv(), Some(Told::Message(ToWorker::Drain, _))));
    assert!(control.try_recv().is_none());
    control.finish();
}

#[test]
fn what_was_sent_before_finish_arrives_however_much_it_is() {
    let (mut supervisor, control, _woken) = started();
    hear(&mut supervisor);
    let total = 3000;
    for counter in 0..total {
        let session = SessionId { epoch: 1, counter };
        control.send(FromWorker::Ended { session, reason: EndReason::Silent }, vec![]).unwrap();
    }
    let finishing = std::thread::spawn(move || control.finish());
    for counter in 0..total {
        let FromWorker::Ended { session, .. } = hear(&mut supervisor) else { panic!("order") };
        assert_eq!(session.counter, counter);
    }
    finishing.join().unwrap();
}

#[test]
fn the_end_of_the_supervisor_is_told() {
    let (supervisor, mut control, woken) = started();
    drop(supervisor);
    woken.recv_timeout(PATIENCE).unwrap();
    let told = control.try_recv();
    let closed = LineError::Channel(ChannelError::Closed).to_string();
    assert!(matches!(told, Some(Told::Orphaned(error)) if error.to_string() == closed));
}

#[test]
fn another_protocol_version_is_an_end_and_not_a_guess() {
    let (mut supervisor, mut control, woken) = started();
    say(&mut supervisor, ToWorker::Hello { version: PROTOCOL_VERSION + 1, slot: SlotId(0) });
    woken.recv_timeout(PATIENCE).unwrap();
    let told = control.try_recv();
    assert!(matches!(told, Some(Told::Orphaned(LineError::Version(v))) if v != PROTOCOL_VERSION));
}

/// A worker that has no room for a frame's fds hears the frame all the same, without any, and goes
/// on: what misses them answers by name, and no session ends for it. In a process of its own, for a
/// limit on fds would disturb the tests beside.
#[test]
fn a_frame_whose_fds_have_no_room_is_heard_without_them_and_the_line_goes_on() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    const INNER: &str = "TASUKI_TEST_NO_ROOM";
    if std::env::var_os(INNER).is_none() {
        let name = "control::tests::\
                    a_frame_whose_fds_have_no_room_is_heard_without_them_and_the_line_goes_on";
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(INNER, "1")
            .status()
            .unwrap();
        assert!(status.success());
        return;
    }
    let (mut supervisor, mut control, woken) = started();
    hear(&mut supervisor);
    say(&mut supervisor, hello());
    woken.recv_timeout(PATIENCE).unwrap();
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let session = SessionId { epoch: 1, counter: 1 };
    let release =
        ToWorker::Release { session, to: Generation(6), haste: tasuki_shared::message::Haste::Now };
    let file = std::fs::File::open("/dev/null").unwrap();
    let envelope = Envelope { generation: Generation(5), body: release };
    let fd = std::sync::Arc::new(OwnedFd::from(file));
    // The standard streams are open, so whatever number is free, none is below the limit.
    setrlimit(Resource::RLIMIT_NOFILE, 3, hard).unwrap();
    supervisor.queue(&envelope, &[fd]).unwrap();
    let _ = supervisor.flush().unwrap();
    woken.recv_timeout(PATIENCE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    assert!(matches!(control.try_recv(), Some(Told::Message(ToWorker::Hello { .. }, _))));
    let heard = control.try_recv();
    let Some(Told::Message(ToWorker::Release { .. }, fds)) = heard else { panic!("{heard:?}") };
    assert!(fds.is_empty());
    say(&mut supervisor, ToWorker::Drain);
    woken.recv_timeout(PATIENCE).unwrap();
    assert!(matches!(control.try_recv(), Some(Told::Message(ToWorker::Drain, _))));
    control.finish();
}
