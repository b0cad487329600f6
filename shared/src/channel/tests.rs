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
fn frames_of_one_turn_share_datagrams_and_come_out_one_by_one_with_their_own_fds() {
    let (mut supervisor, mut worker) = channels();
    let files: Vec<_> = (0..3).map(|_| Arc::new(OwnedFd::from(temporary()))).collect();
    for (counter, fds) in [(1, &files[..1]), (2, &[]), (3, &files[1..])] {
        supervisor.queue(&to_worker(counter), fds).unwrap();
        assert!(worker.recv().unwrap().is_none(), "it went out before the flush");
    }
    assert!(!supervisor.is_flushed());
    assert_eq!((supervisor.outgoing.len(), supervisor.flush().unwrap()), (1, Sent::Sent));
    assert!(supervisor.is_flushed());
    let inode = |fd: &dyn AsRawFd| {
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path).unwrap())
    };
    let mut expected = files.iter().map(|file| inode(file));
    for (counter, count) in [(1, 1), (2, 0), (3, 2)] {
        let (envelope, fds) = worker.recv().unwrap().unwrap();
        assert_eq!((envelope, fds.len()), (to_worker(counter), count));
        for fd in &fds {
            assert_eq!(inode(fd), expected.next().unwrap());
        }
        assert_eq!(worker.has_received(), counter < 3);
    }
    assert!(worker.recv().unwrap().is_none());
}

#[test]
fn a_datagram_ends_where_the_next_frame_or_its_fds_do_not_fit() {
    let (mut supervisor, mut worker) = channels();
    let file = Arc::new(OwnedFd::from(temporary()));
    let many = vec![Arc::clone(&file); CONTROL_FDS_MAX];
    supervisor.queue(&to_worker(1), &many).unwrap();
    supervisor.queue(&to_worker(2), &many[..1]).unwrap();
    assert_eq!(supervisor.outgoing.len(), 2, "more fds than one datagram may carry");
    let session = SessionId { epoch: 1, counter: 3 };
    let reason = EndReason::Limit("x".repeat(CONTROL_FRAME_BYTES_MAX - 100));
    let long = Envelope { generation: Generation(7), body: ToWorker::End { session, reason } };
    supervisor.queue(&long, &[]).unwrap();
    supervisor.queue(&long, &[]).unwrap();
    assert_eq!(supervisor.outgoing.len(), 3, "one long frame fits behind the short one");
    assert_eq!(supervisor.flush().unwrap(), Sent::Sent);
    for expected in [to_worker(1), to_worker(2), long.clone(), long] {
        assert_eq!(worker.recv().unwrap().unwrap().0, expected);
    }
}

#[test]
fn fds_that_were_queued_stay_open_until_they_are_sent_and_no_longer() {
    let (mut supervisor, mut worker) = channels();
    let file = Arc::new(OwnedFd::from(temporary()));
    let watch = Arc::downgrade(&file);
    supervisor.queue(&to_worker(1), &[file]).unwrap();
    assert!(watch.upgrade().is_some());
    assert_eq!(supervisor.flush().unwrap(), Sent::Sent);
    assert!(watch.upgrade().is_none(), "sent, and still held here");
    assert_eq!(worker.recv().unwrap().unwrap().1.len(), 1);
}

