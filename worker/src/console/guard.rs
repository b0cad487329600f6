//! Who may ask. Pure.
//!
//! With a token, whoever sends it (`Authorization: Bearer`, RFC 6750). Without, whoever is on this
//! machine, and no page of another site in a browser on this machine: a name that was made to point
//! here (DNS rebinding) is not a loopback name, and a form or script of elsewhere sends its origin.

use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, ORIGIN};
use http::uri::Authority;
use http::{HeaderMap, Method};
use std::net::IpAddr;

/// Of a token file, after its blanks are cut off.
pub const TOKEN_BYTES_MIN: usize = 16;

/// What the configuration asks for.
#[derive(Clone, PartialEq, Eq)]
pub enum Guard {
    Token(String),
    Loopback,
}

/// Shows no token.
impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Token(_) => "Token",
            Self::Loopback => "Loopback",
        })
    }
}

/// Why somebody may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error("send `Authorization: Bearer TOKEN` with the token of console.token_file")]
    NoToken,
    #[error("ask for 127.0.0.1, [::1] or localhost; for other names set console.token_file")]
    ForeignHost,
    #[error("pages of other sites may not do this")]
    ForeignOrigin,
    #[error("a command is sent as application/json")]
    NotJson,
}

impl Guard {
    /// The token is the file's text without blanks around it.
    pub fn with_token(text: &str) -> Result<Self, String> {
        let token = text.trim();
        if token.len() < TOKEN_BYTES_MIN || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(format!(
                "the token has {TOKEN_BYTES_MIN} or more letters and digits, as `openssl rand \
                 -hex 32` makes"
            ));
        }
        Ok(Self::Token(token.to_owned()))
    }

    pub fn admit(&self, method: &Method, headers: &HeaderMap) -> Result<(), Denied> {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        match self {
            Self::Token(token) => {
                let sent = text(AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
                if !sent.is_some_and(|sent| is_same(sent.as_bytes(), token.as_bytes())) {
                    return Err(Denied::NoToken);
                }
            }
            Self::Loopback => {
                let host = text(HOST).unwrap_or_default();
                if !is_loopback(host) {
                    return Err(Denied::ForeignHost);
                }
                if text(ORIGIN).is_some_and(|origin| origin != format!("http://{host}")) {
                    return Err(Denied::ForeignOrigin);
                }
            }
        }
        let kind = text(CONTENT_TYPE).unwrap_or_default();
        if *method == Method::POST && kind.split(';').next() != Some("application/json") {
            return Err(Denied::NotJson);
        }
        Ok(())
    }
}

/// Takes as long whatever differs.
fn is_same(sent: &[u8], token: &[u8]) -> bool {
    let differing = sent.iter().zip(token).fold(0, |sum, (a, b)| sum | (a ^ b));
    sent.len() == token.len() && differing == 0
}

fn is_loopback(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host();
    let bare = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
    let address: Option<IpAddr> = bare.parse().ok();
    address.map_or(name == "localhost", |address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    fn headers(pairs: &[(HeaderName, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    fn loopback(pairs: &[(HeaderName, &'static str)]) -> Result<(), Denied> {
        Guard::Loopback.admit(&Method::GET, &headers(pairs))
    }

    #[test]
    fn without_a_token_only_names_of_this_machine_are_answered() {
        for host in ["localhost:8936", "127.0.0.1:8936", "127.8.9.1", "[::1]:8936"] {
            assert_eq!(loopback(&[(HOST, host)]), Ok(()), "{host}");
        }
        for host in ["rebound.example:8936", "10.0.0.1", "localhost.example", "", "[::2]", "a b"] {
            assert_eq!(loopback(&[(HOST, host)]), Err(Denied::ForeignHost), "{host}");
        }
        assert_eq!(loopback(&[]), Err(Denied::ForeignHost));
    }

    #[test]
    fn a_page_of_another_site_gets_nothing_done() {
        let own = [(HOST, "127.0.0.1:8936"), (ORIGIN, "http://127.0.0.1:8936")];
        assert_eq!(loopback(&own), Ok(()));
        for origin in ["https://evil.example", "null", "http://127.0.0.1:1"] {
            let foreign = [(HOST, "127.0.0.1:8936"), (ORIGIN, origin)];
            assert_eq!(loopback(&foreign), Err(Denied::ForeignOrigin), "{origin}");
        }
        // What a form can send without asking is no command.
        for kind in ["text/plain", "application/x-www-form-urlencoded"] {
            let sent = headers(&[(HOST, "localhost"), (CONTENT_TYPE, kind)]);
            assert_eq!(Guard::Loopback.admit(&Method::POST, &sent), Err(Denied::NotJson), "{kind}");
        }
        let sent =
            headers(&[(HOST, "localhost"), (CONTENT_TYPE, "application/json; charset=utf-8")]);
        assert_eq!(Guard::Loopback.admit(&Method::POST, &sent), Ok(()));
    }

    #[test]
    fn with_a_token_it_alone_counts() {
        let guard = Guard::with_token(" 0123456789abcdef0123\n").unwrap();
        let ask = |value| {
            let sent = headers(&[(HOST, "console.example"), (AUTHORIZATION, value)]);
            guard.admit(&Method::GET, &sent)
        };
        assert_eq!(ask("Bearer 0123456789abcdef0123"), Ok(()));
        for wrong in
            ["Bearer 0123456789abcdef0124", "Bearer 0123456789abcdef", "Bearer ", "Basic x"]
        {
            assert_eq!(ask(wrong), Err(Denied::NoToken), "{wrong}");
        }
        assert_eq!(guard.admit(&Method::GET, &headers(&[])), Err(Denied::NoToken));
        assert_eq!(format!("{guard:?}"), "Token");
        for bad in ["", "short", "fifteen-letters", "0123456789 abcdef0123"] {
            assert!(Guard::with_token(bad).is_err(), "{bad}");
        }
    }
}
