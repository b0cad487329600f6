//! When the next picture comes, which the end of a part must know: the last picture in it lasts until
//! then. Pure.
//!
//! Sound waits here for that. It costs no time where pictures come often enough: sound is fed with the
//! picture behind it.

use super::HlsPacket;
use crate::media::timeline::Track;
use std::collections::VecDeque;
use tasuki_shared::limits::{HLS_PART_SAMPLES_MAX, HLS_PICTURE_AHEAD_MS};

/// A packet, and the first picture from it on.
#[derive(Clone, Debug)]
pub(super) struct Next {
    pub(super) packet: HlsPacket,
    /// `None`: it is farther away than sound waits.
    pub(super) picture_ms: Option<i64>,
}

/// What comes out, in the order in which it went in.
#[derive(Clone, Debug)]
pub(super) enum Out {
    Next(Next),
    AudioHeader(Vec<u8>),
}

#[derive(Clone, Debug)]
enum Held {
    Sound(HlsPacket),
    Header(Vec<u8>),
}

/// See the module. Whether a packet's next picture is known depends on what follows it alone, so
/// that it is the same wherever an owner begins.
#[derive(Default)]
pub(super) struct Ahead {
    held: VecDeque<Held>,
}

impl Ahead {
    pub(super) fn take(&mut self, packet: HlsPacket, out: &mut Vec<Out>) {
        let dts_ms = packet.packet.dts_ms;
        match packet.packet.track {
            Track::Video => {
                out.extend(self.held.drain(..).map(|held| released(held, Some(dts_ms))));
                out.push(Out::Next(Next { packet, picture_ms: Some(dts_ms) }));
            }
            Track::Audio => {
                self.held.push_back(Held::Sound(packet));
                while self.held.len() > HLS_PART_SAMPLES_MAX
                    || self.held.front().is_some_and(|held| is_late(held, dts_ms))
                {
                    out.extend(self.held.pop_front().map(|held| released(held, None)));
                }
            }
        }
    }

    pub(super) fn audio_header(&mut self, bytes: Vec<u8>) {
        self.held.push_back(Held::Header(bytes));
    }

    /// Nothing follows.
    pub(super) fn flush(&mut self, out: &mut Vec<Out>) {
        out.extend(self.held.drain(..).map(|held| released(held, None)));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

fn is_late(held: &Held, newest_ms: i64) -> bool {
    match held {
        Held::Sound(sound) => newest_ms.saturating_sub(sound.packet.dts_ms) > HLS_PICTURE_AHEAD_MS,
        Held::Header(_) => true,
    }
}

fn released(held: Held, picture_ms: Option<i64>) -> Out {
    match held {
        Held::Sound(packet) => Out::Next(Next { packet, picture_ms }),
        Held::Header(bytes) => Out::AudioHeader(bytes),
    }
}