/// A datagram as `frames` of {claimed fds, bytes}.
fn datagram(frames: &[(u8, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (fds, frame) in frames {
        bytes.extend_from_slice(&u16::try_from(frame.len()).unwrap().to_le_bytes());
        bytes.push(*fds);
        bytes.extend_from_slice(frame);
    }
    bytes
}

#[test]
fn datagrams_that_are_not_what_their_heads_say_are_the_peers_fault_and_yield_nothing() {
    let good = codec::encode(&to_worker(1)).unwrap();
    let whole = datagram(&[(0, &good), (0, &good)]);
    let (cut, mut longer) = (whole[..whole.len() - 1].to_vec(), whole.clone());
    longer.push(0);
    let mut overlong = datagram(&[(0, &good)]);
    overlong[0] += 1;
    let file = Arc::new(OwnedFd::from(temporary()));
    for (what, bytes, fds) in [
        ("a frame is cut", cut, 0),
        ("half a head follows", longer, 0),
        ("a length beyond the end", overlong, 0),
        ("an fd is missing", datagram(&[(1, &good)]), 0),
        ("an fd is left over", datagram(&[(1, &good), (0, &good)]), 2),
        ("more fds than the limit are told of", datagram(&[(200, &good), (200, &good)]), 1),
        ("fds and no frame", Vec::new(), 1),
        ("no head at all", vec![1, 250], 0),
    ] {
        let (supervisor, mut worker) = channels();
        let fds = vec![Arc::clone(&file); fds];
        // The kernel takes no empty datagram for one that carries fds.
        let sent = push(supervisor.as_fd(), &bytes, &fds).map(drop);
        sent.unwrap();
        let error = worker.recv().unwrap_err();
        assert!(matches!(error, ChannelError::Malformed), "{what}: {error}");
        assert_eq!(error.fault(), Fault::Peer, "{what}");
        assert_eq!(Arc::strong_count(&file), fds.len() + 1, "{what}");
        assert!(worker.recv().unwrap().is_none(), "{what}");
    }
}

#[test]
fn a_datagram_over_the_limit_and_a_frame_of_nonsense_are_errors_and_what_follows_is_not_read() {
    let (supervisor, mut worker) = channels();
    let push = |bytes: &[u8]| push(supervisor.as_fd(), bytes, &[]).map(drop).unwrap();
    push(&vec![0; CONTROL_DATAGRAM_BYTES_MAX + 100]);
    let good = codec::encode(&to_worker(1)).unwrap();
    push(&datagram(&[(0, &good), (0, &[1, 250, 250]), (0, &good)]));
    let error = worker.recv().unwrap_err();
    assert!(
        matches!(error, ChannelError::TooLong(bytes) if bytes == CONTROL_DATAGRAM_BYTES_MAX + 100)
    );
    assert_eq!(worker.recv().unwrap().unwrap().0, to_worker(1));
    assert!(matches!(worker.recv().unwrap_err(), ChannelError::Codec(_)));
    assert!(worker.recv().unwrap().is_none());
}

proptest::proptest! {
    /// Whatever is queued and whenever it is flushed and read: the same frames with as many fds
    /// come out, in order.
    #[test]
    fn any_turns_come_out_as_they_were_queued(
        turns in proptest::collection::vec(
            proptest::collection::vec((0_usize..4, 0_usize..3000), 0..60), 0..6),
    ) {
        let (mut supervisor, mut worker) = channels();
        let file = Arc::new(OwnedFd::from(temporary()));
        let session = SessionId { epoch: 1, counter: 1 };
        let frame = |bytes| Envelope {
            generation: Generation(7),
            body: ToWorker::End { session, reason: EndReason::Limit("x".repeat(bytes)) },
        };
        for turn in &turns {
            for (fds, bytes) in turn {
                supervisor.queue(&frame(*bytes), &vec![Arc::clone(&file); *fds]).unwrap();
            }
            let _ = supervisor.flush().unwrap();
        }
        for (fds, bytes) in turns.iter().flatten() {
            let (envelope, got) = loop {
                match worker.recv().unwrap() {
                    Some(received) => break received,
                    None => drop(supervisor.flush().unwrap()),
                }
            };
            proptest::prop_assert_eq!((envelope, got.len()), (frame(*bytes), *fds));
        }
        proptest::prop_assert!(worker.recv().unwrap().is_none());
        proptest::prop_assert!(supervisor.is_flushed() && supervisor.queued_frames == 0);
    }

    /// Any bytes with any fds are frames or one error: no panic, and nothing after the error.
    #[test]
    fn any_datagram_is_frames_or_an_error(
        mut bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 1..200),
        // Mostly lengths that fit, so that the frames are reached.
        lengths in proptest::collection::vec(0_u8..40, 0..6),
        fds in 0_usize..3,
    ) {
        let mut at = 0;
        for length in lengths {
            if at + 3 <= bytes.len() {
                bytes[at..at + 3].copy_from_slice(&[length, 0, length & 1]);
            }
            at += 3 + usize::from(length);
        }
        let (supervisor, mut worker) = channels();
        let file = Arc::new(OwnedFd::from(temporary()));
        push(supervisor.as_fd(), &bytes, &vec![file; fds]).map(drop).unwrap();
        let mut received = 0;
        loop {
            match worker.recv() {
                Ok(Some((_, own))) => received += own.len(),
                Ok(None) => break,
                Err(error) => {
                    proptest::prop_assert_eq!(error.fault(), Fault::Peer);
                    proptest::prop_assert!(worker.recv().unwrap().is_none());
                    break;
                }
            }
        }
        proptest::prop_assert!(received <= fds);
        proptest::prop_assert!(worker.incoming.fds.is_empty());
    }
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
    let shared = Arc::new(OwnedFd::from(file));
    for (counter, fds) in [(1, 1), (2, 7), (3, 0), (4, 1)] {
        supervisor.queue(&to_worker(counter), &vec![Arc::clone(&shared); fds]).unwrap();
    }
    assert_eq!((supervisor.outgoing.len(), supervisor.flush().unwrap()), (1, Sent::Sent));
    let _ = supervisor.send(&to_worker(5), &[shared.as_fd()]).unwrap();
    let before = open_fds();
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let highest = u64::try_from(before).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, highest + 2, hard).unwrap();
    let whole = worker.recv().unwrap().unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    assert_eq!((&whole.0, whole.1.len()), (&to_worker(1), 1), "its fd had room");
    drop(whole);
    let lost = |worker: &mut Worker| {
        let error = worker.recv().unwrap_err();
        assert!(matches!(error, ChannelError::NoFds(_)), "{error}");
        assert_eq!(error.fault(), Fault::Ours);
        assert_eq!(open_fds(), before);
    };
    lost(&mut worker);
    assert_eq!(worker.recv().unwrap().unwrap().0, to_worker(3), "it needs none");
    lost(&mut worker);
    assert_eq!(worker.recv().unwrap().unwrap().0, to_worker(5), "the channel goes on");
}
