//! Answers to the origin on their way, in the push memory's command ring.

use crate::rtmp::push_client::PushError;
use tasuki_shared::limits::PUSH_COMMAND_RING_BYTES;
use tasuki_shared::memory::push::PushMemory;

/// Positions in the command ring: `begins..batched` are in the batch that is being written,
/// `batched..head` wait for the next one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Commands {
    pub begins: u64,
    pub batched: u64,
    pub head: u64,
}

impl Commands {
    /// Appends; what is not committed yet may be overwritten by a successor that hears the same.
    pub fn put(&mut self, bytes: &[u8], memory: &PushMemory) -> Result<(), PushError> {
        let head = self.head + bytes.len() as u64;
        if head - self.begins > PUSH_COMMAND_RING_BYTES as u64 {
            return Err(PushError::Unread);
        }
        memory.commands.write(self.head, bytes);
        self.head = head;
        Ok(())
    }

    /// Takes what waits into a batch that follows the written one: position and length.
    pub fn take(&mut self) -> Option<(u64, u32)> {
        self.begins = self.batched;
        self.batched = self.head;
        let length = u32::try_from(self.batched - self.begins).expect("at most the ring");
        (length > 0).then_some((self.begins, length))
    }

    pub fn is_empty(&self) -> bool {
        self.head == self.batched
    }

    /// What a commit record says can be.
    pub fn is_possible(&self) -> bool {
        let Self { begins, batched, head } = *self;
        begins <= batched && batched <= head && head - begins <= PUSH_COMMAND_RING_BYTES as u64
    }
}
