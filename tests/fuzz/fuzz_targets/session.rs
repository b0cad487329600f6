//! Arbitrary bytes as handshake, AMF0, aggregate, session state, and as a conversation of messages
//! [type, length, payload…] with a session that is exported and imported between them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tasuki_shared::message::RefuseReason;
use tasuki_worker::rtmp::aggregate::AggregateReader;
use tasuki_worker::rtmp::chunk::MessageHeader;
use tasuki_worker::rtmp::session::{PublishSession, SessionEvent, SessionState};
use tasuki_worker::rtmp::{amf, handshake};

fn header(kind: u8, payload: &[u8]) -> MessageHeader {
    let length = u32::try_from(payload.len()).expect("fuzzed inputs are short");
    MessageHeader { chunk_stream: 3, kind, length, timestamp_ms: 7, stream_id: 1 }
}

fuzz_target!(|data: &[u8]| {
    let _ = handshake::answer(data);
    let _ = amf::decode(data);
    for part in AggregateReader::new(header(22, data), data) {
        let _ = part;
    }
    if let Some(state) = SessionState::from_bytes(data)
        && let Ok(session) = PublishSession::import(&state)
    {
        assert_eq!(session.export(), state);
    }

    let (mut session, mut rest, mut out) = (PublishSession::new(), data, Vec::new());
    while let [kind, length, behind @ ..] = rest {
        let (payload, next) = behind.split_at(usize::from(*length).min(behind.len()));
        rest = next;
        let Ok(event) = session.on_message(header(*kind, payload), payload, &mut out) else {
            return;
        };
        if matches!(event, Some(SessionEvent::Publish(_))) {
            match length % 2 {
                0 => session.allow(&mut out),
                _ => session.refuse(RefuseReason::BadKey, &mut out),
            }
        }
        let mut stored = [0; SessionState::SIZE];
        session.export().to_bytes(&mut stored);
        let state = SessionState::from_bytes(&stored).expect("it is of full size");
        let imported = PublishSession::import(&state).expect("a session's own state is sound");
        assert_eq!(imported, session);
        session = imported;
    }
});
