//! Playlists with one thing broken, which no checker may take for sound. Pure.

use anyhow::{Result, ensure};

/// One broken thing, made from a playlist that is sound.
#[derive(Clone, Copy, Debug)]
pub struct Control {
    pub name: &'static str,
    from: &'static str,
    to: &'static str,
}

const fn control(name: &'static str, from: &'static str, to: &'static str) -> Control {
    Control { name, from, to }
}

/// Of an open media playlist with parts, where the target duration is three seconds.
pub const MEDIA: &[Control] = &[
    control("a part without a URI", ",URI=\"", ",URL=\""),
    control("a part without a duration", "#EXT-X-PART:DURATION=", "#EXT-X-PART:LENGTH="),
    control("a duration that is no number", "#EXTINF:", "#EXTINF:x"),
    control("no part target", "#EXT-X-PART-INF", "#EXT-X-PORT-INF"),
    control("no target duration", "#EXT-X-TARGETDURATION", "#EXT-X-TARGETLENGTH"),
    control("no blocking reload", "CAN-BLOCK-RELOAD=YES", "CAN-BLOCK-RELOAD=NO"),
    control("no hold-back of parts", "PART-HOLD-BACK=", "PART-HOLD-BACK-TIME="),
    control("a short hold-back", ",HOLD-BACK=9.000", ",HOLD-BACK=6.000"),
    control("a short skip boundary", "CAN-SKIP-UNTIL=18.000", "CAN-SKIP-UNTIL=15.000"),
    control("no preload hint", "#EXT-X-PRELOAD-HINT", "#EXT-X-PRELOAD-HUNT"),
    control("a report of nothing", "REPORT:URI=", "REPORT:URL="),
    control("another first segment", "#EXT-X-MEDIA-SEQUENCE:", "#EXT-X-MEDIA-SEQUENCE:1"),
    control("a version that has no fractions", "#EXT-X-VERSION:9", "#EXT-X-VERSION:2"),
    control("no init segment", "#EXT-X-MAP:URI=", "#EXT-X-MOP:URI="),
];

/// Of a delta update that skips segments.
pub const DELTA: &[Control] = &[
    control("a skip of nothing", "SKIPPED-SEGMENTS=", "SKIPPED="),
    control("another skip", "SKIPPED-SEGMENTS=", "SKIPPED-SEGMENTS=1"),
];

/// Of a multivariant playlist.
pub const MULTIVARIANT: &[Control] = &[
    control("no bandwidth", "BANDWIDTH=", "BREADTH="),
    control("no codecs", "CODECS=", "CODEX="),
    control("a variant that is not told of", "#EXT-X-STREAM-INF", "#EXT-X-STREAM-INFO"),
];

impl Control {
    /// Breaks the first place that it is about.
    pub fn applied_to(&self, text: &str) -> Result<String> {
        let broken = text.replacen(self.from, self.to, 1);
        ensure!(broken != text, "{} cannot be made of\n{text}", self.name);
        Ok(broken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_breaks_something_or_says_that_it_cannot() {
        let text = "#EXT-X-PART:DURATION=0.200,URI=\"7.0.m4s\"\n";
        assert_eq!(
            MEDIA[1].applied_to(text).unwrap(),
            "#EXT-X-PART:LENGTH=0.200,URI=\"7.0.m4s\"\n"
        );
        assert!(MULTIVARIANT[0].applied_to(text).is_err());
    }
}
