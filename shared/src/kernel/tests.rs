use super::*;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;

fn connected() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let active = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (active, listener.accept().unwrap().0)
}

fn wait_readable(fd: BorrowedFd<'_>) {
    let mut polled = [nix::poll::PollFd::new(fd, nix::poll::PollFlags::POLLIN)];
    let ready = nix::poll::poll(&mut polled, 10_000_u16).unwrap();
    assert_eq!(ready, 1, "nothing became readable in ten seconds");
}

#[test]
fn consumed_counts_what_any_dup_read_and_nothing_that_waits() {
    let (mut active, mut accepted) = connected();
    let dup = accepted.try_clone().unwrap();
    active.write_all(&[7; 1000]).unwrap();
    wait_readable(accepted.as_fd());
    assert_eq!(inbound_consumed(dup.as_fd()).unwrap(), 0);
    let mut buffer = [0; 300];
    accepted.read_exact(&mut buffer).unwrap();
    assert_eq!(inbound_consumed(dup.as_fd()).unwrap(), 300);
}

#[test]
fn a_fin_is_no_consumed_byte_before_and_after_it_is_read() {
    let (mut active, mut accepted) = connected();
    active.write_all(&[7; 10]).unwrap();
    active.shutdown(Shutdown::Write).unwrap();
    let mut buffer = [0; 4];
    accepted.read_exact(&mut buffer).unwrap();
    assert_eq!(inbound_consumed(accepted.as_fd()).unwrap(), 4);
    let mut rest = Vec::new();
    accepted.read_to_end(&mut rest).unwrap();
    assert_eq!(inbound_consumed(accepted.as_fd()).unwrap(), 10);
}

#[test]
fn consumed_is_exact_while_bytes_keep_arriving() {
    let (mut active, mut accepted) = connected();
    let writer = std::thread::spawn(move || {
        for _ in 0..2000 {
            active.write_all(&[1; 777]).unwrap();
        }
    });
    let mut read = 0;
    let mut buffer = [0; 5000];
    loop {
        assert_eq!(inbound_consumed(accepted.as_fd()).unwrap(), read);
        match accepted.read(&mut buffer).unwrap() {
            0 => break,
            bytes => read += u64::try_from(bytes).unwrap(),
        }
    }
    assert_eq!(read, 2000 * 777);
    writer.join().unwrap();
}

#[test]
fn written_is_exact_for_both_ways_of_opening_whatever_is_acknowledged() {
    let (mut active, mut accepted) = connected();
    for round in 1..50_u64 {
        active.write_all(&[1; 333]).unwrap();
        accepted.write_all(&[1; 222]).unwrap();
        assert_eq!(outbound_written(active.as_fd(), Opened::Active).unwrap(), round * 333);
        assert_eq!(outbound_written(accepted.as_fd(), Opened::Accepted).unwrap(), round * 222);
    }
    active.shutdown(Shutdown::Write).unwrap();
    assert_eq!(outbound_written(active.as_fd(), Opened::Active).unwrap(), 49 * 333);
}

#[expect(clippy::zombie_processes, reason = "reaped through their pidfds")]
#[test]
fn a_child_is_reaped_once_with_the_way_it_died() {
    let sleeping = |program: &str, args: &[&str]| {
        Command::new(program).args(args).stdin(Stdio::piped()).spawn().unwrap()
    };
    let killed = sleeping("cat", &[]);
    let pidfd = pidfd_open(i32::try_from(killed.id()).unwrap()).unwrap();
    assert_eq!(reap(pidfd.as_fd()).unwrap(), None);
    pidfd_send_signal(pidfd.as_fd(), nix::sys::signal::Signal::SIGKILL).unwrap();
    wait_readable(pidfd.as_fd());
    assert_eq!(reap(pidfd.as_fd()).unwrap(), Some(Death::Signalled(9)));
    assert!(reap(pidfd.as_fd()).is_err());

    let left = sleeping("sh", &["-c", "exit 78"]);
    let pidfd = pidfd_open(i32::try_from(left.id()).unwrap()).unwrap();
    wait_readable(pidfd.as_fd());
    assert_eq!(reap(pidfd.as_fd()).unwrap(), Some(Death::Exited(78)));
}

#[test]
fn a_futex_wait_ends_by_wake_by_a_changed_word_and_by_time() {
    static WORD: AtomicU32 = AtomicU32::new(1);
    assert_eq!(futex_wait(&WORD, 0, None).unwrap(), Wait::Changed);
    let short = Some(Duration::from_millis(1));
    assert_eq!(futex_wait(&WORD, 1, short).unwrap(), Wait::TimedOut);
    let waker = std::thread::spawn(|| {
        WORD.store(2, Ordering::Release);
        futex_wake_all(&WORD).unwrap()
    });
    while WORD.load(Ordering::Acquire) == 1 {
        futex_wait(&WORD, 1, Some(Duration::from_secs(10))).unwrap();
    }
    assert!(waker.join().unwrap() <= 1);
}

#[test]
fn an_event_is_readable_from_its_signal_until_it_is_cleared() {
    let event = event().unwrap();
    assert_eq!(event_clear(&event).unwrap(), 0);
    event_signal(&event).unwrap();
    event_signal(&event).unwrap();
    wait_readable(event.as_fd());
    assert_eq!(event_clear(&event).unwrap(), 2);
    assert_eq!(event_clear(&event).unwrap(), 0);
}
