//! What the publishers in use send, in their order; refusals; hostile commands; hand-over.

mod peer;

use super::super::amf::{self, Value, Writer};
use super::super::chunk::{ChunkReader, Piece, Step};
use super::*;
use peer::{Peer, call, connect, publish};
use proptest::prelude::*;
use rml_rtmp::sessions::{
    ClientSession, ClientSessionConfig, ClientSessionEvent, ClientSessionResult,
    PublishRequestType, StreamMetadata,
};

fn start() -> (String, u32, String, String) {
    let code = "NetStream.Publish.Start".to_owned();
    ("onStatus".to_owned(), 1, code, "Started publishing stream.".to_owned())
}

fn names(commands: &[(String, u32, String, String)]) -> Vec<&str> {
    commands.iter().map(|command| command.0.as_str()).collect()
}

#[test]
fn ffmpeg_is_led_from_connect_to_unpublish() {
    let mut peer = Peer::new();
    assert_eq!(peer.say(0, connect("live")), Ok(None));
    let kinds: Vec<u8> = peer.replies.iter().map(|reply| reply.0).collect();
    assert_eq!(kinds, [5, 6, 20], "window and bandwidth come first (chunk size: the reader's)");
    assert_eq!(peer.commands()[0].2, "NetConnection.Connect.Success");
    assert_eq!(peer.say(0, call("releaseStream", 2.0).string("cam?token=s")), Ok(None));
    assert_eq!(peer.say(0, call("FCPublish", 3.0).string("cam?token=s")), Ok(None));
    assert_eq!(peer.say(0, call("createStream", 4.0)), Ok(None));
    let replies = peer.commands();
    assert_eq!(names(&replies), ["_result", "_result", "_result"]);
    assert_eq!(replies[2].2, "Number(1.0)");
    let request = PublishRequest {
        app: "live".to_owned(),
        key: StreamKey("cam".to_owned()),
        query: StreamKey("token=s".to_owned()),
        flash_version: "FMLE/3.0 (compatible; Lavf61.7.100)".to_owned(),
    };
    let asked = peer.say(1, publish("cam?token=s"));
    assert_eq!(asked, Ok(Some(SessionEvent::Publish(request.clone()))));
    assert_eq!(peer.session.asked(), Some(request));
    assert!(peer.replies.is_empty());
    peer.allow();
    assert_eq!(peer.replies[0], (kind::USER_CONTROL, 0, vec![0, 0, 0, 0, 0, 1]));
    let replies = peer.commands();
    assert_eq!(names(&replies), ["onFCPublish", "onStatus"]);
    assert_eq!(replies[1], start());
    let metadata = Writer::new().string("@setDataFrame").string("onMetaData");
    let metadata = metadata.object(|object| object.name("width").number(1280.0)).finish();
    let event = peer.send(kind::DATA_AMF0, 1, &metadata);
    assert!(matches!(event, Ok(Some(SessionEvent::Metadata(m))) if m.width == Some(1280)));
    let end = peer.say(1, call("FCUnpublish", 6.0).string("cam"));
    assert_eq!(end, Ok(Some(SessionEvent::Unpublish)));
    assert_eq!(peer.say(1, call("deleteStream", 7.0).number(1.0)), Ok(None));
}

#[test]
fn librtmp_and_obs_are_led_from_connect_to_unpublish() {
    let mut peer = Peer::new();
    peer.say(0, connect("live/")).unwrap();
    peer.send(kind::WINDOW_ACKNOWLEDGEMENT_SIZE, 0, &5_000_000_u32.to_be_bytes()).unwrap();
    for (at, name) in [(2.0, "releaseStream"), (3.0, "FCPublish")] {
        peer.say(0, call(name, at).string("key")).unwrap();
    }
    peer.say(0, call("createStream", 4.0)).unwrap();
    let asked = peer.say(1, publish("key"));
    let Ok(Some(SessionEvent::Publish(request))) = asked else { panic!("{asked:?}") };
    assert_eq!((request.app.as_str(), request.key.0.as_str()), ("live", "key"));
    peer.replies.clear();
    peer.allow();
    assert_eq!(peer.commands().last(), Some(&start()));
    let end = peer.say(0, call("deleteStream", 6.0).number(1.0));
    assert_eq!(end, Ok(Some(SessionEvent::Unpublish)));
}

#[test]
fn gstreamer_rtmp2sink_needs_no_answer_to_what_it_does_not_ask() {
    let mut peer = Peer::connected();
    // Transaction 0 means that no answer is wanted.
    peer.say(0, call("releaseStream", 0.0).string("key")).unwrap();
    peer.say(0, call("FCPublish", 0.0).string("key")).unwrap();
    assert!(peer.replies.is_empty());
    peer.say(0, call("createStream", 2.0)).unwrap();
    assert_eq!(peer.commands()[0].2, "Number(1.0)");
    let publish = call("publish", 3.0).string("key").string("live");
    assert!(matches!(peer.say(1, publish), Ok(Some(SessionEvent::Publish(_)))));
    peer.allow();
    assert_eq!(peer.commands().last(), Some(&start()));
    let end = peer.say(0, call("FCUnpublish", 0.0).string("key"));
    assert_eq!(end, Ok(Some(SessionEvent::Unpublish)));
}

