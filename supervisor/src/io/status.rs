//! The status socket: JSON lines for the command line and whoever watches.
//!
//! Who may ask is the kernel's affair (connecting needs write permission on the socket, unix(7)) and,
//! while the mode names the owner alone, ours too: then only our own uid and root are answered.
//! Lines, clients and waiting events are bounded; a client that does not read or ask is dropped, and
//! never slows the supervisor down.

use crate::core::event::Event;
use crate::event_loop::SharedShell;
use crate::io::evidence;
use interprocess::local_socket::prelude::*;
use interprocess::local_socket::tokio::{Listener, Stream};
use interprocess::local_socket::traits::StreamCommon;
use interprocess::local_socket::traits::tokio::Listener as _;
use interprocess::local_socket::{GenericFilePath, ListenerOptions};
use interprocess::os::unix::local_socket::ListenerOptionsExt;
use std::cell::Cell;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;
use tasuki_shared::limits::{
    STATUS_CLIENTS_MAX, STATUS_LINE_BYTES_MAX, STATUS_REQUEST_DEADLINE, STATUS_WRITE_DEADLINE,
};
use tasuki_shared::status::{Reply, Request};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::sync::{broadcast, mpsc};

/// Why there is no status socket.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    #[error("{path}: another server is running and answers on this status socket")]
    Occupied { path: String },
    #[error("{path}: is there and is no socket")]
    NotASocket { path: String },
    #[error("{path}: not a safe directory for the status socket: {reason}")]
    Directory { path: String, reason: &'static str },
    #[error("{path}: {source}")]
    Io {
        path: String,
        #[source]
        source: io::Error,
    },
}

/// Binds the socket. A file that a dead server left is replaced; a live one is refused.
pub fn bind(path: &Path, mode: u32) -> Result<Listener, StatusError> {
    let text = || path.display().to_string();
    let failed = |source| StatusError::Io { path: text(), source };
    if let Some(directory) = path.parent() {
        let access = if mode & 0o060 == 0 { 0o700 } else { 0o750 };
        let made = std::fs::DirBuilder::new().recursive(true).mode(access).create(directory);
        // What stands there instead is named by the check.
        made.or_else(|error| if directory.exists() { Ok(()) } else { Err(error) })
            .map_err(failed)?;
        check_directory(directory, nix::unistd::geteuid().as_raw())?;
    }
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(StatusError::NotASocket { path: text() });
        }
        Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => return Err(StatusError::Occupied { path: text() }),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let name = path.to_fs_name::<GenericFilePath>().map_err(failed)?;
    let listener = ListenerOptions::new().name(name).mode(mode).create_tokio().map_err(failed)?;
    // bind(2) takes what the umask forbids off the mode; until here it was only stricter.
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
    std::fs::set_permissions(path, permissions).map_err(failed)?;
    Ok(listener)
}

/// In a directory where others may write, the socket could be theirs.
fn check_directory(directory: &Path, uid: u32) -> Result<(), StatusError> {
    const WRITABLE_BY_OTHERS: u32 = 0o022;
    const WRITABLE_BY_ALL: u32 = 0o002;
    const STICKY: u32 = 0o1000;
    let refuse =
        |reason| Err(StatusError::Directory { path: directory.display().to_string(), reason });
    // In a place where everybody may make names, a link could lead anywhere.
    let shared_parent = directory
        .parent()
        .and_then(|parent| std::fs::metadata(parent).ok())
        .is_some_and(|parent| parent.mode() & WRITABLE_BY_ALL != 0);
    let metadata = if shared_parent {
        std::fs::symlink_metadata(directory)
    } else {
        std::fs::metadata(directory)
    };
    let metadata = metadata
        .map_err(|source| StatusError::Io { path: directory.display().to_string(), source })?;
    let owner = metadata.uid();
    let forbidden = if shared_parent { WRITABLE_BY_OTHERS } else { WRITABLE_BY_ALL };
    if !metadata.is_dir() {
        refuse("it is no directory")
    } else if owner != uid && (shared_parent || owner != 0) {
        refuse("it belongs to another user")
    // Where the user's own group may write, by the umask of many, is no place of strangers.
    } else if metadata.mode() & forbidden != 0 && metadata.mode() & STICKY == 0 {
        refuse("other users may write to it")
    } else {
        Ok(())
    }
}

