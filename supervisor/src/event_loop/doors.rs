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
    console: Vec<Door>,
    agent_checks: Vec<Door>,
}

impl Doors {
    pub(super) fn open(settings: &Settings) -> anyhow::Result<Self> {
        let mut doors =
            Self { delivery: Vec::new(), console: Vec::new(), agent_checks: Vec::new() };
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
        let Doors { delivery, console, agent_checks } = doors;
        for (address, _) in &delivery {
            let watch = format!("http://{address}/live/APP/NAME/index.m3u8");
            tracing::info!(%address, %watch, "delivery");
        }
        for (address, _) in &console {
            tracing::info!(%address, open = %format!("http://{address}/"), "console");
        }
        for (address, _) in &agent_checks {
            tracing::info!(%address, "agent check");
        }
        let addresses = |doors: &[Door]| doors.iter().map(|(address, _)| *address).collect();
        self.viewers = addresses(&delivery);
        self.consoles = addresses(&console);
        let fds = |doors: Vec<Door>| doors.into_iter().map(|(_, listener)| listener.into());
        self.vault.keep_listeners(Role::Delivery, fds(delivery));
        self.vault.keep_listeners(Role::Console, fds(console).chain(fds(agent_checks)));
    }
}
