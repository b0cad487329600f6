//! The publish session: what is said before, beside and after the media.
//!
//! ```text
//!   Connecting ─ connect ─▶ Connected ─ publish ─▶ Asked ─ allow ─▶ Publishing
//!       │                       │                    │                  │
//!       └──── play, bad app ────┴──── refuse ────────┴── unpublish ─────┴──▶ Over
//! ```
//!
//! The caller feeds complete messages of all types but media, appends nothing itself, and sends
//! what is appended to `out` in one write. It asks for a verdict on `SessionEvent::Publish` and
//! answers with [`PublishSession::allow`] or [`PublishSession::refuse`]; after `Refused` or
//! `Unpublish` it sends what is in `out` and ends the connection.
//!
//! A refusal is spoken at the publish, also when it is known earlier: ffmpeg prints the description
//! of an `onStatus` error and nothing misleading beside it, OBS and librtmp log it only there (of a
//! refused `connect` they log at debug level), and all of them know the codes `Denied`, `Rejected`
//! and `BadName`. Only an application name too long to keep is refused at the connect.
//!
//! There is one stream, with id 1, however often `createStream` is called.
//!
//! Not here: media (routed by type), Set Chunk Size and Abort (the chunk reader's), deadlines.

mod state;
#[cfg(test)]
mod tests;

pub use state::SessionState;

use super::amf::AmfError;
use super::chunk::{MessageHeader, kind};
use super::command::{self, Command, Connect, FourCcs, Metadata};
use super::reply::{self, Level};
use tasuki_shared::id::StreamKey;
use tasuki_shared::limits::{
    APP_BYTES_MAX, FLASH_VERSION_BYTES_MAX, KEY_BYTES_MAX, QUERY_BYTES_MAX,
};
use tasuki_shared::message::{PublishRequest, RefuseReason};

const STREAM_ID: u32 = 1;
const CAPS_EX_RECONNECT: u32 = 1;

/// What the caller has to act on.
#[derive(Clone, Debug, PartialEq)]
pub enum SessionEvent {
    /// A verdict is wanted.
    Publish(PublishRequest),
    Metadata(Metadata),
    /// A data message that cannot be read. The stream goes on; count it.
    BadData(AmfError),
    /// The publisher ended its stream.
    Unpublish,
    /// The refusal is in `out`: send it and end the connection.
    Refused(RefuseReason),
}

/// Why a session cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    #[error("unreadable command: {0}")]
    Command(#[from] AmfError),
    #[error("a command came before connect")]
    CommandBeforeConnect,
    #[error("a second connect on one connection")]
    SecondConnect,
    #[error("multitrack streams (OBS Enhanced Broadcasting) are not served: publish one track")]
    Multitrack,
    #[error("this publisher does not know reconnect requests")]
    NoReconnect,
    #[error("exported session state is damaged: {0}")]
    DamagedState(&'static str),
}

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub struct PublishSession {
    stage: Stage,
    foregone: Foregone,
    /// How often the publisher wants to hear how much arrived; 0 before it says.
    window_bytes: u32,
    acknowledged_bytes: u64,
}

#[derive(Clone, Debug, PartialEq)]
enum Stage {
    Connecting,
    Connected(Client),
    Asked(Client, Publication),
    Publishing(Client, Publication),
    Over,
}

/// Whether the verdict stands before the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Foregone {
    Ask,
    Refuse(RefuseReason),
}

/// Who is at the other end. `query` is the connect's until a publish brings a better one.
#[derive(Clone, Debug, PartialEq)]
struct Client {
    app: String,
    query: StreamKey,
    flash_version: String,
    caps_ex: u32,
    fourccs: FourCcs,
}

#[derive(Clone, Debug, PartialEq)]
struct Publication {
    key: StreamKey,
    stream_id: u32,
}

impl Default for PublishSession {
    fn default() -> Self {
        Self::new()
    }
}

impl PublishSession {
    #[must_use]
    pub const fn new() -> Self {
        Self {
            stage: Stage::Connecting,
            foregone: Foregone::Ask,
            window_bytes: 0,
            acknowledged_bytes: 0,
        }
    }

