//! A turn of the shell: as much as there is to do at once, and one flush at its end and before each
//! start of a process.
//!
//! Accepting many connections or reading many frames queues many frames to the same process. They
//! share datagrams and wake it once. Only a turn can cause any of it, and it ends by sending, so no
//! frame can be left behind.

use super::{SharedShell, Shell};
use crate::core::event::{Event, Loss};
use std::cell::RefMut;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use tasuki_shared::channel::{ChannelError, Received};
use tasuki_shared::id::Generation;
use tasuki_shared::message::{Envelope, FromWorker};

/// The shell for as long as it is not waited for anything.
pub struct Turn<'a>(RefMut<'a, Shell>);

impl<'a> Turn<'a> {
    pub fn begin(shell: &'a SharedShell) -> Self {
        Self(shell.borrow_mut())
    }

    pub fn accepted(&mut self, socket: TcpStream, peer: SocketAddr) {
        self.0.accepted(socket, peer);
    }

    pub fn receive(
        &mut self,
        generation: Generation,
    ) -> Result<Option<Received<FromWorker>>, ChannelError> {
        self.0.receive(generation)
    }

    pub fn frame(
        &mut self,
        channel: Generation,
        envelope: Envelope<FromWorker>,
        fds: Vec<OwnedFd>,
    ) {
        self.0.frame(channel, envelope, fds);
    }

    pub fn lost(&mut self, generation: Generation, loss: Loss) {
        self.0.handle(Event::ChannelLost { generation, loss });
    }

    /// Goes on with what the socket did not take before.
    pub fn writable(&mut self, generation: Generation) {
        if !self.0.unsent.contains(&generation) {
            self.0.unsent.push_back(generation);
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.end_turn();
    }
}

#[cfg(test)]
mod tests;
