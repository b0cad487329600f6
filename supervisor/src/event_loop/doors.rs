//! Listeners that other processes serve: made once, before anything runs, and kept here.

use super::Shell;
use crate::core::settings::{MissingFamily, Settings};
use crate::io::listen;
use std::net::{SocketAddr, TcpListener};
use tasuki_shared::message::Role;

type Door = (SocketAddr, TcpListener);

/// See the module.
pub(super) struct Doors {
    delivery: Vec<Door>,
    /// How delivery is spoken to.
    scheme: &'static str,
    console: Vec<Door>,
    agent_checks: Vec<Door>,
}

impl Doors {
    pub(super) fn open(settings: &Settings) -> anyhow::Result<Self> {
        let tls = settings.delivery.as_ref().and_then(|delivery| delivery.plan.tls.as_ref());
        let mut doors = Self {
            delivery: Vec::new(),
            scheme: if tls.is_some() { "https" } else { "http" },
            console: Vec::new(),
            agent_checks: Vec::new(),
        };
        if let Some(delivery) = &settings.delivery {
            doors.delivery = listen::listen_all(&delivery.listen, delivery.missing_family)?;
        }
        if let Some(console) = &settings.console {
            doors.console = listen::listen_all(&console.listen, console.missing_family)?;
            if !console.agent_check.is_empty() {
                doors.agent_checks =
                    listen::listen_all(&console.agent_check, MissingFamily::Refuse)?;
            }
        }
        Ok(doors)
    }
}

impl Shell {
    /// Says where they are, and keeps them for the processes that serve them.
    pub(super) fn keep(&mut self, doors: Doors) {
        let Doors { delivery, scheme, console, agent_checks } = doors;
        for (address, _) in &delivery {
            let base = format!("{scheme}://{address}");
            tracing::info!(%address, watch = %format!("{base}/live/APP/NAME/index.m3u8"), "delivery");
            self.viewers.push(base);
        }
        for (address, _) in &console {
            tracing::info!(%address, open = %format!("http://{address}/"), "console");
        }
        for (address, _) in &agent_checks {
            tracing::info!(%address, "agent check");
        }
        self.consoles = console.iter().map(|(address, _)| *address).collect();
        let fds = |doors: Vec<Door>| doors.into_iter().map(|(_, listener)| listener.into());
        self.vault.keep_listeners(Role::Delivery, fds(delivery));
        self.vault.keep_listeners(Role::Console, fds(console).chain(fds(agent_checks)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::settings::Delivery;
    use tasuki_shared::message::DeliveryPlan;

    /// Who has a certificate is spoken to with TLS.
    #[test]
    fn the_scheme_follows_from_the_certificate() {
        for (tls, expected) in [(None, "http"), (Some(("/c".into(), "/k".into())), "https")] {
            let plan = DeliveryPlan {
                hls_root: "/nowhere".into(),
                tls,
                allow_origin: "*".into(),
                connections_max: 1,
                connections_per_address_max: 0,
                drain_ms: 0,
            };
            let listen = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
            let delivery = Delivery { listen, missing_family: MissingFamily::Refuse, plan };
            let settings = Settings { delivery: Some(delivery), ..Settings::default() };
            assert_eq!(Doors::open(&settings).unwrap().scheme, expected);
        }
    }
}
