//! A sound server is not accused, and one that neglects a single duty is found, by that duty's name.

use super::super::fragment::tests::part as part_body;
use super::super::playlist::{Control, Report};
use super::*;

const FIRST: u64 = 7;
const SEGMENTS: u64 = 14;
const PARTS: u64 = 10;
const DATE_MS: u64 = 1_790_000_000_000;
const WINDOW: u64 = 12;

/// What a client saw of a stream from beginning to end.
#[derive(Clone)]
struct Story {
    playlists: Vec<Media>,
    /// URIs with what was fetched, in order.
    bodies: Vec<(String, Vec<u8>)>,
    init: Init,
}

fn part_uri(segment: u64, part: u64) -> String {
    format!("{segment}.{part}.m4s")
}

fn segment(number: u64, parts: u64) -> Segment {
    let listed = (0..parts).map(|part| Part {
        duration_us: 200_000,
        uri: part_uri(number, part),
        // The seam of a move begins with one as well.
        independent: if part == 0 || (number, part) == (9, 4) {
            Independent::Yes
        } else {
            Independent::No
        },
    });
    let whole = Whole { duration_us: 2_000_000, uri: format!("{number}.m4s") };
    Segment {
        number,
        map: Some("init.mp4".into()),
        date_unix_ms: Some(DATE_MS + (number - FIRST) * 2_000),
        breaks: 0,
        parts: listed.collect(),
        whole: (parts == PARTS).then_some(whole),
    }
}

/// With so many parts of the newest segment.
fn media(newest: u64, parts: u64) -> Media {
    let first = (newest + 1).saturating_sub(WINDOW).max(FIRST);
    let mut segments: Vec<Segment> = (first..newest).map(|it| segment(it, PARTS)).collect();
    for old in segments.iter_mut().rev().skip(6) {
        old.parts.clear();
    }
    segments.push(segment(newest, parts));
    let hint = if parts == PARTS { part_uri(newest + 1, 0) } else { part_uri(newest, parts) };
    Media {
        version: 9,
        target_s: 3,
        control: Control {
            reload: Reload::Blocks,
            can_skip_until_us: 18_000_000,
            hold_back_us: 9_000_000,
            part_hold_back_us: 660_000,
        },
        part_target_us: 220_000,
        media_sequence: first,
        segments,
        hint: Some(hint),
        reports: vec![Report {
            uri: "../a/index.m3u8".into(),
            last: Place { segment: newest, part: parts - 1 },
        }],
        ..Media::default()
    }
}

fn sound() -> Story {
    let mut story = Story {
        playlists: Vec::new(),
        bodies: Vec::new(),
        init: Init { track: 1, codec: "avc1.64000b".into() },
    };
    for number in FIRST..FIRST + SEGMENTS {
        let mut together = Vec::new();
        for part in 0..PARTS {
            story.playlists.push(media(number, part + 1));
            let is_idr = part == 0 || (number, part) == (9, 4);
            let body = part_body(if is_idr { 0x65 } else { 0x41 }, u8::try_from(part).unwrap());
            together.extend_from_slice(&body);
            story.bodies.push((part_uri(number, part), body));
        }
        story.bodies.push((format!("{number}.m4s"), together));
    }
    let mut end = story.playlists.last().unwrap().clone();
    (end.ending, end.hint) = (Ending::Ended, None);
    end.reports.clear();
    story.playlists.push(end);
    story
}

fn judged(story: &Story) -> Vec<Duty> {
    let mut judge = Judge::default();
    story.playlists.iter().for_each(|media| judge.playlist(media));
    story.bodies.iter().for_each(|(uri, body)| judge.body(uri, body));
    let mut duties: Vec<Duty> = judge.finish(&story.init).iter().map(|it| it.duty).collect();
    duties.sort_unstable();
    duties.dedup();
    duties
}

/// In each playlist that lists this segment.
fn of_segment(story: &mut Story, number: u64, mut change: impl FnMut(&mut Segment)) {
    for media in &mut story.playlists {
        media.segments.iter_mut().filter(|it| it.number == number).for_each(&mut change);
    }
}

#[test]
fn a_sound_server_is_not_accused() {
    assert_eq!(judged(&sound()), []);
}

