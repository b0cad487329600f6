//! From a request to a WebSocket (RFC 6455, 4.2).

use super::outlet::{AnswerBody, SocketOutlet};
use super::viewer::Viewer;
use crate::delivery::Connection;
use bytes::Bytes;
use http::header::{
    CONNECTION, HeaderMap, HeaderValue, ORIGIN, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{Response, StatusCode, Version};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::rc::Rc;
use tasuki_shared::limits::FLV_HEARD_BYTES_MAX;
use tokio::task::spawn_local;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

const PROTOCOL: &str = "websocket";

/// What a request is, as far as WebSockets go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// Plain HTTP.
    None,
    /// `Sec-WebSocket-Accept`.
    Good(String),
    Refused(StatusCode, &'static str),
}

impl Handshake {
    #[must_use]
    pub fn of(version: Version, headers: &HeaderMap, allow_origin: &HeaderValue) -> Self {
        let asks = lists(headers, &UPGRADE, PROTOCOL) && lists(headers, &CONNECTION, "upgrade");
        // A later version of HTTP has no upgrades.
        if version != Version::HTTP_11 || !asks {
            return Self::None;
        }
        // Browsers ask for no leave before they open a WebSocket, they only say from where.
        let foreign = headers.get(ORIGIN).is_some_and(|origin| origin != allow_origin);
        if foreign && allow_origin != "*" {
            return Self::Refused(StatusCode::FORBIDDEN, "pages of this origin may not watch");
        }
        if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
            return Self::Refused(StatusCode::UPGRADE_REQUIRED, "WebSocket version 13 is spoken");
        }
        match headers.get(SEC_WEBSOCKET_KEY) {
            Some(key) => Self::Good(derive_accept_key(key.as_bytes())),
            None => Self::Refused(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key is missing"),
        }
    }
}

/// 101, and the viewer served behind it.
#[must_use]
pub fn accept(
    accept: &str,
    upgrade: OnUpgrade,
    viewer: Viewer,
    connection: Rc<Connection>,
) -> Response<AnswerBody> {
    spawn_local(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let config = WebSocketConfig::default()
            .max_message_size(Some(FLV_HEARD_BYTES_MAX))
            .max_frame_size(Some(FLV_HEARD_BYTES_MAX));
        let stream = TokioIo::new(upgraded);
        let socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
        super::serve(viewer, SocketOutlet { socket, connection }).await;
    });
    let mut answer = Response::new(AnswerBody::from(Bytes::new()));
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(PROTOCOL));
    if let Ok(accept) = HeaderValue::from_str(accept) {
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    answer
}

/// Is this among the values of a header that is a list?
fn lists(headers: &HeaderMap, name: &http::HeaderName, wanted: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|one| one.trim().eq_ignore_ascii_case(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asking(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| {
            (http::HeaderName::from_static(name), HeaderValue::from_static(value))
        });
        pairs.collect()
    }

    /// The example of RFC 6455, 1.3, as Firefox puts it.
    const GOOD: [(&str, &str); 4] = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    #[test]
    fn a_handshake_is_answered_and_what_is_none_is_not() {
        let any = HeaderValue::from_static("*");
        let of = |version, headers: &HeaderMap| Handshake::of(version, headers, &any);
        let good = Handshake::Good("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".to_owned());
        assert_eq!(of(Version::HTTP_11, &asking(&GOOD)), good);
        assert_eq!(of(Version::HTTP_2, &asking(&GOOD)), Handshake::None);
        assert_eq!(of(Version::HTTP_11, &asking(&GOOD[1..])), Handshake::None);
        let old = of(Version::HTTP_11, &asking(&GOOD[..2]));
        assert!(matches!(old, Handshake::Refused(StatusCode::UPGRADE_REQUIRED, _)), "{old:?}");
        let keyless = of(Version::HTTP_11, &asking(&GOOD[..3]));
        assert!(matches!(keyless, Handshake::Refused(StatusCode::BAD_REQUEST, _)), "{keyless:?}");
    }

    /// A browser says whose page it is, a player that is no browser says nothing.
    #[test]
    fn only_pages_that_may_fetch_may_open_a_web_socket() {
        let ours = HeaderValue::from_static("https://player.example");
        let from = |origin: &'static str| {
            let mut headers = asking(&GOOD);
            headers.insert(ORIGIN, HeaderValue::from_static(origin));
            Handshake::of(Version::HTTP_11, &headers, &ours)
        };
        assert!(matches!(from("https://player.example"), Handshake::Good(_)));
        assert!(matches!(from("https://other.example"), Handshake::Refused(..)));
        let player = Handshake::of(Version::HTTP_11, &asking(&GOOD), &ours);
        assert!(matches!(player, Handshake::Good(_)));
    }
}
