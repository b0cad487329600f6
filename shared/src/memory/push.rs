//! Layout of a push connection's memfd: header, outbound command bytes, inbound ring.
//!
//! The command ring holds handshake and command bytes on their way to the origin; positions in
//! it are counted from the connection's start and kept in the commit record.

use super::map::{Access, Mapping, RingMapping, create_sealed, sealed_size};
use super::{MemoryError, PAGE_BYTES};
use crate::limits::{PUSH_COMMAND_RING_BYTES, PUSH_INBOUND_RING_BYTES};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;

const WHAT: &str = "push memory";
const MAGIC: u64 = u64::from_le_bytes(*b"TASUKI-P");
const TOTAL_BYTES: usize = PAGE_BYTES + PUSH_COMMAND_RING_BYTES + PUSH_INBOUND_RING_BYTES;

/// Makes a push memfd. For the supervisor.
pub fn create() -> io::Result<OwnedFd> {
    let fd = create_sealed(c"tasuki-push", TOTAL_BYTES)?;
    nix::sys::uio::pwrite(&fd, &MAGIC.to_le_bytes(), 0)?;
    Ok(fd)
}

/// A push connection's memory, mapped by the session's owner.
pub struct PushMemory {
    pub commands: RingMapping,
    pub inbound: RingMapping,
}

impl PushMemory {
    pub fn open(fd: &impl AsFd) -> Result<Self, MemoryError> {
        let fd = fd.as_fd();
        let found = sealed_size(WHAT, fd)?;
        if found != TOTAL_BYTES as u64 {
            return Err(MemoryError::Size { what: WHAT, found, expected: TOTAL_BYTES as u64 });
        }
        let header =
            Mapping::new(fd, 0, PAGE_BYTES, Access::Read).map_err(MemoryError::io(WHAT))?;
        let magic = header.atomic_u64(0).load(Ordering::Relaxed);
        if magic != MAGIC {
            return Err(MemoryError::Magic { what: WHAT, found: magic });
        }
        let ring = |at, bytes| {
            RingMapping::new(fd, at, bytes, Access::ReadWrite).map_err(MemoryError::io(WHAT))
        };
        Ok(Self {
            commands: ring(PAGE_BYTES, PUSH_COMMAND_RING_BYTES)?,
            inbound: ring(PAGE_BYTES + PUSH_COMMAND_RING_BYTES, PUSH_INBOUND_RING_BYTES)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_push_memfd_opens_and_a_session_memfd_in_its_place_does_not() {
        assert!(PushMemory::open(&create().unwrap()).is_ok());
        let owner = crate::message::Owner::Offered(crate::id::Generation(1));
        let session = super::super::session::create().unwrap();
        let _memory = super::super::session::SessionMemory::finish(&session, owner).unwrap();
        assert!(PushMemory::open(&session).is_err());
    }
}
