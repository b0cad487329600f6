//! Where a push goes: `rtmp://host[:port]/app/stream` with placeholders. The stream part may be a
//! secret at the origin, so neither `Debug` nor an error shows it.

use crate::id::RungId;
use crate::limits::PUSH_NAME_BYTES_MAX;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

pub const RTMP_PORT: u16 = 1935;
const PLACEHOLDERS: [&str; 3] = ["{app}", "{name}", "{rung}"];
/// What a placeholder may at most become.
const PLACEHOLDER_BYTES_MAX: usize = 128;

/// A push of one application: one connection per rung.
#[derive(Clone, PartialEq, Eq)]
pub struct PushTarget {
    pub host: String,
    pub port: u16,
    pub rungs: Vec<RungId>,
    app: String,
    stream: String,
}

/// Values of the placeholders.
#[derive(Clone, Copy, Debug)]
pub(super) struct Values<'a> {
    pub app: &'a str,
    pub name: &'a str,
    pub rung: &'a str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadUrl {
    #[error("a push URL begins with rtmp:// (rtmps:// and others are not pushed)")]
    Scheme,
    #[error("a push URL has no user or password; put secrets into the stream name")]
    UserInfo,
    #[error("the host of a push URL is a name, an IPv4 address or an IPv6 address in brackets")]
    Host,
    #[error("the port of a push URL is 1 to 65535")]
    Port,
    #[error("a push URL ends with /app/stream, for example rtmp://origin/live/{{name}}_{{rung}}")]
    Path,
    #[error("a push URL has only visible ASCII characters")]
    Characters,
    #[error("a push URL knows the placeholders {{app}}, {{name}} and {{rung}}, after the host")]
    Placeholder,
    #[error("application and stream of a push URL may have {PUSH_NAME_BYTES_MAX} bytes each")]
    TooLong,
    #[error("this push has several rungs, so its stream name must contain {{rung}}")]
    SameStream,
}

impl PushTarget {
    pub(super) fn parse(url: &str, rungs: Vec<RungId>) -> Result<Self, BadUrl> {
        if !url.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(BadUrl::Characters);
        }
        let rest = url.strip_prefix("rtmp://").ok_or(BadUrl::Scheme)?;
        let (authority, path) = rest.split_once('/').ok_or(BadUrl::Path)?;
        let (host, port) = parse_authority(authority)?;
        // The stream is what follows the last slash of the path proper; a query belongs to it.
        let path_end = path.find('?').unwrap_or(path.len());
        let slash = path[..path_end].rfind('/').ok_or(BadUrl::Path)?;
        let (app, stream) = (&path[..slash], &path[slash + 1..]);
        if app.is_empty() || stream.is_empty() {
            return Err(BadUrl::Path);
        }
        check_template(app)?;
        check_template(stream)?;
        if rungs.len() > 1 && !app.contains("{rung}") && !stream.contains("{rung}") {
            return Err(BadUrl::SameStream);
        }
        Ok(Self { host, port, rungs, app: app.to_owned(), stream: stream.to_owned() })
    }

    pub(super) fn app(&self, values: Values<'_>) -> String {
        fill(&self.app, values)
    }

    pub(super) fn stream(&self, values: Values<'_>) -> String {
        fill(&self.stream, values)
    }

    /// Do both name the same streams at the same origin?
    pub(super) fn is_same_place(&self, other: &Self) -> bool {
        let Self { host, port, rungs: _, app, stream } = self;
        *host == other.host && *port == other.port && *app == other.app && *stream == other.stream
    }

    /// Does every application get origin streams of its own?
    pub(super) fn tells_apps_apart(&self) -> bool {
        self.app.contains("{app}") || self.stream.contains("{app}")
    }

    /// The application at the origin, if the push of `app` always names the same one.
    pub(super) fn fixed_app(&self, app: &str) -> Option<String> {
        let filled = self.app.replace("{app}", app);
        (!filled.contains('{')).then_some(filled)
    }

    /// Does this listener receive the push?
    pub(super) fn reaches(&self, listener: SocketAddr) -> bool {
        if listener.port() != self.port {
            return false;
        }
        let (listener, any) = (listener.ip().to_canonical(), listener.ip().is_unspecified());
        match self.host.parse::<IpAddr>().map(|address| address.to_canonical()) {
            Ok(address) => {
                address == listener
                    || any && address.is_loopback() && address.is_ipv4() == listener.is_ipv4()
            }
            Err(_) => {
                self.host.eq_ignore_ascii_case("localhost") && (any || listener.is_loopback())
            }
        }
    }

    /// Does every stream of the application get an origin stream of its own?
    pub(super) fn tells_names_apart(&self) -> bool {
        self.app.contains("{name}") || self.stream.contains("{name}")
    }
}