#[test]
fn enhanced_rtmp_is_announced_in_the_connect_reply() {
    let mut peer = Peer::new();
    peer.say(0, connect("live")).unwrap();
    let payload = &peer.replies.last().unwrap().2;
    for object in &amf::decode(payload).unwrap()[2..] {
        let Value::Object(object) = object else { panic!("{object:?}") };
        let fourccs = ["avc1", "hvc1", "mp4a"].map(|name| Value::Utf8String(name.to_owned()));
        assert_eq!(object["fourCcList"], Value::StrictArray(fourccs.to_vec()));
        assert_eq!(object["capsEx"], Value::Number(1.0));
        assert!(matches!(&object["videoFourCcInfoMap"], Value::Object(map) if map.len() == 2));
    }
}

/// The client of `rml_rtmp`, an implementation that is not ours, publishes to us.
#[test]
fn an_independent_client_publishes_and_unpublishes() {
    let (mut client, first) = ClientSession::new(ClientSessionConfig::new()).unwrap();
    let mut pending = first;
    pending.push(client.request_connection("live".to_owned()).unwrap());
    let mut session = PublishSession::new();
    let mut reader = ChunkReader::new();
    let (mut seen, mut message) = (Vec::new(), None);
    while !pending.is_empty() {
        let mut to_client = Vec::new();
        for result in std::mem::take(&mut pending) {
            match result {
                ClientSessionResult::OutboundResponse(packet) => {
                    let mut at = 0;
                    while let Step::Advance { consumed, piece } =
                        reader.next(&packet.bytes[at..]).unwrap()
                    {
                        let bytes = &packet.bytes[at..at + consumed];
                        match piece {
                            Piece::Begin { message: header, .. } => {
                                message = Some((header, Vec::new()));
                            }
                            Piece::Payload { .. } => message.as_mut().unwrap().1.extend(bytes),
                            Piece::End { .. } => {
                                let (header, payload) = message.take().unwrap();
                                let event = session.on_message(header, &payload, &mut to_client);
                                let event = event.unwrap();
                                if matches!(event, Some(SessionEvent::Publish(_))) {
                                    session.allow(&mut to_client);
                                }
                                seen.extend(event);
                            }
                            Piece::Nothing | Piece::Abort { .. } => {}
                        }
                        at += consumed;
                    }
                }
                ClientSessionResult::RaisedEvent(ClientSessionEvent::ConnectionRequestAccepted) => {
                    let publish =
                        client.request_publishing("key?a=1".to_owned(), PublishRequestType::Live);
                    pending.push(publish.unwrap());
                }
                ClientSessionResult::RaisedEvent(ClientSessionEvent::PublishRequestAccepted) => {
                    let mut metadata = StreamMetadata::new();
                    metadata.video_width = Some(640);
                    pending.push(client.publish_metadata(&metadata).unwrap());
                    pending.extend(client.stop_publishing().unwrap());
                }
                ClientSessionResult::RaisedEvent(_)
                | ClientSessionResult::UnhandleableMessageReceived(_) => {}
            }
        }
        pending.extend(client.handle_input(&to_client).unwrap());
    }
    let [SessionEvent::Publish(request), SessionEvent::Metadata(metadata), SessionEvent::Unpublish] =
        &seen[..]
    else {
        panic!("{seen:?}")
    };
    assert_eq!((request.key.0.as_str(), request.query.0.as_str()), ("key", "a=1"));
    assert_eq!(metadata.width, Some(640));
}

#[test]
fn a_refused_publisher_reads_the_reason() {
    let cases = [
        (RefuseReason::BadKey, "NetStream.Publish.Denied"),
        (RefuseReason::NameTaken, "NetStream.Publish.BadName"),
        (RefuseReason::NoSlot, "NetStream.Publish.Rejected"),
    ];
    for (reason, code) in cases {
        let mut peer = Peer::connected();
        peer.say(1, publish("key")).unwrap();
        peer.refuse(reason);
        let status = ("onStatus".to_owned(), 1, code.to_owned(), reason.to_string());
        assert_eq!(peer.commands(), [status]);
        peer.allow();
        assert_eq!(peer.say(1, publish("key")), Ok(None));
        assert!(peer.replies.is_empty(), "a session that is over says nothing");
    }
}

