//! Command and data messages as types: what a publisher may say, and nothing more.
//!
//! Parsing is total. Arguments that are missing or of another type count as absent, so a command of
//! one value is as harmless as one of fifty.

use super::amf::{self, AmfError, Value};
use super::chunk::kind;
use std::collections::HashMap;

/// A command of a publisher, or of somebody who should have been one.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    Connect {
        transaction: f64,
        connect: Box<Connect>,
    },
    CreateStream {
        transaction: f64,
    },
    /// `releaseStream` and `FCPublish`: courtesies that want an answer.
    Courtesy {
        transaction: f64,
    },
    Publish {
        name: String,
    },
    /// `FCUnpublish`, `deleteStream` or `closeStream`.
    Unpublish,
    GetStreamLength {
        transaction: f64,
    },
    Play,
    /// Everything else. No publisher in use waits for an answer to any of it.
    Unknown,
}

/// What `connect` tells of a publisher.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Connect {
    /// Without query and surrounding slashes.
    pub app: String,
    /// Of `app`, else of `tcUrl`; without `?`.
    pub query: String,
    pub flash_version: String,
    /// Enhanced RTMP's CapsExMask.
    pub caps_ex: u32,
    pub fourccs: FourCcs,
}

/// The Enhanced RTMP codecs a publisher names, of those we know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FourCcs(pub u32);

impl FourCcs {
    const KNOWN: [&str; 8] = ["avc1", "hvc1", "av01", "vp09", "vp08", "mp4a", "Opus", "fLaC"];
    const ANY: u32 = 1 << 31;

    #[must_use]
    pub fn contains(self, fourcc: &str) -> bool {
        self.0 & (Self::bit(fourcc) | Self::ANY) != 0
    }

    fn bit(fourcc: &str) -> u32 {
        if fourcc == "*" {
            return Self::ANY;
        }
        let known = Self::KNOWN.iter().zip(0_u32..).find(|(known, _)| **known == fourcc);
        known.map_or(0, |(_, at)| 1 << at)
    }
}

/// What `onMetaData` says of a stream; each part may be missing or wrong.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    pub width: Option<u32>,
    pub height: Option<u32>,
    pub frame_rate: Option<f64>,
    pub video_kbps: Option<f64>,
    pub audio_kbps: Option<f64>,
    pub audio_sample_rate: Option<u32>,
    pub audio_channels: Option<u32>,
    pub video_codec: Option<CodecName>,
    pub audio_codec: Option<CodecName>,
    pub encoder: Option<String>,
}

/// FLV's codec number, or a name.
#[derive(Clone, Debug, PartialEq)]
pub enum CodecName {
    Number(u32),
    Name(String),
}

/// Parses a message of type 17 or 20.
pub fn parse(message_kind: u8, payload: &[u8]) -> Result<Command, AmfError> {
    let mut values = values(message_kind, payload)?.into_iter();
    let Some(Value::Utf8String(name)) = values.next() else { return Ok(Command::Unknown) };
    let transaction = values.next().as_ref().and_then(number).unwrap_or(0.0);
    let object = values.next();
    Ok(match name.as_str() {
        "connect" => {
            let connect = match object {
                Some(Value::Object(properties)) => Connect::new(&properties),
                _ => Connect::default(),
            };
            Command::Connect { transaction, connect: Box::new(connect) }
        }
        "createStream" => Command::CreateStream { transaction },
        "releaseStream" | "FCPublish" => Command::Courtesy { transaction },
        "publish" => match values.next() {
            Some(Value::Utf8String(name)) => Command::Publish { name },
            _ => Command::Publish { name: String::new() },
        },
        "FCUnpublish" | "deleteStream" | "closeStream" => Command::Unpublish,
        "getStreamLength" => Command::GetStreamLength { transaction },
        "play" | "play2" => Command::Play,
        _ => Command::Unknown,
    })
}

