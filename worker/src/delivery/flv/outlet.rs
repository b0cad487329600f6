//! The ways to a viewer: the body of a response, or a WebSocket. Each holds one chunk while the
//! socket takes another.

use crate::delivery::Connection;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

/// What became of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Took {
    It,
    /// The viewer is gone.
    Leave,
}

/// Where chunks go.
pub trait Outlet {
    /// Waits until there is room.
    fn give(&mut self, chunk: Bytes) -> impl Future<Output = Took>;
    /// Returns when the viewer is gone.
    fn left(&mut self) -> impl Future<Output = ()>;
    /// Nothing follows.
    fn finish(&mut self) -> impl Future<Output = ()>;
    /// Closes the connection under what waits to be sent.
    fn break_off(&self);
}

/// The body of any answer.
pub enum AnswerBody {
    Whole(Full<Bytes>),
    /// It comes piece by piece and is over when its sender is.
    Live(mpsc::Receiver<Bytes>),
}

impl From<Bytes> for AnswerBody {
    fn from(bytes: Bytes) -> Self {
        Self::Whole(Full::new(bytes))
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body).poll_frame(context),
            Self::Live(chunks) => {
                chunks.poll_recv(context).map(|chunk| chunk.map(|chunk| Ok(Frame::data(chunk))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Live(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Live(_) => SizeHint::default(),
        }
    }
}

/// The sending end of [`AnswerBody::Live`].
pub struct BodyOutlet {
    chunks: mpsc::Sender<Bytes>,
    connection: Rc<Connection>,
}

impl BodyOutlet {
    #[must_use]
    pub fn new(connection: Rc<Connection>) -> (Self, AnswerBody) {
        let (chunks, receiver) = mpsc::channel(1);
        (Self { chunks, connection }, AnswerBody::Live(receiver))
    }
}

impl Outlet for BodyOutlet {
    async fn give(&mut self, chunk: Bytes) -> Took {
        match self.chunks.send(chunk).await {
            Ok(()) => Took::It,
            Err(_) => Took::Leave,
        }
    }

    async fn left(&mut self) {
        self.chunks.closed().await;
    }

    async fn finish(&mut self) {}

    fn break_off(&self) {
        self.connection.break_off();
    }
}

/// A WebSocket, and the connection it was, which is counted for as long.
pub struct SocketOutlet {
    pub socket: WebSocketStream<TokioIo<Upgraded>>,
    pub connection: Rc<Connection>,
}

impl Outlet for SocketOutlet {
    async fn give(&mut self, chunk: Bytes) -> Took {
        match self.socket.send(Message::Binary(chunk)).await {
            Ok(()) => Took::It,
            Err(_) => Took::Leave,
        }
    }

    /// Pings are answered meanwhile; what else a viewer says means nothing.
    async fn left(&mut self) {
        while let Some(Ok(_)) = self.socket.next().await {}
    }

    async fn finish(&mut self) {
        let _left_already = self.socket.close(None).await;
        while let Some(Ok(_)) = self.socket.next().await {}
    }

    /// Its end is that of the outlet.
    fn break_off(&self) {}
}
