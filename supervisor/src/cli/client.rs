//! A client of the status socket: one JSON request a line, JSON replies.

use interprocess::local_socket::traits::Stream as _;
use interprocess::local_socket::{GenericFilePath, Stream, ToFsName};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tasuki_shared::config::client_sockets;
use tasuki_shared::exit::Exit;
use tasuki_shared::limits::{
    EVIDENCE_REPLY_DEADLINE, STATUS_REPLY_BYTES_MAX, STATUS_REPLY_DEADLINE,
};
use tasuki_shared::status::{Reply, Request};

/// Which socket to talk to.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct SocketArgument {
    /// Status socket of the server; found by itself where the server uses the default
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error(
        "no server listens at {}\n  start one with: tasuki serve\n  \
         or name the socket of a running one with: --socket PATH",
        path.display()
    )]
    NobodyListens { path: PathBuf },
    #[error("not allowed to use {}: run this as the user that runs the server", path.display())]
    NotAllowed { path: PathBuf },
    #[error("cannot talk to {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("the server at {} did not answer in time", path.display())]
    Silent { path: PathBuf },
    #[error("the server at {} closed the connection without an answer", path.display())]
    Closed { path: PathBuf },
    #[error("what listens at {} does not speak this version's protocol: {reason}", path.display())]
    Protocol { path: PathBuf, reason: String },
    #[error("the server refused: {reason}")]
    Refused { reason: String },
}

impl ClientError {
    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::NotAllowed { .. } => Exit::Permission,
            Self::Protocol { .. } => Exit::Protocol,
            Self::NobodyListens { .. }
            | Self::Io { .. }
            | Self::Silent { .. }
            | Self::Closed { .. }
            | Self::Refused { .. } => Exit::Failure,
        }
    }
}

/// A connection to the server.
pub(super) struct Client {
    path: PathBuf,
    stream: BufReader<Stream>,
}

/// A reply and the line it was read from.
#[derive(Debug)]
pub(super) struct Answer {
    pub reply: Reply,
    pub line: String,
}

/// How long to wait for a line.
#[derive(Clone, Copy, Debug)]
pub(super) enum Patience {
    Bounded,
    /// The server has to ask a worker first.
    Evidence,
    /// Until the server leaves.
    Endless,
}

impl Client {
    pub(super) fn connect(argument: &SocketArgument) -> Result<Self, ClientError> {
        let path = choose(argument);
        let refuse = |source: io::Error| connect_error(&path, source);
        let name = path.as_path().to_fs_name::<GenericFilePath>().map_err(refuse)?;
        let stream = Stream::connect(name).map_err(refuse)?;
        stream.set_send_timeout(Some(STATUS_REPLY_DEADLINE)).map_err(refuse)?;
        Ok(Self { stream: BufReader::new(stream), path })
    }

    /// Sends a request and waits for its first reply; a refusal is an error.
    pub(super) fn ask(&mut self, request: &Request) -> Result<Answer, ClientError> {
        self.ask_patiently(request, Patience::Bounded)
    }

    /// The same, for what takes a worker's time.
    pub(super) fn ask_patiently(
        &mut self,
        request: &Request,
        patience: Patience,
    ) -> Result<Answer, ClientError> {
        let sent = self.send(request);
        match self.next(patience) {
            Ok(Some(answer)) => Ok(answer),
            // A server that is full says so without waiting for the request.
            Err(refused @ ClientError::Refused { .. }) => Err(refused),
            Ok(None) => sent.and(Err(ClientError::Closed { path: self.path.clone() })),
            Err(error) => Err(sent.err().unwrap_or(error)),
        }
    }

