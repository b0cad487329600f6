//! What we say to a publisher, as bytes.
//!
//! Every message begins with a full (type-0) chunk header, so the outbound side has no state
//! beyond the chunk size, which is announced first of all. Protocol control messages are
//! `rml_rtmp`'s; commands are written here, because its objects have no order.

use super::amf::Writer;
use super::chunk::kind;
use rml_rtmp::messages::{PeerBandwidthLimitType, RtmpMessage, UserControlEventType};
use rml_rtmp::time::RtmpTimestamp;
use tasuki_shared::limits::CHUNK_SIZE_OUT;

const CHUNK_STREAM_CONTROL: u8 = 2;
const CHUNK_STREAM_CONNECTION: u8 = 3;
const CHUNK_STREAM_STATUS: u8 = 5;
/// How often the publisher acknowledges what we send, and our limit to it.
const WINDOW_BYTES: u32 = 2_500_000;

/// FourCcInfoMask: can decode, can forward.
const DECODE_AND_FORWARD: f64 = 5.0;
/// CapsExMask: we may ask for a reconnect.
const CAPS_RECONNECT: f64 = 1.0;

/// Severity of a status, as publishers look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Status,
    Error,
}

/// Window, bandwidth and chunk size: what must precede every longer message.
pub fn settings(out: &mut Vec<u8>) {
    control(RtmpMessage::WindowAcknowledgement { size: WINDOW_BYTES }, out);
    let limit_type = PeerBandwidthLimitType::Dynamic;
    control(RtmpMessage::SetPeerBandwidth { size: WINDOW_BYTES, limit_type }, out);
    control(RtmpMessage::SetChunkSize { size: CHUNK_SIZE_OUT }, out);
}

pub fn connected(transaction: f64, out: &mut Vec<u8>) {
    // Enhanced RTMP is announced in both objects: clients differ in where they look.
    let enhanced = |object: Writer| {
        object
            .name("fourCcList")
            .strings(&["avc1", "hvc1", "mp4a"])
            .name("videoFourCcInfoMap")
            .object(|map| {
                let map = map.name("avc1").number(DECODE_AND_FORWARD);
                map.name("hvc1").number(DECODE_AND_FORWARD)
            })
            .name("audioFourCcInfoMap")
            .object(|map| map.name("mp4a").number(DECODE_AND_FORWARD))
            .name("capsEx")
            .number(CAPS_RECONNECT)
    };
    let payload = Writer::new()
        .string("_result")
        .number(transaction)
        .object(|object| {
            let object = object.name("fmsVer").string("FMS/3,0,1,123");
            enhanced(object.name("capabilities").number(31.0))
        })
        .object(|object| {
            let success = "NetConnection.Connect.Success";
            let object = status(object, Level::Status, success, "Connection succeeded.");
            enhanced(object.name("objectEncoding").number(0.0))
        })
        .finish();
    command(0, CHUNK_STREAM_CONNECTION, &payload, out);
}

/// The answer to `createStream`.
pub fn stream_created(transaction: f64, stream_id: u32, out: &mut Vec<u8>) {
    let payload = Writer::new()
        .string("_result")
        .number(transaction)
        .null()
        .number(f64::from(stream_id))
        .finish();
    command(0, CHUNK_STREAM_CONNECTION, &payload, out);
}

/// An answer that says only that the call was understood.
pub fn understood(transaction: f64, out: &mut Vec<u8>) {
    let payload = Writer::new().string("_result").number(transaction).null().null().finish();
    command(0, CHUNK_STREAM_CONNECTION, &payload, out);
}

/// The answer to a call that is refused.
pub fn call_refused(transaction: f64, code: &str, description: &str, out: &mut Vec<u8>) {
    let payload = Writer::new()
        .string("_error")
        .number(transaction)
        .null()
        .object(|object| status(object, Level::Error, code, description))
        .finish();
    command(0, CHUNK_STREAM_CONNECTION, &payload, out);
}