#[test]
fn a_refusal_known_beforehand_is_spoken_at_the_publish() {
    let mut peer = Peer::new();
    let reason = RefuseReason::Draining;
    peer.refuse(reason);
    assert_eq!(peer.say(0, connect("live")), Ok(None));
    assert_eq!(peer.say(0, call("createStream", 4.0)), Ok(None));
    peer.replies.clear();
    assert_eq!(peer.say(1, publish("key")), Ok(Some(SessionEvent::Refused(reason))));
    assert_eq!(peer.commands()[0].3, reason.to_string());
}

#[test]
fn a_second_publish_is_refused_and_the_first_stands() {
    let mut peer = Peer::publishing();
    for _ in 0..3 {
        assert_eq!(peer.say(1, publish("other")), Ok(None));
        assert_eq!(peer.commands()[0].3, RefuseReason::AlreadyPublishing.to_string());
    }
    let end = peer.say(1, call("FCUnpublish", 6.0));
    assert_eq!(end, Ok(Some(SessionEvent::Unpublish)));
}

#[test]
fn playing_is_refused_with_its_reason() {
    let reason = RefuseReason::PlayUnsupported;
    let mut peer = Peer::connected();
    assert_eq!(peer.say(0, call("getStreamLength", 3.0).string("key")), Ok(None));
    let played = peer.say(1, call("play", 0.0).string("key"));
    assert_eq!(played, Ok(Some(SessionEvent::Refused(reason))));
    let replies = peer.commands();
    assert_eq!(names(&replies), ["_error", "onStatus"]);
    assert!(replies.iter().all(|reply| reply.3 == reason.to_string()));
    assert_eq!(replies[1].2, "NetStream.Play.Failed");
}

#[test]
fn names_that_are_empty_or_do_not_fit_are_refused() {
    let long = "k".repeat(KEY_BYTES_MAX + 1);
    let query = format!("k?{}", "q".repeat(QUERY_BYTES_MAX + 1));
    for name in ["", "?token", &long, &query] {
        let event = Peer::connected().say(1, publish(name));
        assert_eq!(event, Ok(Some(SessionEvent::Refused(RefuseReason::BadKey))), "{name}");
    }
    let fits = format!("{}?{}", &long[1..], &query[3..]);
    assert!(matches!(Peer::connected().say(1, publish(&fits)), Ok(Some(SessionEvent::Publish(_)))));
    let mut peer = Peer::new();
    let event = peer.say(0, connect(&"a".repeat(APP_BYTES_MAX + 1)));
    assert_eq!(event, Ok(Some(SessionEvent::Refused(RefuseReason::UnknownApp))));
    assert_eq!(peer.commands()[0].2, "NetConnection.Connect.Rejected");
}

#[test]
fn create_stream_a_thousand_times_is_one_stream() {
    let mut peer = Peer::connected();
    for at in 0..1000 {
        peer.say(0, call("createStream", f64::from(at))).unwrap();
        assert_eq!(peer.commands()[0].2, "Number(1.0)");
    }
}

#[test]
fn unknown_commands_and_messages_are_ignored() {
    let mut peer = Peer::publishing();
    for name in ["_checkbw", "FCSubscribe", "onFI", "_result", ""] {
        assert_eq!(peer.say(1, call(name, 9.0)), Ok(None));
    }
    for kind in [0, 3, 6, 7, 16, 19, 255] {
        assert_eq!(peer.send(kind, 0, &[1, 2]), Ok(None));
    }
    assert!(peer.replies.is_empty());
}

#[test]
fn commands_out_of_order_are_refused_by_name() {
    for name in ["createStream", "publish", "play", "FCPublish", "deleteStream"] {
        let event = Peer::new().say(0, call(name, 1.0));
        assert_eq!(event, Err(SessionError::CommandBeforeConnect));
    }
    let second = Peer::connected().say(0, connect("live"));
    assert_eq!(second, Err(SessionError::SecondConnect));
}

#[test]
fn hostile_commands_end_the_session_by_name_and_hostile_data_does_not() {
    let nested = [amf_object_prefix(), b"a\x03\0\x01".repeat(4000)].concat();
    let mut peer = Peer::publishing();
    let deep = SessionError::Command(AmfError::TooDeep);
    assert_eq!(peer.send(kind::COMMAND_AMF0, 1, &nested[..16_000]), Err(deep));
    let event = peer.send(kind::DATA_AMF0, 1, &nested[..16_000]);
    assert_eq!(event, Ok(Some(SessionEvent::BadData(AmfError::TooDeep))));
    let alone = Writer::new().string("@setDataFrame").finish();
    assert_eq!(peer.send(kind::DATA_AMF0, 1, &alone), Ok(None));
    assert_eq!(peer.send(kind::DATA_AMF0, 1, &[]), Ok(None));
}

fn amf_object_prefix() -> Vec<u8> {
    [call("x", 1.0).finish(), vec![3, 0, 1]].concat()
}