    pub(super) fn send(&mut self, request: &Request) -> Result<(), ClientError> {
        let mut line = serde_json::to_vec(request).map_err(|error| self.io(error.into()))?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line).map_err(|error| self.io(error))
    }

    /// The next reply; `None` when the server has closed the connection.
    pub(super) fn next(&mut self, patience: Patience) -> Result<Option<Answer>, ClientError> {
        let timeout: Option<Duration> = match patience {
            Patience::Bounded => Some(STATUS_REPLY_DEADLINE),
            Patience::Evidence => Some(EVIDENCE_REPLY_DEADLINE),
            Patience::Endless => None,
        };
        self.stream.get_ref().set_recv_timeout(timeout).map_err(|error| self.io(error))?;
        let bound = u64::try_from(STATUS_REPLY_BYTES_MAX).unwrap_or(u64::MAX);
        let mut line = Vec::new();
        let read = (&mut self.stream).take(bound).read_until(b'\n', &mut line);
        read.map_err(|error| self.io(error))?;
        match line.pop() {
            None => return Ok(None),
            Some(b'\n') => {}
            Some(_) => return Err(self.protocol("a line is cut off or too long")),
        }
        let line = String::from_utf8(line).map_err(|_| self.protocol("a line is not UTF-8"))?;
        match serde_json::from_str(&line) {
            Ok(Reply::Refused { reason }) => Err(ClientError::Refused { reason }),
            Ok(
                reply @ (Reply::Status(_)
                | Reply::Event(_)
                | Reply::Recycled(_)
                | Reply::Moved(_)
                | Reply::Heap { .. }
                | Reply::Threads { .. }
                | Reply::Done),
            ) => Ok(Some(Answer { reply, line })),
            Err(error) => Err(self.protocol(&error.to_string())),
        }
    }

    /// The error for a reply that does not belong to the request.
    pub(super) fn unexpected(&self) -> ClientError {
        self.protocol("the reply belongs to another request")
    }

    /// The error for a connection that ended before the last reply.
    pub(super) fn closed(&self) -> ClientError {
        ClientError::Closed { path: self.path.clone() }
    }

    fn protocol(&self, reason: &str) -> ClientError {
        ClientError::Protocol { path: self.path.clone(), reason: reason.to_owned() }
    }

    fn io(&self, source: io::Error) -> ClientError {
        let path = self.path.clone();
        // A receive timeout is EAGAIN (socket(7)).
        if matches!(source.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) {
            ClientError::Silent { path }
        } else if matches!(source.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) {
            ClientError::Closed { path }
        } else {
            ClientError::Io { path, source }
        }
    }
}

/// The named socket, else the first default that exists, else the first default.
fn choose(argument: &SocketArgument) -> PathBuf {
    if let Some(path) = &argument.socket {
        return path.clone();
    }
    let candidates = client_sockets();
    let exists = candidates.iter().position(|path| path.exists()).unwrap_or(0);
    candidates.into_iter().nth(exists).unwrap_or_default()
}

fn connect_error(path: &Path, source: io::Error) -> ClientError {
    let path = path.to_owned();
    if matches!(source.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) {
        ClientError::NobodyListens { path }
    } else if source.kind() == ErrorKind::PermissionDenied {
        ClientError::NotAllowed { path }
    } else {
        ClientError::Io { path, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// A directory of this test's own, removed with it.
    struct Directory(PathBuf);

    impl Directory {
        fn new() -> Self {
            static COUNTER: AtomicU32 = AtomicU32::new(0);
            let number = COUNTER.fetch_add(1, Ordering::Relaxed);
            let name = format!("tasuki-client-{}-{number}", std::process::id());
            let path = std::env::temp_dir().join(name);
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    /// Asks a server that answers every request with `reply`.
    fn ask(reply: &'static [u8]) -> (Result<Answer, ClientError>, String) {
        let directory = Directory::new();
        let path = directory.0.join("s.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = String::new();
            BufReader::new(&stream).read_line(&mut request).unwrap();
            stream.write_all(reply).unwrap();
            request
        });
        let mut client = Client::connect(&SocketArgument { socket: Some(path) }).unwrap();
        let answer = client.ask(&Request::End { session: "5-1".into() });
        (answer, server.join().unwrap())
    }

    #[test]
    fn a_request_is_one_json_line_and_the_reply_is_kept_as_it_came() {
        let (answer, request) = ask(b"{\"reply\":\"done\"}\n");
        assert_eq!(request, "{\"request\":\"end\",\"session\":\"5-1\"}\n");
        let answer = answer.unwrap();
        assert_eq!((answer.reply, answer.line.as_str()), (Reply::Done, "{\"reply\":\"done\"}"));
    }

    #[test]
    fn a_refusal_a_close_and_nonsense_are_told_apart() {
        let (refused, _) = ask(b"{\"reply\":\"refused\",\"reason\":\"no such session\"}\n");
        assert_eq!(refused.unwrap_err().to_string(), "the server refused: no such session");
        assert!(matches!(ask(b"").0, Err(ClientError::Closed { .. })));
        assert!(matches!(ask(b"{\"reply\":\"do").0, Err(ClientError::Protocol { .. })));
        assert!(matches!(ask(b"HTTP/1.1 400\n").0, Err(ClientError::Protocol { .. })));
        assert!(matches!(ask(b"\xff\n").0, Err(ClientError::Protocol { .. })));
    }

    #[test]
    fn when_nobody_listens_the_error_names_the_socket_and_the_way_to_start() {
        let directory = Directory::new();
        let path = directory.0.join("s.sock");
        // Once without a file, once with the socket a dead server left behind.
        for _ in 0..2 {
            let argument = SocketArgument { socket: Some(path.clone()) };
            let said = Client::connect(&argument).err().unwrap().to_string();
            assert!(said.contains(&path.display().to_string()), "{said}");
            assert!(said.contains("tasuki serve"), "{said}");
            if !path.exists() {
                drop(UnixListener::bind(&path).unwrap());
            }
        }
    }
}