#[test]
fn each_neglected_duty_of_playlists_and_bodies_is_found_by_name() {
    type Change = fn(&mut Story);
    let changes: &[(Duty, Change)] = &[
        (Duty::BlockingIsOffered, |story| story.playlists[3].control.reload = Reload::Polled),
        (Duty::SkipBoundary, |story| story.playlists[3].control.can_skip_until_us = 17_999_000),
        (Duty::HoldBack, |story| story.playlists[3].control.hold_back_us = 8_000_000),
        (Duty::PartHoldBack, |story| story.playlists[3].control.part_hold_back_us = 659_000),
        (Duty::TargetStays, |story| story.playlists[40].target_s = 2),
        (Duty::PartTargetStays, |story| {
            story.playlists.iter_mut().skip(60).for_each(|media| media.part_target_us = 210_000);
        }),
        (Duty::SegmentWithinTarget, |story| {
            story.playlists.iter_mut().for_each(|media| {
                (media.target_s, media.control.hold_back_us) = (1, 9_000_000);
            });
        }),
        (Duty::PartWithinTarget, |story| {
            of_segment(story, 9, |segment| {
                let parts = segment.parts.iter_mut().zip([221_000, 179_000]);
                // Of these the second may be too short, were it not the last that is known.
                parts.take(1).for_each(|(part, us)| part.duration_us = us);
                if let Some(last) = segment.parts.get_mut(9) {
                    last.duration_us = 179_000;
                }
            });
        }),
        (Duty::PartLongEnough, |story| {
            of_segment(story, 9, |segment| {
                if let Some(part) = segment.parts.get_mut(3) {
                    part.duration_us = 186_000;
                }
                if let Some(last) = segment.parts.get_mut(9) {
                    last.duration_us = 214_000;
                }
            });
        }),
        (Duty::PartsAddUp, |story| {
            of_segment(story, 9, |segment| {
                if let Some(last) = segment.parts.get_mut(9) {
                    last.duration_us = 150_000;
                }
            });
        }),
        (Duty::SegmentBeginsIndependently, |story| {
            of_segment(story, 9, |segment| {
                if let Some(part) = segment.parts.first_mut() {
                    part.independent = Independent::No;
                }
            });
            let (_, other) = story.bodies.iter().find(|(uri, _)| uri == "9.1.m4s").unwrap().clone();
            let body = story.bodies.iter_mut().find(|(uri, _)| uri == "9.0.m4s").unwrap();
            let length = body.1.len();
            body.1 = other;
            let whole = story.bodies.iter_mut().find(|(uri, _)| uri == "9.m4s").unwrap();
            let begin = story_part();
            whole.1.splice(..length, begin);
        }),
        (Duty::Map, |story| {
            story.playlists.iter_mut().for_each(|media| {
                media.segments.iter_mut().for_each(|segment| segment.map = None);
            });
        }),
        (Duty::Date, |story| {
            of_segment(story, 9, |segment| segment.date_unix_ms = Some(DATE_MS + 4_100));
        }),
        (Duty::SequenceGoesOn, |story| story.playlists[138].discontinuity_sequence = 1),
        (Duty::NothingIsRewritten, |story| {
            story.playlists[55].segments[0].map = Some("other.mp4".into());
        }),
        (Duty::NothingIsRewritten, |story| {
            story.playlists[25].segments[0].parts[3].uri = "7.x.m4s".into();
        }),
        (Duty::NothingIsTakenBack, |story| {
            let before = story.playlists[25].clone();
            story.playlists.insert(27, before);
        }),
        (Duty::EnoughIsKept, |story| {
            for media in story.playlists.iter_mut().skip(30) {
                let newest = media.segments.pop().unwrap();
                media.media_sequence = newest.number;
                media.segments = vec![newest];
            }
        }),
        (Duty::BreaksAreCounted, |story| {
            story.playlists[30].segments.last_mut().unwrap().breaks = 1;
        }),
        (Duty::Hint, |story| story.playlists[30].hint = Some("10.2.m4s".into())),
        (Duty::Hint, |story| story.playlists[30].hint = None),
        (Duty::End, |story| {
            story.playlists.pop();
        }),
        (Duty::End, |story| {
            let mut more = story.playlists.last().unwrap().clone();
            more.reports = vec![Report { uri: "x".into(), last: Place { segment: 1, part: 1 } }];
            story.playlists.push(more);
        }),
        (Duty::BodyStays, |story| story.bodies.push(("9.3.m4s".into(), vec![1]))),
        (Duty::BodyIsThere, |story| story.bodies.retain(|(uri, _)| uri != "9.3.m4s")),
        (Duty::SegmentIsItsParts, |story| {
            story.bodies.iter_mut().find(|(uri, _)| uri == "9.m4s").unwrap().1.push(0);
        }),
        (Duty::IndependentIsTrue, |story| {
            of_segment(story, 9, |segment| {
                if let Some(part) = segment.parts.get_mut(4) {
                    part.independent = Independent::No;
                }
            });
        }),
    ];
    for (at, (duty, change)) in changes.iter().enumerate() {
        let mut story = sound();
        change(&mut story);
        let found = judged(&story);
        assert!(found.contains(duty), "change {at}: {duty:?} was not found, but {found:?}");
        // Some changes cannot be made without another: a part's length is in its segment's.
        assert!(found.len() <= 3, "change {at}: {duty:?} is found among {found:?}");
    }
}

/// A part that is no IDR, as `sound` makes it.
fn story_part() -> Vec<u8> {
    part_body(0x41, 1)
}