#[test]
fn acknowledgements_are_cumulative_wrap_and_are_never_unsolicited() {
    let mut peer = Peer::publishing();
    let acknowledge = |session: &mut PublishSession, total| {
        let mut out = Vec::new();
        session.acknowledge(total, &mut out);
        (!out.is_empty()).then(|| u32::from_be_bytes(*out.last_chunk().unwrap()))
    };
    assert_eq!(acknowledge(&mut peer.session, u64::MAX / 2), None);
    peer.send(kind::WINDOW_ACKNOWLEDGEMENT_SIZE, 0, &1000_u32.to_be_bytes()).unwrap();
    assert_eq!(acknowledge(&mut peer.session, 999), None);
    assert_eq!(acknowledge(&mut peer.session, 1000), Some(1000));
    assert_eq!(acknowledge(&mut peer.session, 1999), None);
    peer.hand_over();
    assert_eq!(acknowledge(&mut peer.session, 2500), Some(2500));
    assert_eq!(acknowledge(&mut peer.session, (1 << 32) + 7), Some(7));
}

#[test]
fn pings_are_answered_with_their_timestamp() {
    let mut peer = Peer::connected();
    peer.send(kind::USER_CONTROL, 0, &[0, 6, 1, 2, 3, 4]).unwrap();
    assert_eq!(peer.replies, [(kind::USER_CONTROL, 0, vec![0, 7, 1, 2, 3, 4])]);
    for odd in [&[0, 6, 1][..], &[0], &[], &[0, 3, 0, 0, 0, 1, 0, 0, 1, 0], &[9, 9]] {
        peer.replies.clear();
        assert_eq!(peer.send(kind::USER_CONTROL, 0, odd), Ok(None));
        assert!(peer.replies.is_empty());
    }
}

#[test]
fn only_a_publisher_that_knows_reconnect_requests_gets_one() {
    let mut out = Vec::new();
    let plain = Peer::publishing().session.request_reconnect(None, "moving", &mut out);
    assert_eq!((plain, out.len()), (Err(SessionError::NoReconnect), 0));
    let mut peer = Peer::new();
    let connect = Writer::new()
        .string("connect")
        .number(1.0)
        .object(|object| object.name("app").string("live").name("capsEx").number(1.0));
    peer.say(0, connect).unwrap();
    peer.replies.clear();
    peer.session.request_reconnect(Some("rtmp://b/live"), "moving", &mut out).unwrap();
    peer.hear(&out);
    assert_eq!(peer.commands()[0].2, "NetConnection.Connect.ReconnectRequest");
}

#[test]
fn multitrack_packets_are_refused_by_name() {
    assert_eq!(check_single_track(kind::VIDEO, &[0x96]), Err(SessionError::Multitrack));
    assert_eq!(check_single_track(kind::AUDIO, &[0x95]), Err(SessionError::Multitrack));
    for (kind, first) in [(kind::VIDEO, 0x90), (kind::VIDEO, 0x16), (kind::AUDIO, 0xAF)] {
        assert_eq!(check_single_track(kind, &[first]), Ok(()));
    }
    assert_eq!(check_single_track(kind::VIDEO, &[]), Ok(()));
}

#[test]
fn secrets_are_not_in_debug_output() {
    let mut peer = Peer::connected();
    peer.say(1, publish("hunter2?token=swordfish")).unwrap();
    let shown = format!("{:?} {:?}", peer.session, peer.session.export());
    assert!(!shown.contains("hunter2") && !shown.contains("swordfish"));
}

#[test]
fn every_refuse_reason_survives_a_hand_over() {
    for reason in state::REASONS {
        let mut session = PublishSession::new();
        session.refuse(reason, &mut Vec::new());
        assert_eq!(PublishSession::import(&session.export()), Ok(session));
    }
}

proptest! {
    #[test]
    fn a_damaged_session_state_is_refused_or_is_what_it_says(
        at in 0..SessionState::SIZE,
        value in any::<u8>(),
    ) {
        let mut peer = Peer::connected();
        peer.say(1, publish("kéy?token=1")).unwrap();
        let mut bytes = [0; SessionState::SIZE];
        peer.session.export().to_bytes(&mut bytes);
        bytes[at] = value;
        let state = SessionState::from_bytes(&bytes).unwrap();
        if let Ok(session) = PublishSession::import(&state) {
            prop_assert_eq!(session.export(), state);
        }
    }

    #[test]
    fn any_command_bytes_are_answered_or_refused(
        payloads in prop::collection::vec(
            (0_u8..24, prop::collection::vec(0_u8..20, 0..60)), 1..8),
    ) {
        let mut peer = Peer::publishing();
        for (kind, payload) in payloads {
            let _ = peer.send(kind, 1, &payload);
        }
    }
}