impl fmt::Display for PushTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "rtmp://[{}]:{}/{}/…", self.host, self.port, self.app)
        } else {
            write!(f, "rtmp://{}:{}/{}/…", self.host, self.port, self.app)
        }
    }
}

impl fmt::Debug for PushTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PushTarget({self}, {:?})", self.rungs)
    }
}

fn parse_authority(authority: &str) -> Result<(String, u16), BadUrl> {
    if authority.contains('@') {
        return Err(BadUrl::UserInfo);
    }
    if authority.contains(['{', '}']) {
        return Err(BadUrl::Placeholder);
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']').ok_or(BadUrl::Host)?;
            address.parse::<Ipv6Addr>().map_err(|_| BadUrl::Host)?;
            let port = match after {
                "" => None,
                _ => Some(after.strip_prefix(':').ok_or(BadUrl::Host)?),
            };
            (address, port)
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (check_host(host)?, Some(port)),
            None => (check_host(authority)?, None),
        },
    };
    let port = match port {
        Some(text) => text.parse().ok().filter(|port| *port != 0).ok_or(BadUrl::Port)?,
        None => RTMP_PORT,
    };
    Ok((host.to_owned(), port))
}

fn check_host(host: &str) -> Result<&str, BadUrl> {
    let legal = (1..=253).contains(&host.len())
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    if legal { Ok(host) } else { Err(BadUrl::Host) }
}

/// Only known placeholders, and short enough whatever they become.
fn check_template(template: &str) -> Result<(), BadUrl> {
    let mut plain = template.to_owned();
    let mut placeholders = 0;
    for placeholder in PLACEHOLDERS {
        placeholders += template.matches(placeholder).count();
        plain = plain.replace(placeholder, "");
    }
    if plain.contains(['{', '}']) {
        return Err(BadUrl::Placeholder);
    }
    if plain.len() + placeholders * PLACEHOLDER_BYTES_MAX > PUSH_NAME_BYTES_MAX {
        return Err(BadUrl::TooLong);
    }
    Ok(())
}

/// Values are names and labels and never contain a brace, so the order does not matter.
fn fill(template: &str, values: Values<'_>) -> String {
    template
        .replace("{app}", values.app)
        .replace("{name}", values.name)
        .replace("{rung}", values.rung)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(url: &str) -> Result<PushTarget, BadUrl> {
        PushTarget::parse(url, vec![RungId(0)])
    }

    #[test]
    fn a_push_url_is_split_into_host_port_application_and_stream() {
        let target = parse("rtmp://origin.example:1936/live/in/{name}_{rung}?k=1/2").unwrap();
        let values = Values { app: "live", name: "cam", rung: "720p" };
        assert_eq!((target.host.as_str(), target.port), ("origin.example", 1936));
        assert_eq!(target.app(values), "live/in");
        assert_eq!(target.stream(values), "cam_720p?k=1/2");
        assert_eq!(parse("rtmp://[::1]/a/b").unwrap().host, "::1");
        assert_eq!(parse("rtmp://10.0.0.1/a/b").unwrap().port, RTMP_PORT);
    }

    #[test]
    fn a_bad_push_url_is_refused_by_name() {
        for (url, why) in [
            ("http://h/a/b", BadUrl::Scheme),
            ("rtmps://h/a/b", BadUrl::Scheme),
            ("rtmp://u:p@h/a/b", BadUrl::UserInfo),
            ("rtmp:///a/b", BadUrl::Host),
            ("rtmp://::1/a/b", BadUrl::Host),
            ("rtmp://[::1/a/b", BadUrl::Host),
            ("rtmp://h:0/a/b", BadUrl::Port),
            ("rtmp://h:70000/a/b", BadUrl::Port),
            ("rtmp://h/a", BadUrl::Path),
            ("rtmp://h/a/", BadUrl::Path),
            ("rtmp://h//b", BadUrl::Path),
            ("rtmp://h/a/b c", BadUrl::Characters),
            ("rtmp://h/a/{nme}", BadUrl::Placeholder),
            ("rtmp://{name}/a/b", BadUrl::Placeholder),
        ] {
            assert_eq!(parse(url), Err(why), "{url}");
        }
        let long = format!("rtmp://h/a/{}", "{name}".repeat(9));
        assert_eq!(parse(&long), Err(BadUrl::TooLong));
        let two = PushTarget::parse("rtmp://h/a/{name}", vec![RungId(0), RungId(1)]);
        assert_eq!(two, Err(BadUrl::SameStream));
    }

    #[test]
    fn debug_and_display_do_not_show_the_stream_which_may_be_a_secret() {
        let target = parse("rtmp://h/a/hunter2?k=hunter2").unwrap();
        assert!(!format!("{target:?} {target}").contains("hunter2"));
    }

    proptest! {
        #[test]
        fn arbitrary_urls_never_panic(rest in "\\PC{0,60}") {
            let _ = parse(&rest);
            let _ = parse(&format!("rtmp://{rest}"));
        }
    }
}
