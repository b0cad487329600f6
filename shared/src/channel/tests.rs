use super::*;
use crate::id::{Generation, SessionId};
use crate::message::{EndReason, FromWorker, ToWorker};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::fs::File;
use std::io::{Read, Seek, Write};

type Supervisor = Channel<ToWorker, FromWorker>;
type Worker = Channel<FromWorker, ToWorker>;

fn channels() -> (Supervisor, Worker) {
    let (ours, theirs) = pair().unwrap();
    (ours, Worker::new(theirs))
}

fn to_worker(counter: u64) -> Envelope<ToWorker> {
    let session = SessionId { epoch: 1, counter };
    Envelope {
        generation: Generation(7),
        body: ToWorker::End { session, reason: EndReason::Shutdown },
    }
}

fn temporary() -> File {
    let name = c"channel-test";
    File::from(nix::sys::memfd::memfd_create(name, nix::sys::memfd::MFdFlags::MFD_CLOEXEC).unwrap())
}

#[test]
fn a_frame_arrives_with_its_fds_open_and_close_on_exec() {
    let (mut supervisor, mut worker) = channels();
    let mut file = temporary();
    file.write_all(b"through the channel").unwrap();
    let sent = supervisor.send(&to_worker(1), &[file.as_fd(), file.as_fd()]).unwrap();
    assert_eq!(sent, Sent::Sent);
    let (envelope, mut fds) = worker.recv().unwrap().unwrap();
    assert_eq!(envelope, to_worker(1));
    assert_eq!(fds.len(), 2);
    for fd in &fds {
        let flags = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_GETFD).unwrap();
        assert_eq!(flags, libc::FD_CLOEXEC);
    }
    let mut received = File::from(fds.pop().unwrap());
    received.rewind().unwrap();
    let mut text = String::new();
    received.read_to_string(&mut text).unwrap();
    assert_eq!(text, "through the channel");
    assert!(worker.recv().unwrap().is_none());
}

#[test]
fn frames_that_the_kernel_does_not_take_wait_in_order_with_their_fds() {
    let (mut supervisor, mut worker) = channels();
    let total = 2000;
    let mut queued = 0;
    for counter in 0..total {
        let file = temporary();
        match supervisor.send(&to_worker(counter), &[file.as_fd()]).unwrap() {
            Sent::Sent => assert_eq!(queued, 0, "a frame overtook those that wait"),
            Sent::Queued => queued += 1,
        }
    }
    assert!(queued > 0, "the kernel took {total} frames");
    for counter in 0..total {
        let (envelope, fds) = loop {
            match worker.recv().unwrap() {
                Some(received) => break received,
                None => drop(supervisor.flush().unwrap()),
            }
        };
        assert_eq!((envelope, fds.len()), (to_worker(counter), 1));
    }
    assert!(supervisor.is_flushed());
}

#[test]
fn a_peer_that_never_reads_is_reported_when_the_queue_is_full() {
    let (mut supervisor, _worker) = channels();
    let error = loop {
        if let Err(error) = supervisor.send(&to_worker(1), &[]) {
            break error;
        }
    };
    assert!(matches!(error, ChannelError::QueueFull), "{error}");
}

#[test]
fn a_closed_peer_is_told_apart_from_silence_and_what_it_sent_is_still_read() {
    let (mut supervisor, mut worker) = channels();
    assert!(worker.recv().unwrap().is_none());
    let _ = supervisor.send(&to_worker(1), &[]).unwrap();
    drop(supervisor);
    assert!(worker.recv().unwrap().is_some());
    assert!(matches!(worker.recv(), Err(ChannelError::Closed)));
    let ready = Envelope { generation: Generation(7), body: FromWorker::Ready };
    assert!(matches!(worker.send(&ready, &[]), Err(ChannelError::Closed)));
}

#[test]
fn what_a_dead_peer_sent_is_read_although_it_left_our_frames_unread() {
    let (mut supervisor, mut worker) = channels();
    let _ = supervisor.send(&to_worker(1), &[]).unwrap();
    let ready = Envelope { generation: Generation(7), body: FromWorker::Ready };
    let _ = worker.send(&ready, &[]).unwrap();
    drop(worker);
    assert_eq!(supervisor.recv().unwrap().unwrap().0, ready);
    assert!(matches!(supervisor.recv(), Err(ChannelError::Closed)));
}

#[test]
fn a_frame_over_the_limit_and_one_of_nonsense_are_errors() {
    let (supervisor, mut worker) = channels();
    let push = |bytes: &[u8]| push(supervisor.as_fd(), bytes, &[]).map(drop).unwrap();
    push(&vec![0; CONTROL_FRAME_BYTES_MAX + 100]);
    push(&[1, 250, 250]);
    let error = worker.recv().unwrap_err();
    assert!(
        matches!(error, ChannelError::TooLong(bytes) if bytes == CONTROL_FRAME_BYTES_MAX + 100)
    );
    assert!(matches!(worker.recv().unwrap_err(), ChannelError::Codec(_)));
}

#[test]
fn more_fds_than_the_limit_are_refused_by_the_sender() {
    let (mut supervisor, _worker) = channels();
    let file = temporary();
    let fds = vec![file.as_fd(); CONTROL_FDS_MAX + 1];
    assert!(matches!(supervisor.send(&to_worker(1), &fds), Err(ChannelError::TooManyFds(_))));
}

/// Runs in a process of its own: a limit on fds would disturb the tests beside.
#[test]
fn fds_that_do_not_fit_into_the_table_fail_closed_and_leave_none_open() {
    const INNER: &str = "TASUKI_TEST_TRUNCATION";
    if std::env::var_os(INNER).is_none() {
        let name =
            "channel::tests::fds_that_do_not_fit_into_the_table_fail_closed_and_leave_none_open";
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(INNER, "1")
            .status()
            .unwrap();
        assert!(status.success());
        return;
    }
    let open_fds = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let (mut supervisor, mut worker) = channels();
    let file = temporary();
    let _ = supervisor.send(&to_worker(1), &[file.as_fd(); 8]).unwrap();
    let _ = supervisor.send(&to_worker(2), &[file.as_fd()]).unwrap();
    let before = open_fds();
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let highest = u64::try_from(before).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, highest + 2, hard).unwrap();
    let error = worker.recv().unwrap_err();
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    assert!(matches!(error, ChannelError::NoFds(_)), "{error}");
    assert_eq!(error.fault(), Fault::Ours);
    assert_eq!(open_fds(), before);
    assert_eq!(worker.recv().unwrap().unwrap().0, to_worker(2), "the channel goes on");
}
