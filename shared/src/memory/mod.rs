//! Session memory: what must outlive a process.
//!
//! All of it lives in sealed memfds that the supervisor creates and holds. One atomic store, the
//! flip of the [`commit`] record, makes everything before it real; what lies beyond it in any ring
//! or log does not exist. `unsafe` is confined to [`map`].
//!
//! | file | holds |
//! |---|---|
//! | [`map`] | mappings, once or twice in a row, and the raw copies |
//! | [`owner`] | the owner word: who may read the socket and write the logs |
//! | [`commit`] | the two-slot commit record |
//! | [`log`] | a shared ring of packets with an index |
//! | [`session`] | layout of the session memfd |
//! | [`push`] | layout of a push connection's memfd |

pub mod commit;
pub mod log;
pub mod map;
pub mod owner;
pub mod push;
pub mod session;

/// Session memory that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    #[error("{what}: {source}")]
    Io {
        what: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error("{what}: the memory is {found} bytes, {expected} are needed")]
    Size { what: &'static str, found: u64, expected: u64 },
    #[error("{what}: not ours (magic {found:#x})")]
    Magic { what: &'static str, found: u64 },
    #[error("{what}: layout version {found}, this process knows {expected}")]
    Version { what: &'static str, found: u32, expected: u32 },
    #[error("{what}: damaged: {why}")]
    Damaged { what: &'static str, why: &'static str },
}

impl MemoryError {
    pub(crate) fn io(what: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}

/// The page size this layout is built on; session memory is laid out in 4 KiB pages everywhere.
pub const PAGE_BYTES: usize = 4096;