    /// Takes a complete message that is not media.
    pub fn on_message(
        &mut self,
        header: MessageHeader,
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<SessionEvent>, SessionError> {
        match header.kind {
            kind::COMMAND_AMF0 | kind::COMMAND_AMF3 => self.on_command(header, payload, out),
            kind::DATA_AMF0 | kind::DATA_AMF3 => Ok(self.on_data(header, payload)),
            kind::USER_CONTROL => {
                // Event 6 is a ping: its timestamp goes back.
                if let [0, 6, timestamp @ ..] = payload
                    && let Some(timestamp) = timestamp.first_chunk()
                {
                    reply::pong(u32::from_be_bytes(*timestamp), out);
                }
                Ok(None)
            }
            kind::WINDOW_ACKNOWLEDGEMENT_SIZE => {
                if let Some(size) = payload.first_chunk() {
                    self.window_bytes = u32::from_be_bytes(*size);
                }
                Ok(None)
            }
            // Acknowledgements, bandwidth, shared objects, types nobody knows.
            _ => Ok(None),
        }
    }

    /// The publish that waits for a verdict; a session adopted in between has to ask again.
    #[must_use]
    pub fn asked(&self) -> Option<PublishRequest> {
        match &self.stage {
            Stage::Asked(client, publication) | Stage::Publishing(client, publication) => {
                Some(request(client, publication))
            }
            Stage::Connecting | Stage::Connected(_) | Stage::Over => None,
        }
    }

    /// The publish was granted. Without one to grant this does nothing.
    pub fn allow(&mut self, out: &mut Vec<u8>) {
        let Stage::Asked(client, publication) = &self.stage else { return };
        let (client, publication) = (client.clone(), publication.clone());
        let id = publication.stream_id;
        let code = "NetStream.Publish.Start";
        reply::stream_begin(id, out);
        reply::on_fc_publish(id, code, "Started publishing stream.", out);
        reply::on_status(id, Level::Status, code, "Started publishing stream.", out);
        self.stage = Stage::Publishing(client, publication);
    }

    /// The publish is refused: now if it was asked for, else as soon as it is.
    pub fn refuse(&mut self, reason: RefuseReason, out: &mut Vec<u8>) {
        match &self.stage {
            Stage::Connecting | Stage::Connected(_) => self.foregone = Foregone::Refuse(reason),
            Stage::Asked(_, publication) | Stage::Publishing(_, publication) => {
                refusal(publication.stream_id, reason, out);
                self.stage = Stage::Over;
            }
            Stage::Over => {}
        }
    }

    /// Tells the publisher how many bytes arrived, when it wanted to know by now. `received_bytes`
    /// counts from the first byte of the connection.
    pub fn acknowledge(&mut self, received_bytes: u64, out: &mut Vec<u8>) {
        let since = received_bytes.saturating_sub(self.acknowledged_bytes);
        if self.window_bytes > 0 && since >= u64::from(self.window_bytes) {
            self.acknowledged_bytes = received_bytes;
            let [a, b, c, d, ..] = received_bytes.to_le_bytes();
            reply::acknowledgement(u32::from_le_bytes([a, b, c, d]), out);
        }
    }

    /// Asks an Enhanced RTMP publisher to connect anew, elsewhere if a URL is given.
    pub fn request_reconnect(
        &self,
        url: Option<&str>,
        description: &str,
        out: &mut Vec<u8>,
    ) -> Result<(), SessionError> {
        match &self.stage {
            Stage::Connected(client) | Stage::Asked(client, _) | Stage::Publishing(client, _)
                if client.caps_ex & CAPS_EX_RECONNECT != 0 =>
            {
                reply::reconnect_request(url, description, out);
                Ok(())
            }
            Stage::Connecting
            | Stage::Connected(_)
            | Stage::Asked(..)
            | Stage::Publishing(..)
            | Stage::Over => Err(SessionError::NoReconnect),
        }
    }

    fn on_command(
        &mut self,
        header: MessageHeader,
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<SessionEvent>, SessionError> {
        if self.stage == Stage::Over {
            return Ok(None);
        }
        let command = command::parse(header.kind, payload)?;
        let connecting = self.stage == Stage::Connecting;
        match command {
            Command::Unknown => Ok(None),
            Command::Connect { transaction, connect } if connecting => {
                Ok(self.connect(transaction, *connect, out))
            }
            Command::Connect { .. } => Err(SessionError::SecondConnect),
            Command::CreateStream { .. }
            | Command::Courtesy { .. }
            | Command::Publish { .. }
            | Command::Unpublish
            | Command::GetStreamLength { .. }
            | Command::Play
                if connecting =>
            {
                Err(SessionError::CommandBeforeConnect)
            }
            Command::CreateStream { transaction } => {
                reply::stream_created(transaction, STREAM_ID, out);
                Ok(None)
            }
            Command::Courtesy { transaction } => {
                if transaction != 0.0 {
                    reply::understood(transaction, out);
                }
                Ok(None)
            }
            Command::Publish { name } => Ok(self.publish(header.stream_id, &name, out)),
            Command::Unpublish => Ok(self.unpublish()),
            Command::GetStreamLength { transaction } => {
                let reason = RefuseReason::PlayUnsupported.to_string();
                reply::call_refused(transaction, "NetConnection.Call.Failed", &reason, out);
                Ok(None)
            }
            Command::Play => {
                let reason = RefuseReason::PlayUnsupported;
                let text = reason.to_string();
                let code = "NetStream.Play.Failed";
                reply::on_status(header.stream_id, Level::Error, code, &text, out);
                Ok(self.over(reason))
            }
        }
    }

    fn connect(
        &mut self,
        transaction: f64,
        connect: Connect,
        out: &mut Vec<u8>,
    ) -> Option<SessionEvent> {
        reply::settings(out);
        let Connect { app, query, flash_version, caps_ex, fourccs } = connect;
        let reason = if app.len() > APP_BYTES_MAX {
            RefuseReason::UnknownApp
        } else if query.len() > QUERY_BYTES_MAX {
            RefuseReason::BadKey
        } else {
            reply::connected(transaction, out);
            let (query, flash_version) = (StreamKey(query), cut(flash_version));
            let client = Client { app, query, flash_version, caps_ex, fourccs };
            self.stage = Stage::Connected(client);
            return None;
        };
        let code = "NetConnection.Connect.Rejected";
        reply::call_refused(transaction, code, &reason.to_string(), out);
        self.over(reason)
    }

    fn publish(&mut self, stream_id: u32, name: &str, out: &mut Vec<u8>) -> Option<SessionEvent> {
        let Stage::Connected(client) = &self.stage else {
            // The first publish stands; it is the second that is refused.
            refusal(stream_id, RefuseReason::AlreadyPublishing, out);
            return None;
        };
        let (key, query) = command::split_query(name);
        let legal = (1..=KEY_BYTES_MAX).contains(&key.len()) && query.len() <= QUERY_BYTES_MAX;
        let refused = match self.foregone {
            Foregone::Refuse(reason) => Some(reason),
            Foregone::Ask if legal => None,
            Foregone::Ask => Some(RefuseReason::BadKey),
        };
        if let Some(reason) = refused {
            refusal(stream_id, reason, out);
            return self.over(reason);
        }
        let mut client = client.clone();
        if !query.is_empty() {
            client.query = StreamKey(query.to_owned());
        }
        let publication = Publication { key: StreamKey(key.to_owned()), stream_id };
        let request = request(&client, &publication);
        self.stage = Stage::Asked(client, publication);
        Some(SessionEvent::Publish(request))
    }

    fn unpublish(&mut self) -> Option<SessionEvent> {
        match self.stage {
            Stage::Asked(..) | Stage::Publishing(..) => {
                self.stage = Stage::Over;
                Some(SessionEvent::Unpublish)
            }
            Stage::Connecting | Stage::Connected(_) | Stage::Over => None,
        }
    }

    fn on_data(&self, header: MessageHeader, payload: &[u8]) -> Option<SessionEvent> {
        match self.stage {
            Stage::Asked(..) | Stage::Publishing(..) => {
                match command::parse_data(header.kind, payload) {
                    Ok(metadata) => metadata.map(SessionEvent::Metadata),
                    Err(error) => Some(SessionEvent::BadData(error)),
                }
            }
            Stage::Connecting | Stage::Connected(_) | Stage::Over => None,
        }
    }

    fn over(&mut self, reason: RefuseReason) -> Option<SessionEvent> {
        self.stage = Stage::Over;
        Some(SessionEvent::Refused(reason))
    }
}

/// Refuses Enhanced RTMP's multitrack packets, by the first byte of a media message.
pub fn check_single_track(kind: u8, payload: &[u8]) -> Result<(), SessionError> {
    match (kind, payload.first()) {
        // IsExHeader and VideoPacketType 6.
        (kind::VIDEO, Some(first)) if first & 0x8F == 0x86 => Err(SessionError::Multitrack),
        // SoundFormat 9 (ExHeader) and AudioPacketType 5.
        (kind::AUDIO, Some(0x95)) => Err(SessionError::Multitrack),
        _ => Ok(()),
    }
}

fn request(client: &Client, publication: &Publication) -> PublishRequest {
    PublishRequest {
        app: client.app.clone(),
        key: publication.key.clone(),
        query: client.query.clone(),
        flash_version: client.flash_version.clone(),
    }
}

fn refusal(stream_id: u32, reason: RefuseReason, out: &mut Vec<u8>) {
    let code = match reason {
        RefuseReason::UnknownApp | RefuseReason::BadKey | RefuseReason::NoVerdict => {
            "NetStream.Publish.Denied"
        }
        RefuseReason::BadName | RefuseReason::NameTaken | RefuseReason::AlreadyPublishing => {
            "NetStream.Publish.BadName"
        }
        RefuseReason::NoSlot
        | RefuseReason::NoCpu
        | RefuseReason::HostCap
        | RefuseReason::Draining
        | RefuseReason::NoWorker
        | RefuseReason::NoResource
        | RefuseReason::NoMemory
        | RefuseReason::Poison
        | RefuseReason::PlayUnsupported => "NetStream.Publish.Rejected",
    };
    reply::on_status(stream_id, Level::Error, code, &reason.to_string(), out);
}

fn cut(mut text: String) -> String {
    let fits = |at: &usize| text.is_char_boundary(*at);
    let end = (0..=FLASH_VERSION_BYTES_MAX.min(text.len())).rev().find(fits).unwrap_or(0);
    text.truncate(end);
    text
}