/// `onStatus` of a stream, or of the connection where `stream_id` is 0.
pub fn on_status(stream_id: u32, level: Level, code: &str, description: &str, out: &mut Vec<u8>) {
    let payload = Writer::new()
        .string("onStatus")
        .number(0.0)
        .null()
        .object(|object| status(object, level, code, description))
        .finish();
    command(stream_id, CHUNK_STREAM_STATUS, &payload, out);
}

/// What FMLE and its descendants wait for beside `onStatus`.
pub fn on_fc_publish(stream_id: u32, code: &str, description: &str, out: &mut Vec<u8>) {
    let payload = Writer::new()
        .string("onFCPublish")
        .number(0.0)
        .null()
        .object(|object| object.name("code").string(code).name("description").string(description))
        .finish();
    command(stream_id, CHUNK_STREAM_STATUS, &payload, out);
}

/// Enhanced RTMP: asks the publisher to connect anew, elsewhere if a URL is given.
pub fn reconnect_request(url: Option<&str>, description: &str, out: &mut Vec<u8>) {
    let payload = Writer::new()
        .string("onStatus")
        .number(0.0)
        .null()
        .object(|object| {
            let code = "NetConnection.Connect.ReconnectRequest";
            let object = status(object, Level::Status, code, description);
            match url {
                Some(url) => object.name("tcUrl").string(url),
                None => object,
            }
        })
        .finish();
    command(0, CHUNK_STREAM_CONNECTION, &payload, out);
}

pub fn stream_begin(stream_id: u32, out: &mut Vec<u8>) {
    user_control(UserControlEventType::StreamBegin, Some(stream_id), None, out);
}

pub fn ping(timestamp: u32, out: &mut Vec<u8>) {
    user_control(UserControlEventType::PingRequest, None, Some(timestamp), out);
}

pub fn pong(timestamp: u32, out: &mut Vec<u8>) {
    user_control(UserControlEventType::PingResponse, None, Some(timestamp), out);
}

/// `received` counts from the first byte of the connection, modulo 2³².
pub fn acknowledgement(received: u32, out: &mut Vec<u8>) {
    control(RtmpMessage::Acknowledgement { sequence_number: received }, out);
}

fn user_control(
    event_type: UserControlEventType,
    stream_id: Option<u32>,
    timestamp: Option<u32>,
    out: &mut Vec<u8>,
) {
    let timestamp = timestamp.map(RtmpTimestamp::new);
    let buffer_length = None;
    control(RtmpMessage::UserControl { event_type, stream_id, buffer_length, timestamp }, out);
}

fn status(object: Writer, level: Level, code: &str, description: &str) -> Writer {
    let level = match level {
        Level::Status => "status",
        Level::Error => "error",
    };
    let object = object.name("level").string(level).name("code").string(code);
    object.name("description").string(description)
}

fn control(message: RtmpMessage, out: &mut Vec<u8>) {
    let payload = message
        .into_message_payload(RtmpTimestamp::new(0), 0)
        .expect("control messages of ours have all their fields");
    message_of(CHUNK_STREAM_CONTROL, payload.type_id, 0, &payload.data, out);
}

fn command(stream_id: u32, chunk_stream: u8, payload: &[u8], out: &mut Vec<u8>) {
    message_of(chunk_stream, kind::COMMAND_AMF0, stream_id, payload, out);
}

/// One message in one chunk, with a full header and timestamp zero.
fn message_of(chunk_stream: u8, kind: u8, stream_id: u32, payload: &[u8], out: &mut Vec<u8>) {
    let length = u32::try_from(payload.len()).ok().filter(|length| *length <= CHUNK_SIZE_OUT);
    let length = length.expect("our replies fit one chunk of the size we announce");
    out.extend([chunk_stream, 0, 0, 0]);
    out.extend(&length.to_be_bytes()[1..]);
    out.push(kind);
    out.extend(stream_id.to_le_bytes());
    out.extend(payload);
}
