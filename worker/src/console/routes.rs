//! Addresses of the console and their answers.
//!
//! | address | answer |
//! |---|---|
//! | `/`, files of the page | [`assets`](super::assets) |
//! | `/api/status` | the status, JSON |
//! | `/api/events` | what `tasuki watch` prints, as server-sent events |
//! | `/api/history` | footprints of the last hour |
//! | `POST /api/request` | a request of the status socket; its replies as JSON lines |
//! | `/api/threads?worker=SLOT` | what its threads do |
//! | `/api/evidence/NAME/` and files | what was saved of a recycled worker |
//! | `/thumb/APP/NAME.jpg` | a stream's thumbnail |
//! | `/metrics` | Prometheus |
//! | `/debug/pprof/heap`, `/debug/pprof/threads` with `?worker=SLOT` | profiles |
//! | `/availability` | what is free, JSON |
//! | `/healthz`, `/readyz` | 200 or 503; need no token |

use super::ask::{self, AskError, Replies};
use super::health::Availability;
use super::state::State;
use super::{assets, files, metrics, threads};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, Request, State as Shared};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, REFERRER_POLICY,
    WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderValue, Response, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use tasuki_shared::clock;
use tasuki_shared::id::PublicName;
use tasuki_shared::limits::{
    CONSOLE_ANSWER_DEADLINE, CONSOLE_LINES_AHEAD, CONSOLE_PROFILE_DEADLINE,
    CONSOLE_REQUEST_BYTES_MAX,
};
use tasuki_shared::plan::thumbnail_path;
use tasuki_shared::status;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::wrappers::ReceiverStream;

type Node = Arc<State>;
type Answer = Result<Response<Body>, Trouble>;

/// The page and what it asks for come from here; streams from delivery, thumbnails from either.
const POLICY: &str = "default-src 'self'; img-src 'self' data: blob: http: https:; \
    media-src 'self' blob:; connect-src *; style-src 'self' 'unsafe-inline'; \
    worker-src 'self' blob:; script-src 'self'; frame-ancestors 'none'; base-uri 'none'";
const JSON: &str = "application/json";

