//! What a request asks for, by its path and query. Pure; anything else is refused by name.

use super::playlist::Extent;
use crate::output::hls::place::{InitHash, PartNumber};
use tasuki_shared::id::PublicName;

/// All paths begin with it.
const PREFIX: &str = "/live/";
const PLAYLIST: &str = "index.m3u8";
const FLV: &str = ".flv";

/// A stream and what of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub app: PublicName,
    pub name: PublicName,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    Multivariant,
    Playlist {
        label: PublicName,
        reload: Reload,
    },
    Init {
        label: PublicName,
        hash: InitHash,
    },
    Part {
        label: PublicName,
        number: PartNumber,
    },
    Segment {
        label: PublicName,
        number: u64,
    },
    /// Without a label the source.
    Flv {
        label: Option<PublicName>,
    },
}

/// Delivery directives of a playlist request (RFC 8216bis, 6.2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reload {
    /// Not before the playlist has this.
    pub until: Option<Until>,
    pub extent: Extent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// `_HLS_msn` alone: the whole segment.
    Segment(u64),
    Part(PartNumber),
}

/// Why there is no such address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAddress {
    #[error("there is nothing here; a stream is at /live/APPLICATION/NAME/index.m3u8 or NAME.flv")]
    Unknown,
    #[error("_HLS_msn is not a number")]
    BadSegment,
    #[error("_HLS_part is not a number")]
    BadPart,
    #[error("_HLS_part needs _HLS_msn")]
    PartWithoutSegment,
    #[error("_HLS_skip is YES or v2")]
    BadSkip,
}

impl Address {
    pub fn parse(path: &str, query: Option<&str>) -> Result<Self, NoAddress> {
        let mut steps = path.strip_prefix(PREFIX).ok_or(NoAddress::Unknown)?.split('/');
        let mut step = || steps.next().ok_or(NoAddress::Unknown);
        let (app, name) = (named(step()?)?, step()?);
        let rest: Vec<&str> = steps.collect();
        let what = match rest.as_slice() {
            // A name may itself end so: its own FLV is then at `cam.flv.flv`.
            [] => {
                let name = named(name.strip_suffix(FLV).ok_or(NoAddress::Unknown)?)?;
                return Ok(Self { app, name, what: What::Flv { label: None } });
            }
            [PLAYLIST] => What::Multivariant,
            [file] => {
                let label = named(file.strip_suffix(FLV).ok_or(NoAddress::Unknown)?)?;
                What::Flv { label: Some(label) }
            }
            [label, file] => {
                let label = named(label)?;
                if *file == PLAYLIST {
                    What::Playlist { label, reload: Reload::parse(query.unwrap_or(""))? }
                } else {
                    media(label, file).ok_or(NoAddress::Unknown)?
                }
            }
            _ => return Err(NoAddress::Unknown),
        };
        Ok(Self { app, name: named(name)?, what })
    }
}

fn named(step: &str) -> Result<PublicName, NoAddress> {
    PublicName::parse(step).map_err(|_| NoAddress::Unknown)
}

fn media(label: PublicName, file: &str) -> Option<What> {
    if let Some(hash) = file.strip_prefix("init.").and_then(|rest| rest.strip_suffix(".mp4")) {
        return Some(What::Init { label, hash: InitHash::parse(hash)? });
    }
    let numbers = file.strip_suffix(".m4s")?;
    match numbers.split_once('.') {
        None => Some(What::Segment { label, number: number(numbers)? }),
        Some((segment, part)) => {
            let number = PartNumber { segment: number(segment)?, part: number(part)? };
            Some(What::Part { label, number })
        }
    }
}

impl Reload {
    /// Other parameters are the client's own affair.
    fn parse(query: &str) -> Result<Self, NoAddress> {
        let (mut segment, mut part, mut extent) = (None, None, Extent::Full);
        for pair in query.split('&') {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            match key {
                "_HLS_msn" => segment = Some(number(value).ok_or(NoAddress::BadSegment)?),
                "_HLS_part" => part = Some(number(value).ok_or(NoAddress::BadPart)?),
                "_HLS_skip" if matches!(value, "YES" | "v2") => extent = Extent::Delta,
                "_HLS_skip" => return Err(NoAddress::BadSkip),
                _ => {}
            }
        }
        let until = match (segment, part) {
            (None, None) => None,
            (None, Some(_)) => return Err(NoAddress::PartWithoutSegment),
            (Some(segment), None) => Some(Until::Segment(segment)),
            (Some(segment), Some(part)) => Some(Until::Part(PartNumber { segment, part })),
        };
        Ok(Self { until, extent })
    }
}