#[test]
fn reports_may_be_a_part_behind_and_never_ahead() {
    let place = |segment, part| Place { segment, part };
    let report = |said, before, after| {
        let mut judge = Judge::default();
        judge.report(said, before, after);
        judge.findings().iter().map(|it| it.duty).collect::<Vec<_>>()
    };
    assert_eq!(report(place(7, 3), place(7, 3), place(7, 3)), []);
    assert_eq!(report(place(7, 2), place(7, 3), place(7, 4)), []);
    assert_eq!(report(place(7, 9), place(8, 0), place(8, 0)), []);
    assert_eq!(report(place(7, 1), place(7, 3), place(7, 3)), [Duty::Report]);
    assert_eq!(report(place(7, 4), place(7, 3), place(7, 3)), [Duty::Report]);
}

/// The same pictures have the same number in all renditions; what only one has is not compared.
#[test]
fn renditions_whose_breaks_are_counted_otherwise_are_found() {
    let numbers = |first: u64, second: u64| {
        let mut judge = Judge::default();
        let mut media = media(FIRST + 3, 2);
        media.discontinuity_sequence = first;
        media.segments[2].breaks = second;
        media.segments[3].breaks = second;
        judge.playlist(&media);
        judge.numbers()
    };
    let duties = |one: &[(u64, u64)], two: &[(u64, u64)]| {
        between(one, two).iter().map(|it| it.duty).collect::<Vec<_>>()
    };
    let sound = numbers(3, 1);
    assert_eq!(sound.len(), 4);
    let shifted: Vec<_> = sound.iter().map(|(date, breaks)| (date + 80, *breaks)).collect();
    assert_eq!(duties(&sound, &shifted), []);
    assert_eq!(duties(&sound, &[(DATE_MS + 1_000, 9)]), []);
    assert_eq!(duties(&sound, &numbers(2, 1)), [Duty::BreaksAgree; 4]);
    assert_eq!(duties(&sound, &numbers(3, 2)), [Duty::BreaksAgree; 2]);
}

/// What the delta tells and what it skips are the whole, and what is near the edge is told.
#[test]
fn a_delta_that_is_not_the_whole_is_found() {
    let full = media(FIRST + 11, 4);
    let skip = |skipped: u64| {
        let mut delta = full.clone();
        delta.segments.drain(..usize::try_from(skipped).unwrap());
        delta.skipped = skipped;
        delta.segments.iter_mut().for_each(|segment| segment.map = None);
        delta
    };
    let findings = |delta: &Media, full: &Media| {
        let mut judge = Judge::default();
        judge.delta(delta, &media(FIRST + 11, 3), full);
        judge.findings().iter().map(|it| it.duty).collect::<Vec<_>>()
    };
    assert_eq!(findings(&skip(2), &full), []);
    assert_eq!(findings(&skip(3), &full), [Duty::Delta], "nearer than the boundary");
    assert_eq!(findings(&skip(2), &media(FIRST + 11, 5)), [Duty::Delta], "a part is missing");
    let mut other = skip(2);
    other.segments[0].whole.as_mut().unwrap().duration_us = 1;
    assert!(findings(&other, &full).contains(&Duty::Delta));
    assert_eq!(findings(&Media { skipped: 40, ..skip(2) }, &full), [Duty::Delta]);
}

#[test]
fn what_a_multivariant_playlist_says_is_measured() {
    let story = sound();
    let said = Variant {
        uri: "72p/index.m3u8".into(),
        bandwidth_bps: 100_000,
        average_bps: Some(90_000),
        codecs: "avc1.64000b,mp4a.40.2".into(),
        resolution: Some((128, 72)),
        frame_rate_mhz: Some(29_970),
    };
    let findings = |said: &Variant| {
        let mut judge = Judge::default();
        story.playlists.iter().for_each(|media| judge.playlist(media));
        story.bodies.iter().for_each(|(uri, body)| judge.body(uri, body));
        judge.variant(said, &story.init, (128, 72), 30_000);
        judge.findings().iter().map(|it| it.duty).collect::<Vec<_>>()
    };
    assert_eq!(findings(&said), []);
    let low = findings(&Variant { bandwidth_bps: 500, average_bps: Some(400), ..said.clone() });
    assert!(!low.is_empty() && low.iter().all(|duty| *duty == Duty::Bandwidth), "{low:?}");
    let over = Variant { average_bps: Some(200_000), ..said.clone() };
    assert_eq!(findings(&over), [Duty::Bandwidth]);
    assert_eq!(findings(&Variant { codecs: "mp4a.40.2".into(), ..said.clone() }), [Duty::Codecs]);
    assert_eq!(findings(&Variant { resolution: None, ..said.clone() }), [Duty::Picture]);
    assert_eq!(findings(&Variant { frame_rate_mhz: Some(25_000), ..said }), [Duty::Picture]);
}