/// Answers clients until the task is aborted.
pub async fn serve(shell: SharedShell, listener: Listener, mode: u32) {
    let clients = Rc::new(Cell::new(0));
    loop {
        match listener.accept().await {
            Ok(stream) if !(mode & 0o060 != 0 || is_ours(&stream)) => drop(stream),
            Ok(stream) if clients.get() >= STATUS_CLIENTS_MAX => {
                let reason = format!("{STATUS_CLIENTS_MAX} clients are connected already");
                // The buffer of a new connection takes a line at once; if not, it is not told.
                let _ = answer(&stream, &Reply::Refused { reason }).await;
            }
            Ok(stream) => {
                let seat = Seat::take(&clients);
                let shell = shell.clone();
                tokio::task::spawn_local(async move {
                    let _seat = seat;
                    // A client that goes away in mid-reply is no event.
                    let _ = converse(shell, stream).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "status socket");
                tokio::time::sleep(tasuki_shared::limits::ACCEPT_PAUSE).await;
            }
        }
    }
}

struct Seat(Rc<Cell<usize>>);

impl Seat {
    fn take(clients: &Rc<Cell<usize>>) -> Self {
        clients.set(clients.get() + 1);
        Self(Rc::clone(clients))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

fn is_ours(stream: &Stream) -> bool {
    let euid = stream.peer_creds().ok().and_then(|credentials| credentials.euid());
    euid.is_some_and(|euid| euid == 0 || euid == nix::unistd::geteuid().as_raw())
}

async fn converse(shell: SharedShell, stream: Stream) -> io::Result<()> {
    let mut receiver = BufReader::new(&stream);
    let mut line = Vec::new();
    loop {
        let read = read_request(&mut receiver, &mut line, STATUS_REQUEST_DEADLINE).await?;
        if read == 0 {
            return Ok(());
        }
        if line.last() != Some(&b'\n') && read == STATUS_LINE_BYTES_MAX {
            let reason = format!("a request is at most {STATUS_LINE_BYTES_MAX} bytes");
            return answer(&stream, &Reply::Refused { reason }).await;
        }
        match serde_json::from_slice::<Request>(&line) {
            Ok(Request::Status) => {
                let status = shell.borrow().status();
                answer(&stream, &Reply::Status(Box::new(status))).await?;
            }
            Ok(Request::Watch) => {
                let events = shell.borrow().watch();
                return watch(&stream, events).await;
            }
            Ok(Request::Rotate { worker, reason, haste }) => {
                let ask = |ticket| Event::Rotate { ticket, worker, reason, haste };
                let replies = shell.borrow_mut().ask(ask);
                relay(&stream, replies).await?;
            }
            Ok(Request::Move { session, haste }) => {
                let parsed = shell.borrow().parse_session(&session);
                match parsed {
                    Ok(session) => {
                        let ask = |ticket| Event::Move { ticket, session, haste };
                        let replies = shell.borrow_mut().ask(ask);
                        relay(&stream, replies).await?;
                    }
                    Err(reason) => answer(&stream, &Reply::Refused { reason }).await?,
                }
            }
            Ok(Request::Drain) => {
                shell.borrow_mut().on(Event::Drain);
                answer(&stream, &Reply::Done).await?;
            }
            Ok(Request::Heap { worker }) => {
                let reply = evidence::heap_reply(&shell, worker).await;
                answer(&stream, &reply).await?;
            }
            Ok(Request::Threads { worker }) => {
                let reply = evidence::threads_reply(&shell, worker).await;
                answer(&stream, &reply).await?;
            }
            Ok(Request::End { session }) => {
                let reply = match shell.borrow_mut().end_session(&session) {
                    Ok(()) => Reply::Done,
                    Err(reason) => Reply::Refused { reason },
                };
                answer(&stream, &reply).await?;
            }
            Err(error) => {
                let reason = format!("not a request: {error}");
                answer(&stream, &Reply::Refused { reason }).await?;
            }
        }
    }
}

/// Answers as they come, until the last or until the client leaves. What was asked for goes on.
async fn relay(stream: &Stream, mut replies: mpsc::Receiver<Reply>) -> io::Result<()> {
    let mut receiver = stream;
    let mut ignored = [0; 256];
    loop {
        tokio::select! {
            reply = replies.recv() => match reply {
                Some(reply) => answer(stream, &reply).await?,
                None => return Ok(()),
            },
            read = receiver.read(&mut ignored) => {
                if read? == 0 {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
            }
        }
    }
}

/// Reads one line, of at most so many bytes and whole within `deadline`; 0 at the end.
async fn read_request(
    receiver: &mut (impl AsyncBufRead + Unpin),
    line: &mut Vec<u8>,
    deadline: Duration,
) -> io::Result<usize> {
    line.clear();
    let most = u64::try_from(STATUS_LINE_BYTES_MAX).unwrap_or(u64::MAX);
    let mut request = receiver.take(most);
    let asked = request.read_until(b'\n', line);
    let asked = tokio::time::timeout(deadline, asked).await;
    asked.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// Events until the client leaves or falls too far behind.
async fn watch(stream: &Stream, mut events: broadcast::Receiver<Reply>) -> io::Result<()> {
    let mut receiver = stream;
    let mut ignored = [0; 256];
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Ok(event) => answer(stream, &event).await?,
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    let reason = format!("{missed} events behind");
                    return answer(stream, &Reply::Refused { reason }).await;
                }
                Err(broadcast::error::RecvError::Closed) => return Ok(()),
            },
            read = receiver.read(&mut ignored) => if read? == 0 { return Ok(()) },
        }
    }
}

async fn answer(mut stream: &Stream, reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    tokio::time::timeout(STATUS_WRITE_DEADLINE, stream.write_all(&line))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::PathBuf;

    /// A directory of this test's own, removed with it.
    struct Place(PathBuf);

    impl Place {
        fn new(name: &str, mode: u32) -> Self {
            let path =
                std::env::temp_dir().join(format!("tasuki-status-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            Self(path)
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn reason(directory: &Path, uid: u32) -> &'static str {
        match check_directory(directory, uid) {
            Err(StatusError::Directory { reason, .. }) => reason,
            other @ (Ok(()) | Err(_)) => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_directory_that_others_own_link_or_write_to_is_refused_by_name() {
        let uid = nix::unistd::geteuid().as_raw();
        let own = Place::new("own", 0o700);
        assert!(check_directory(&own.0, uid).is_ok());
        assert_eq!(reason(&own.0, uid + 1), "it belongs to another user");
        let open = Place::new("open", 0o777);
        assert_eq!(reason(&open.0, uid), "other users may write to it");
        let linked = open.0.join("link");
        symlink(&own.0, &linked).unwrap();
        assert_eq!(reason(&linked, uid), "it is no directory");
        let sticky = Place::new("sticky", 0o1777);
        assert!(check_directory(&sticky.0, uid).is_ok());
        let file = own.0.join("file");
        std::fs::write(&file, "").unwrap();
        assert_eq!(reason(&file, uid), "it is no directory");
    }

    fn block_on<T>(test: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test)
    }

    /// Who may connect is what the mode says, whatever the umask; the directory lets them in.
    #[test]
    fn socket_and_directory_have_the_mode_that_was_asked_for() {
        for (mode, of_directory) in [(0o600, 0o700), (0o660, 0o750)] {
            let place = Place::new(&format!("mode-{mode:o}"), 0o700);
            let directory = place.0.join("run");
            let path = directory.join("status.sock");
            block_on(async {
                let _listener = bind(&path, mode).unwrap();
                assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, mode);
                let made = std::fs::metadata(&directory).unwrap().mode() & 0o777;
                assert_eq!(made, of_directory, "{made:o}");
            });
        }
    }

    /// A client that says nothing, or never ends its line, is given up after the deadline; what
    /// was asked before it is read.
    #[test]
    fn a_request_must_be_whole_within_its_deadline() {
        block_on(async {
            let (mut client, server) = tokio::net::UnixStream::pair().unwrap();
            let mut receiver = BufReader::new(server);
            let mut line = Vec::new();
            let patient = Duration::from_secs(60);
            client.write_all(b"whole\nhalf of").await.unwrap();
            assert_eq!(read_request(&mut receiver, &mut line, patient).await.unwrap(), 6);
            assert_eq!(line, b"whole\n");
            for _said_half_and_nothing in 0..2 {
                let short = Duration::from_millis(20);
                let error = read_request(&mut receiver, &mut line, short).await.unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            }
            drop(client);
            assert_eq!(read_request(&mut receiver, &mut line, patient).await.unwrap(), 0);
        });
    }
}