/// Parses a message of type 15 or 18. `None`: it is no metadata.
pub fn parse_data(message_kind: u8, payload: &[u8]) -> Result<Option<Metadata>, AmfError> {
    let values = values(message_kind, payload)?;
    let mut rest = values.as_slice();
    if let [Value::Utf8String(first), others @ ..] = rest
        && first == "@setDataFrame"
    {
        rest = others;
    }
    Ok(match rest {
        [Value::Utf8String(name), Value::Object(properties), ..] if name == "onMetaData" => {
            Some(Metadata::new(properties))
        }
        _ => None,
    })
}

/// Splits a stream name, application or URL from its query.
#[must_use]
pub fn split_query(text: &str) -> (&str, &str) {
    text.split_once('?').unwrap_or((text, ""))
}

fn values(message_kind: u8, payload: &[u8]) -> Result<Vec<Value>, AmfError> {
    amf::decode(match message_kind {
        kind::COMMAND_AMF3 | kind::DATA_AMF3 => amf::without_amf3_prefix(payload),
        _ => payload,
    })
}

impl Connect {
    fn new(properties: &HashMap<String, Value>) -> Self {
        let text_of = |name: &str| properties.get(name).and_then(text).unwrap_or_default();
        let (app, app_query) = split_query(text_of("app"));
        let (_, url_query) = split_query(text_of("tcUrl"));
        let query = if app_query.is_empty() { url_query } else { app_query };
        Self {
            app: app.trim_matches('/').to_owned(),
            query: query.to_owned(),
            flash_version: text_of("flashVer").to_owned(),
            caps_ex: properties.get("capsEx").and_then(whole).unwrap_or(0),
            fourccs: FourCcs(fourccs(properties)),
        }
    }
}

fn fourccs(properties: &HashMap<String, Value>) -> u32 {
    let listed = match properties.get("fourCcList") {
        Some(Value::StrictArray(list)) => {
            list.iter().filter_map(text).fold(0, |mask, name| mask | FourCcs::bit(name))
        }
        _ => 0,
    };
    ["videoFourCcInfoMap", "audioFourCcInfoMap"].iter().fold(listed, |mask, name| match properties
        .get(*name)
    {
        Some(Value::Object(map)) => {
            map.keys().fold(mask, |mask, fourcc| mask | FourCcs::bit(fourcc))
        }
        _ => mask,
    })
}

impl Metadata {
    fn new(properties: &HashMap<String, Value>) -> Self {
        let positive = |name: &str| {
            properties.get(name).and_then(number).filter(|value| value.is_finite() && *value > 0.0)
        };
        let whole_of = |name: &str| properties.get(name).and_then(whole);
        let codec = |name: &str| match properties.get(name) {
            Some(Value::Utf8String(name)) => Some(CodecName::Name(name.clone())),
            other => other.and_then(whole).map(CodecName::Number),
        };
        let stereo = match properties.get("stereo") {
            Some(Value::Boolean(true)) => Some(2),
            Some(Value::Boolean(false)) => Some(1),
            _ => None,
        };
        Self {
            width: whole_of("width"),
            height: whole_of("height"),
            frame_rate: positive("framerate").or_else(|| positive("fps")),
            video_kbps: positive("videodatarate"),
            audio_kbps: positive("audiodatarate"),
            audio_sample_rate: whole_of("audiosamplerate"),
            audio_channels: whole_of("audiochannels").or(stereo),
            video_codec: codec("videocodecid"),
            audio_codec: codec("audiocodecid"),
            encoder: properties.get("encoder").and_then(text).map(str::to_owned),
        }
    }
}

fn text(value: &Value) -> Option<&str> {
    if let Value::Utf8String(text) = value { Some(text) } else { None }
}

fn number(value: &Value) -> Option<f64> {
    if let Value::Number(number) = value { Some(*number) } else { None }
}

/// A number that fits, without its fraction.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the range is checked, and cutting the fraction off is meant"
)]
fn whole(value: &Value) -> Option<u32> {
    number(value).filter(|number| (0.0..=f64::from(u32::MAX)).contains(number)).map(|n| n as u32)
}

#[cfg(test)]
mod tests {
    use super::super::amf::Writer;
    use super::*;

    fn connect(fill: impl FnOnce(Writer) -> Writer) -> Connect {
        let bytes = Writer::new().string("connect").number(1.0).object(fill).finish();
        let Command::Connect { connect, .. } = parse(kind::COMMAND_AMF0, &bytes).unwrap() else {
            panic!("no connect")
        };
        *connect
    }

