//! The session's state as plain integers and bytes of fixed size, for the commit record.
//!
//! Import is total: what a session cannot be in is refused by name.

use super::{Client, Foregone, FourCcs, Publication, PublishSession, SessionError, Stage};
use std::fmt;
use tasuki_shared::id::StreamKey;
use tasuki_shared::limits::{
    APP_BYTES_MAX, FLASH_VERSION_BYTES_MAX, KEY_BYTES_MAX, QUERY_BYTES_MAX,
};
use tasuki_shared::message::RefuseReason;

const LAYOUT: u32 = 1;

const CONNECTING: u32 = 0;
const CONNECTED: u32 = 1;
const ASKED: u32 = 2;
const PUBLISHING: u32 = 3;
const OVER: u32 = 4;

pub(super) const REASONS: [RefuseReason; 15] = [
    RefuseReason::NoSlot,
    RefuseReason::NoCpu,
    RefuseReason::HostCap,
    RefuseReason::Draining,
    RefuseReason::UnknownApp,
    RefuseReason::BadKey,
    RefuseReason::BadName,
    RefuseReason::NameTaken,
    RefuseReason::NoVerdict,
    RefuseReason::AlreadyPublishing,
    RefuseReason::NoWorker,
    RefuseReason::PlayUnsupported,
    RefuseReason::NoResource,
    RefuseReason::NoMemory,
    RefuseReason::Poison,
];

/// A reason as it is stored. Numbers are never reused; 0 is none.
const fn number_of(reason: RefuseReason) -> u32 {
    match reason {
        RefuseReason::NoSlot => 1,
        RefuseReason::NoCpu => 2,
        RefuseReason::HostCap => 3,
        RefuseReason::Draining => 4,
        RefuseReason::UnknownApp => 5,
        RefuseReason::BadKey => 6,
        RefuseReason::BadName => 7,
        RefuseReason::NameTaken => 8,
        RefuseReason::NoVerdict => 9,
        RefuseReason::AlreadyPublishing => 10,
        RefuseReason::NoWorker => 11,
        RefuseReason::PlayUnsupported => 12,
        RefuseReason::NoResource => 13,
        RefuseReason::NoMemory => 14,
        RefuseReason::Poison => 15,
    }
}

/// A [`PublishSession`] between two messages. What is not of its stage is zero.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SessionState {
    pub acknowledged_bytes: u64,
    pub layout: u32,
    pub window_bytes: u32,
    pub stage: u32,
    /// 0, or the number of a reason that stands before the question.
    pub foregone: u32,
    pub caps_ex: u32,
    pub fourccs: u32,
    pub stream_id: u32,
    pub app_length: u32,
    pub key_length: u32,
    pub query_length: u32,
    pub flash_version_length: u32,
    pub reserved: u32,
    pub app: [u8; APP_BYTES_MAX],
    pub key: [u8; KEY_BYTES_MAX],
    pub query: [u8; QUERY_BYTES_MAX],
    pub flash_version: [u8; FLASH_VERSION_BYTES_MAX],
}

const _: () = assert!(size_of::<SessionState>() == SessionState::SIZE);

/// Lengths and numbers alone: key and query are secrets.
impl fmt::Debug for SessionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionState")
            .field("stage", &self.stage)
            .field("foregone", &self.foregone)
            .field("window_bytes", &self.window_bytes)
            .field("acknowledged_bytes", &self.acknowledged_bytes)
            .finish_non_exhaustive()
    }
}

impl SessionState {
    /// Bytes of the little-endian form.
    pub const SIZE: usize =
        8 + 4 * 12 + APP_BYTES_MAX + KEY_BYTES_MAX + QUERY_BYTES_MAX + FLASH_VERSION_BYTES_MAX;

    const fn zero() -> Self {
        Self {
            acknowledged_bytes: 0,
            layout: LAYOUT,
            window_bytes: 0,
            stage: CONNECTING,
            foregone: 0,
            caps_ex: 0,
            fourccs: 0,
            stream_id: 0,
            app_length: 0,
            key_length: 0,
            query_length: 0,
            flash_version_length: 0,
            reserved: 0,
            app: [0; APP_BYTES_MAX],
            key: [0; KEY_BYTES_MAX],
            query: [0; QUERY_BYTES_MAX],
            flash_version: [0; FLASH_VERSION_BYTES_MAX],
        }
    }

    /// Writes the little-endian form to the first `SIZE` bytes of `out`.
    ///
    /// # Panics
    /// When `out` is shorter: its size is the caller's layout, not input.
    pub fn to_bytes(&self, out: &mut [u8]) {
        let mut copy = *self;
        let (count, words, texts) = copy.fields();
        let (place, mut rest) = out[..Self::SIZE].split_at_mut(8);
        place.copy_from_slice(&count.to_le_bytes());
        for word in words {
            let (place, behind) = rest.split_at_mut(4);
            place.copy_from_slice(&word.to_le_bytes());
            rest = behind;
        }
        for text in texts {
            let (place, behind) = rest.split_at_mut(text.len());
            place.copy_from_slice(text);
            rest = behind;
        }
    }