/// Why there is no answer.
enum Trouble {
    /// The supervisor's.
    Ask(AskError),
    NotFound(&'static str),
    Refused(String),
    Io(io::Error),
}

impl From<AskError> for Trouble {
    fn from(error: AskError) -> Self {
        Self::Ask(error)
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl IntoResponse for Trouble {
    fn into_response(self) -> axum::response::Response {
        let (status, reason) = match self {
            Self::Ask(error) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
            Self::NotFound(reason) => (StatusCode::NOT_FOUND, reason.to_owned()),
            Self::Refused(reason) => (StatusCode::CONFLICT, reason),
            Self::Io(error) if error.kind() == io::ErrorKind::NotFound => {
                (StatusCode::NOT_FOUND, "there is no such file".to_owned())
            }
            Self::Io(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        };
        refusal_of(status, &reason)
    }
}

/// What a program can read and a person too.
fn refusal_of(status: StatusCode, reason: &str) -> Response<Body> {
    let body = format!("{}\n", serde_json::json!({ "reason": reason }));
    (status, [(CONTENT_TYPE, JSON)], body).into_response()
}

/// Everything behind the guard, and in front of it what says only yes or no.
pub fn router(state: Node) -> Router {
    let guarded = Router::new()
        .route("/api/status", get(status))
        .route("/api/events", get(events))
        .route("/api/history", get(history))
        .route("/api/request", post(request))
        .route("/api/threads", get(thread_list))
        .route("/api/evidence/{name}/", get(evidence_names))
        .route("/api/evidence/{name}/{file}", get(evidence_file))
        .route("/thumb/{app}/{file}", get(thumbnail))
        .route("/metrics", get(prometheus))
        .route("/availability", get(availability))
        .route("/debug/pprof/heap", get(heap_profile))
        .route("/debug/pprof/threads", get(thread_profile))
        .route_layer(from_fn_with_state(Arc::clone(&state), admit));
    let open = Router::new().route("/healthz", get(healthz)).route("/readyz", get(readyz));
    guarded
        .merge(open)
        .fallback(get(page))
        .layer(axum::middleware::map_response(seal))
        .with_state(state)
}

async fn admit(Shared(state): Shared<Node>, request: Request, next: Next) -> Response<Body> {
    match state.guard.admit(request.method(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(denied @ super::guard::Denied::NoToken) => {
            let challenge = [(WWW_AUTHENTICATE, "Bearer realm=\"tasuki\"")];
            (challenge, refusal_of(StatusCode::UNAUTHORIZED, &denied.to_string())).into_response()
        }
        Err(
            denied @ (super::guard::Denied::ForeignHost
            | super::guard::Denied::ForeignOrigin
            | super::guard::Denied::NotJson),
        ) => refusal_of(StatusCode::FORBIDDEN, &denied.to_string()),
    }
}

/// What every answer says to a browser.
async fn seal(mut answer: Response<Body>) -> Response<Body> {
    let headers = answer.headers_mut();
    let fixed: [(HeaderName, &'static str); 4] = [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    answer
}

/// The page itself is no secret; what it shows is.
async fn page(request: Request) -> Answer {
    let found = assets::answer(request.uri().path(), request.headers());
    found.ok_or(Trouble::NotFound("there is nothing here; the console is at /"))
}

fn answer(kind: &'static str, body: impl Into<Body>) -> Response<Body> {
    ([(CONTENT_TYPE, kind)], body.into()).into_response()
}

fn json(value: &impl serde::Serialize) -> Answer {
    let text = serde_json::to_vec(value).map_err(|error| Trouble::Io(error.into()))?;
    Ok(answer(JSON, text))
}

async fn status(Shared(state): Shared<Node>) -> Answer {
    json(&*state.status().await?)
}

async fn history(Shared(state): Shared<Node>) -> Answer {
    let history = state.history().clone();
    json(&history)
}

async fn availability(Shared(state): Shared<Node>) -> Answer {
    json(&Availability::of(&*state.status().await?))
}

async fn prometheus(Shared(state): Shared<Node>) -> Answer {
    let status = state.status().await?;
    let text = metrics::render(&status).map_err(|error| Trouble::Refused(error.to_string()))?;
    Ok(answer(metrics::CONTENT_TYPE, text))
}

/// Does the supervisor answer?
async fn healthz(Shared(state): Shared<Node>) -> Answer {
    state.status().await?;
    Ok(answer("text/plain", "ok\n"))
}

/// Would a new publisher be admitted?
async fn readyz(Shared(state): Shared<Node>) -> Response<Body> {
    match state.status().await.map(|status| Availability::of(&status)) {
        Ok(free) if free.ready => answer("text/plain", "ready\n"),
        Ok(free) => (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", free.reason)).into_response(),
        Err(error) => Trouble::Ask(error).into_response(),
    }
}

/// What becomes of a line, and whether another follows.
enum Framed {
    Line(Vec<u8>),
    Last(Vec<u8>),
}

/// Lines of a conversation with the supervisor, each put into a frame, until the last one, or it or
/// the client leaves.
fn lines(mut replies: Replies, frame: impl Fn(&[u8]) -> Framed + Send + 'static) -> Body {
    let (sender, receiver) = mpsc::channel(CONSOLE_LINES_AHEAD);
    tokio::spawn(async move {
        loop {
            let line = tokio::select! {
                line = replies.line() => line,
                () = sender.closed() => return,
            };
            let Ok(line) = line else { return };
            let (bytes, is_last) = match frame(line) {
                Framed::Line(bytes) => (bytes, false),
                Framed::Last(bytes) => (bytes, true),
            };
            let sent = sender.send(Ok::<_, io::Error>(Bytes::from(bytes))).await;
            if is_last || sent.is_err() {
                return;
            }
        }
    });
    Body::from_stream(ReceiverStream::new(receiver))
}

/// Conversations with the supervisor that last: its other clients want places as well.
fn place(state: &State) -> Result<OwnedSemaphorePermit, Trouble> {
    let full = |_| Trouble::Refused("too many pages and commands are open; close some".to_owned());
    Arc::clone(&state.conversations).try_acquire_owned().map_err(full)
}

async fn events(Shared(state): Shared<Node>) -> Answer {
    let place = place(&state)?;
    let replies = Replies::to(&state.socket, &status::Request::Watch).await?;
    let event = move |line: &[u8]| {
        // Held as long as lines come.
        let _place = &place;
        Framed::Line([b"data: ", line, b"\n\n"].concat())
    };
    Ok(answer("text/event-stream", lines(replies, event)))
}

/// Any request of the status socket that is answered with an end.
async fn request(Shared(state): Shared<Node>, body: Body) -> Answer {
    let place = place(&state)?;
    let read = axum::body::to_bytes(body, CONSOLE_REQUEST_BYTES_MAX);
    let body = tokio::time::timeout(CONSOLE_ANSWER_DEADLINE, read).await;
    let body = body.map_err(|_| Trouble::Refused("the request did not come in time".to_owned()))?;
    let body = body.map_err(|_| Trouble::Refused("the request is too long".to_owned()))?;
    let asked: status::Request = serde_json::from_slice(&body)
        .map_err(|error| Trouble::Refused(format!("no request of the status socket: {error}")))?;
    match asked {
        // Answered by one line and no end.
        status::Request::Status
        | status::Request::Watch
        | status::Request::Heap { .. }
        | status::Request::Threads { .. } => {
            Err(Trouble::Refused("this has an address of its own here".to_owned()))
        }
        status::Request::End { .. }
        | status::Request::Rotate { .. }
        | status::Request::Move { .. }
        | status::Request::Drain => {
            tracing::info!(request = %String::from_utf8_lossy(&body), "asked for in the console");
            let replies = Replies::to(&state.socket, &asked).await?;
            let reply = move |line: &[u8]| {
                let _place = &place;
                reply_line(line)
            };
            Ok(answer("application/jsonl", lines(replies, reply)))
        }
    }
}

/// A rotation tells of each worker, everything else of itself.
fn reply_line(line: &[u8]) -> Framed {
    let bytes = [line, b"\n"].concat();
    match serde_json::from_slice(line) {
        Ok(status::Reply::Recycled(_)) => Framed::Line(bytes),
        Ok(_) | Err(_) => Framed::Last(bytes),
    }
}

#[derive(Deserialize)]
struct Whose {
    worker: String,
}

async fn threads_of(state: &State, worker: String) -> Result<Vec<status::ThreadStatus>, Trouble> {
    let asked = status::Request::Threads { worker };
    let reply = ask::once(&state.socket, &asked, CONSOLE_PROFILE_DEADLINE).await?;
    let status::Reply::Threads { worker: _, threads } = reply else { return Err(refusal(reply)) };
    Ok(threads)
}

fn refusal(reply: status::Reply) -> Trouble {
    match reply {
        status::Reply::Refused { reason } => Trouble::Refused(reason),
        other @ (status::Reply::Status(_)
        | status::Reply::Event(_)
        | status::Reply::Recycled(_)
        | status::Reply::Moved(_)
        | status::Reply::Heap { .. }
        | status::Reply::Threads { .. }
        | status::Reply::Done) => Trouble::Refused(format!("answered by {other:?}")),
    }
}

async fn thread_list(Shared(state): Shared<Node>, Query(whose): Query<Whose>) -> Answer {
    json(&threads_of(&state, whose.worker).await?)
}

async fn thread_profile(Shared(state): Shared<Node>, Query(whose): Query<Whose>) -> Answer {
    let threads = threads_of(&state, whose.worker).await?;
    Ok(answer("application/octet-stream", threads::profile(&threads, clock::unix_ms())?))
}

async fn heap_profile(Shared(state): Shared<Node>, Query(whose): Query<Whose>) -> Answer {
    let asked = status::Request::Heap { worker: whose.worker };
    let reply = ask::once(&state.socket, &asked, CONSOLE_PROFILE_DEADLINE).await?;
    let status::Reply::Heap { worker: _, profile } = reply else { return Err(refusal(reply)) };
    let packed = STANDARD.decode(profile).map_err(io::Error::other)?;
    Ok(answer("application/octet-stream", packed))
}

const NO_EVIDENCE: Trouble = Trouble::NotFound("no recycle that is told of has this evidence");

async fn evidence_names(Shared(state): Shared<Node>, Path(name): Path<String>) -> Answer {
    let status = state.status().await?;
    let directory = files::evidence_directory(&status, &name).ok_or(NO_EVIDENCE)?;
    json(&off_thread(move || files::names(&directory)).await?)
}

async fn evidence_file(
    Shared(state): Shared<Node>,
    Path((name, file)): Path<(String, String)>,
) -> Answer {
    let status = state.status().await?;
    let directory = files::evidence_directory(&status, &name).ok_or(NO_EVIDENCE)?;
    let kind = if file.ends_with(".txt") { "text/plain" } else { "application/octet-stream" };
    Ok(answer(kind, off_thread(move || files::read(&directory, &file)).await?))
}

async fn thumbnail(
    Shared(state): Shared<Node>,
    Path((app, file)): Path<(String, String)>,
) -> Answer {
    let path = || -> Option<PathBuf> {
        let app = PublicName::parse(&app).ok()?;
        let name = PublicName::parse(file.strip_suffix(".jpg")?).ok()?;
        Some(thumbnail_path(&state.hls_root, app.as_str(), &name))
    };
    let path = path().ok_or(Trouble::NotFound("a thumbnail is at /thumb/APP/NAME.jpg"))?;
    Ok(answer("image/jpeg", off_thread(move || std::fs::read(path)).await?))
}

async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