    #[test]
    fn connect_keeps_what_rml_rtmp_loses() {
        let seen = connect(|object| {
            let object = object.name("app").string("live/");
            let object = object.name("tcUrl").string("rtmp://host/live?token=1");
            let object = object.name("flashVer").string("FMLE/3.0").name("capsEx").number(3.0);
            let object = object.name("fourCcList").strings(&["hvc1", "zzzz"]);
            object.name("videoFourCcInfoMap").object(|map| map.name("av01").number(1.0))
        });
        assert_eq!((seen.app.as_str(), seen.query.as_str()), ("live", "token=1"));
        assert_eq!((seen.flash_version.as_str(), seen.caps_ex), ("FMLE/3.0", 3));
        let has = ["hvc1", "av01", "avc1"].map(|fourcc| seen.fourccs.contains(fourcc));
        assert_eq!(has, [true, true, false]);
        assert!(connect(|o| o.name("fourCcList").strings(&["*"])).fourccs.contains("avc1"));
    }

    #[test]
    fn the_query_of_the_application_comes_before_that_of_the_url() {
        let seen = connect(|object| {
            let object = object.name("app").string("live?a=1");
            object.name("tcUrl").string("rtmp://host/live?b=2")
        });
        assert_eq!((seen.app.as_str(), seen.query.as_str()), ("live", "a=1"));
    }

    #[test]
    fn short_commands_are_commands_without_arguments() {
        assert_eq!(parse(20, &[]), Ok(Command::Unknown));
        assert_eq!(parse(20, &[5]), Ok(Command::Unknown));
        let publish = Writer::new().string("publish").finish();
        assert_eq!(parse(20, &publish), Ok(Command::Publish { name: String::new() }));
        let connect = Writer::new().string("connect").finish();
        assert!(matches!(parse(20, &connect), Ok(Command::Connect { .. })));
        let create = Writer::new().string("createStream").finish();
        assert_eq!(parse(20, &create), Ok(Command::CreateStream { transaction: 0.0 }));
    }

    #[test]
    fn set_data_frame_without_arguments_is_no_metadata() {
        let alone = Writer::new().string("@setDataFrame").finish();
        assert_eq!(parse_data(18, &alone), Ok(None));
        let one = Writer::new().string("@setDataFrame").string("onMetaData").finish();
        assert_eq!(parse_data(18, &one), Ok(None));
    }

    #[test]
    fn metadata_is_read_with_and_without_set_data_frame_and_wrong_values_are_left_out() {
        let fill = |object: Writer| {
            let object = object.name("width").number(1280.0).name("height").number(f64::NAN);
            let object = object.name("framerate").number(29.97).name("audiochannels").number(-1.0);
            object.name("videocodecid").string("hvc1").name("audiocodecid").number(10.0)
        };
        let direct = Writer::new().string("onMetaData").object(fill).finish();
        let framed =
            Writer::new().string("@setDataFrame").string("onMetaData").object(fill).finish();
        let seen = parse_data(18, &direct).unwrap().unwrap();
        let amf3 = [&[0], &framed[..]].concat();
        assert_eq!(parse_data(15, &amf3), Ok(Some(seen.clone())));
        assert_eq!(parse_data(18, &framed), Ok(Some(seen.clone())));
        assert_eq!((seen.width, seen.height, seen.frame_rate), (Some(1280), None, Some(29.97)));
        assert_eq!(seen.audio_channels, None);
        assert_eq!(seen.video_codec, Some(CodecName::Name("hvc1".to_owned())));
        assert_eq!(seen.audio_codec, Some(CodecName::Number(10)));
    }

    #[test]
    fn an_amf3_command_is_amf0_behind_a_zero() {
        let bytes = Writer::new().string("createStream").number(4.0).finish();
        let expected = Ok(Command::CreateStream { transaction: 4.0 });
        assert_eq!(parse(kind::COMMAND_AMF3, &[&[0], &bytes[..]].concat()), expected);
        assert_eq!(parse(kind::COMMAND_AMF3, &bytes), expected);
    }
}