/// Digits alone.
fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn what(path: &str, query: Option<&str>) -> Result<What, NoAddress> {
        Address::parse(path, query).map(|address| address.what)
    }

    fn name(text: &str) -> PublicName {
        PublicName::parse(text).unwrap()
    }

    #[test]
    fn every_address_is_understood() {
        assert_eq!(what("/live/a/b/index.m3u8", None), Ok(What::Multivariant));
        let reload = Reload { until: None, extent: Extent::Full };
        let label = name("720p");
        let plain = What::Playlist { label: label.clone(), reload };
        assert_eq!(what("/live/a/b/720p/index.m3u8", Some("token=1")), Ok(plain));
        let until = Some(Until::Part(PartNumber { segment: 7, part: 3 }));
        let reload = Reload { until, extent: Extent::Delta };
        let query = Some("_HLS_msn=7&_HLS_part=3&_HLS_skip=YES");
        let blocking = What::Playlist { label: label.clone(), reload };
        assert_eq!(what("/live/a/b/720p/index.m3u8", query), Ok(blocking));
        let hash = InitHash(255);
        let init = What::Init { label: label.clone(), hash };
        assert_eq!(what("/live/a/b/720p/init.00000000000000ff.mp4", None), Ok(init));
        let number = PartNumber { segment: 12, part: 0 };
        let part = What::Part { label: label.clone(), number };
        assert_eq!(what("/live/a/b/720p/12.0.m4s", None), Ok(part));
        let segment = What::Segment { label: label.clone(), number: 12 };
        assert_eq!(what("/live/a/b/720p/12.m4s", None), Ok(segment));
        assert_eq!(what("/live/a/b.flv", Some("token=1")), Ok(What::Flv { label: None }));
        assert_eq!(what("/live/a/b/720p.flv", None), Ok(What::Flv { label: Some(label) }));
        let odd = Address::parse("/live/a/b.flv.flv", None).unwrap();
        assert_eq!((odd.name, odd.what), (name("b.flv"), What::Flv { label: None }));
        let odd = Address::parse("/live/a/b.flv/index.m3u8", None).unwrap();
        assert_eq!((odd.name, odd.what), (name("b.flv"), What::Multivariant));
    }

    /// Whatever could leave the directory of a stream is no address.
    #[test]
    fn what_is_no_address_is_refused_by_name() {
        for path in [
            "/",
            "/live",
            "/live/a",
            "/live/a/b",
            "/live/a/b/",
            "/live/../b/index.m3u8",
            "/live/a/%2e%2e/index.m3u8",
            "/live/a/b/../index.m3u8",
            "/live/a/b/720p/../x",
            "/live/a/b/720p/12.0.mp4",
            "/live/a/b/720p/-1.m4s",
            "/live/a/b/720p/1.2.3.m4s",
            "/live/a/b/720p/.m4s",
            "/live/a/b/720p/init.ff.mp4",
            "/other/a/b/index.m3u8",
            "/live/a/b/720p/12.0.m4s/x",
            "/live/a/.flv",
            "/live/a/b/.flv",
            "/live/a/../b.flv",
            "/live/a/b/720p/x.flv",
            "/live/a.flv",
        ] {
            assert_eq!(what(path, None), Err(NoAddress::Unknown), "{path}");
        }
        let playlist = |query| what("/live/a/b/720p/index.m3u8", Some(query));
        assert_eq!(playlist("_HLS_part=1"), Err(NoAddress::PartWithoutSegment));
        assert_eq!(playlist("_HLS_msn=x"), Err(NoAddress::BadSegment));
        assert_eq!(playlist("_HLS_msn=-1"), Err(NoAddress::BadSegment));
        assert_eq!(playlist("_HLS_msn=1&_HLS_part="), Err(NoAddress::BadPart));
        assert_eq!(playlist("_HLS_skip=no"), Err(NoAddress::BadSkip));
    }
}
