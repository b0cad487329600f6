//! The status socket's client; see docs/PROTOCOL.md.

use std::io;
use std::path::Path;
use std::time::Duration;
use tasuki_shared::limits::{CONSOLE_ANSWER_DEADLINE, CONSOLE_REPLY_BYTES_MAX};
use tasuki_shared::status::{Reply, Request};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("the supervisor cannot be reached: {0}")]
    Unreachable(#[source] io::Error),
    #[error("the supervisor did not answer within {0:?}")]
    Silent(Duration),
    #[error("the supervisor closed the connection")]
    Closed,
    #[error("the supervisor's answer cannot be read: {0}")]
    Unreadable(String),
}

/// Replies to one request, one after the other.
pub struct Replies {
    reader: BufReader<OwnedReadHalf>,
    /// Closing it would end the conversation.
    _writer: OwnedWriteHalf,
    line: Vec<u8>,
}

impl Replies {
    /// Sends a request, within the deadline of an answer.
    pub async fn to(socket: &Path, request: &Request) -> Result<Self, AskError> {
        let deadline = CONSOLE_ANSWER_DEADLINE;
        let sent = tokio::time::timeout(deadline, Self::send(socket, request));
        sent.await.map_err(|_| AskError::Silent(deadline))?
    }

    async fn send(socket: &Path, request: &Request) -> Result<Self, AskError> {
        let stream = UnixStream::connect(socket).await.map_err(AskError::Unreachable)?;
        let (reader, mut writer) = stream.into_split();
        let mut text =
            serde_json::to_vec(request).map_err(|error| AskError::Unreadable(error.to_string()))?;
        text.push(b'\n');
        writer.write_all(&text).await.map_err(AskError::Unreachable)?;
        Ok(Self { reader: BufReader::new(reader), _writer: writer, line: Vec::new() })
    }

    /// The next one, as its line without the end.
    pub async fn line(&mut self) -> Result<&[u8], AskError> {
        self.line.clear();
        let mut bounded = (&mut self.reader).take(CONSOLE_REPLY_BYTES_MAX);
        bounded.read_until(b'\n', &mut self.line).await.map_err(AskError::Unreachable)?;
        match self.line.strip_suffix(b"\n") {
            Some(line) => Ok(line),
            None if self.line.is_empty() => Err(AskError::Closed),
            None => Err(AskError::Unreadable("it is cut short or too long".to_owned())),
        }
    }

    pub async fn next(&mut self) -> Result<Reply, AskError> {
        let line = self.line().await?;
        serde_json::from_slice(line).map_err(|error| AskError::Unreadable(error.to_string()))
    }
}

/// The one reply to a request, at once or within `deadline`.
pub async fn once(socket: &Path, request: &Request, deadline: Duration) -> Result<Reply, AskError> {
    let asked = async { Replies::to(socket, request).await?.next().await };
    tokio::time::timeout(deadline, asked).await.map_err(|_| AskError::Silent(deadline))?
}
