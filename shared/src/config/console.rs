//! `[console]`: the operators' page, metrics, health and profiles over HTTP.

use super::check::{absolute_path, check_listen, is_loopback};
use super::error::Fault;
use super::raw::RawConsole;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use toml::Spanned;

/// HTTP listeners of the console process. Whoever gets in can end every stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Console {
    /// None: there is no console.
    pub listen: Vec<SocketAddr>,
    /// Holds the token that clients send; without one only loopback is listened on.
    pub token_file: Option<PathBuf>,
    /// Where HAProxy asks for the node's weight; says nothing else, and needs no token.
    pub agent_check: Vec<SocketAddr>,
}

/// The one above delivery's.
const PORT: u16 = 8936;

/// Where operators connect when the file does not say.
#[must_use]
pub fn default_console_listen() -> Vec<SocketAddr> {
    vec![
        SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)),
        SocketAddr::from((Ipv6Addr::LOCALHOST, PORT)),
    ]
}

pub(super) fn check(raw: RawConsole) -> Result<Console, Fault> {
    let RawConsole { listen, token_file, agent_check } = raw;
    let at = listen.as_ref().map(Spanned::span);
    let listen = match listen {
        None => default_console_listen(),
        Some(list) => check_listen_or_none(list)?,
    };
    let token_file = token_file.map(|text| absolute_path(&text, "token_file", 4096)).transpose()?;
    if let (Some(at), None) = (at, &token_file)
        && let Some(open) = listen.iter().find(|address| !is_loopback(address.ip()))
    {
        let message = format!(
            "{open} is reached from elsewhere, and whoever reaches the console can end every \
             stream: set token_file, or listen on 127.0.0.1 alone"
        );
        return Err(Fault::new(at, message));
    }
    let agent_check = match agent_check {
        None => Vec::new(),
        Some(list) => check_listen_or_none(list)?,
    };
    Ok(Console { listen, token_file, agent_check })
}

fn check_listen_or_none(list: Spanned<Vec<Spanned<String>>>) -> Result<Vec<SocketAddr>, Fault> {
    if list.get_ref().is_empty() { Ok(Vec::new()) } else { check_listen(list) }
}