    /// Reads what [`Self::to_bytes`] wrote; `None` if `bytes` is too short.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        let mut state = Self::zero();
        let (count, words, texts) = state.fields();
        *count = u64::from_le_bytes(take(&mut rest)?);
        for word in words {
            *word = u32::from_le_bytes(take(&mut rest)?);
        }
        for text in texts {
            let (place, behind) = rest.split_at_checked(text.len())?;
            text.copy_from_slice(place);
            rest = behind;
        }
        Some(state)
    }

    /// Every field in the order of its bytes. Destructured without `..`, so that a new field
    /// cannot be forgotten here.
    fn fields(&mut self) -> (&mut u64, [&mut u32; 12], [&mut [u8]; 4]) {
        let Self {
            acknowledged_bytes,
            layout,
            window_bytes,
            stage,
            foregone,
            caps_ex,
            fourccs,
            stream_id,
            app_length,
            key_length,
            query_length,
            flash_version_length,
            reserved,
            app,
            key,
            query,
            flash_version,
        } = self;
        let words = [
            layout,
            window_bytes,
            stage,
            foregone,
            caps_ex,
            fourccs,
            stream_id,
            app_length,
            key_length,
            query_length,
            flash_version_length,
            reserved,
        ];
        (acknowledged_bytes, words, [app, key, query, flash_version])
    }
}

impl PublishSession {
    /// The whole state. Destructured without `..`, so that a new field cannot be forgotten here.
    #[must_use]
    pub fn export(&self) -> SessionState {
        let Self { stage, foregone, window_bytes, acknowledged_bytes } = self;
        let (stage, client, publication) = match stage {
            Stage::Connecting => (CONNECTING, None, None),
            Stage::Connected(client) => (CONNECTED, Some(client), None),
            Stage::Asked(client, publication) => (ASKED, Some(client), Some(publication)),
            Stage::Publishing(client, publication) => (PUBLISHING, Some(client), Some(publication)),
            Stage::Over => (OVER, None, None),
        };
        let mut state = SessionState::zero();
        state.stage = stage;
        state.window_bytes = *window_bytes;
        state.acknowledged_bytes = *acknowledged_bytes;
        if let Foregone::Refuse(reason) = foregone {
            state.foregone = number_of(*reason);
        }
        if let Some(Client { app, query, flash_version, caps_ex, fourccs: FourCcs(mask) }) = client
        {
            state.app_length = put(app, &mut state.app);
            state.query_length = put(&query.0, &mut state.query);
            state.flash_version_length = put(flash_version, &mut state.flash_version);
            state.caps_ex = *caps_ex;
            state.fourccs = *mask;
        }
        if let Some(Publication { key, stream_id }) = publication {
            state.key_length = put(&key.0, &mut state.key);
            state.stream_id = *stream_id;
        }
        state
    }

    /// A session that goes on where the exported one was.
    pub fn import(state: &SessionState) -> Result<Self, SessionError> {
        if state.layout != LAYOUT {
            return Err(SessionError::DamagedState("layout"));
        }
        let client = || -> Result<Client, SessionError> {
            Ok(Client {
                app: get(state.app_length, &state.app)?,
                query: StreamKey(get(state.query_length, &state.query)?),
                flash_version: get(state.flash_version_length, &state.flash_version)?,
                caps_ex: state.caps_ex,
                fourccs: FourCcs(state.fourccs),
            })
        };
        let publication = || -> Result<Publication, SessionError> {
            let key = StreamKey(get(state.key_length, &state.key)?);
            Ok(Publication { key, stream_id: state.stream_id })
        };
        let stage = match state.stage {
            CONNECTING => Stage::Connecting,
            CONNECTED => Stage::Connected(client()?),
            ASKED => Stage::Asked(client()?, publication()?),
            PUBLISHING => Stage::Publishing(client()?, publication()?),
            OVER => Stage::Over,
            _ => return Err(SessionError::DamagedState("stage")),
        };
        let foregone = match REASONS.into_iter().find(|r| number_of(*r) == state.foregone) {
            Some(reason) => Foregone::Refuse(reason),
            None if state.foregone == 0 => Foregone::Ask,
            None => return Err(SessionError::DamagedState("refuse reason")),
        };
        let session = Self {
            stage,
            foregone,
            window_bytes: state.window_bytes,
            acknowledged_bytes: state.acknowledged_bytes,
        };
        // Whatever a session would not have written itself is damage: leftovers of another stage,
        // bytes behind a text's end, a reserved word.
        if session.export() == *state {
            Ok(session)
        } else {
            Err(SessionError::DamagedState("leftovers"))
        }
    }
}

/// Places a text; its length was checked when it was parsed.
fn put(text: &str, place: &mut [u8]) -> u32 {
    place[..text.len()].copy_from_slice(text.as_bytes());
    u32::try_from(text.len()).expect("it fits its place")
}

fn get(length: u32, place: &[u8]) -> Result<String, SessionError> {
    let bytes = usize::try_from(length).ok().and_then(|length| place.get(..length));
    let text = bytes.and_then(|bytes| std::str::from_utf8(bytes).ok());
    text.map(str::to_owned).ok_or(SessionError::DamagedState("text"))
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (bytes, behind) = rest.split_first_chunk()?;
    *rest = behind;
    Some(*bytes)
}
