//! Files that cannot be read when they appear, and names that are none: what each costs.

use super::*;
use crate::delivery::catalogue::{Catalogue, StreamKey};
use crate::delivery::rendition::{Presence, Rendition};

const ONE: [(&str, RenditionKind); 1] = [("720p", RenditionKind::Encoded)];

fn key(name: &str) -> StreamKey {
    (PublicName::parse("live").unwrap(), PublicName::parse(name).unwrap())
}

fn rendition(catalogue: &Catalogue) -> &Rendition {
    catalogue.stream(&key("cam")).unwrap().rendition(&PublicName::parse("720p").unwrap()).unwrap()
}

/// Numbers of segments and how many parts each has, of which so many are missing.
fn told(catalogue: &Catalogue) -> Vec<(u64, usize, usize)> {
    let is_missing = |part: &&crate::delivery::rendition::Part| part.presence == Presence::Missing;
    let segments = rendition(catalogue).segments.iter();
    segments
        .map(|it| (it.number, it.parts.len(), it.parts.iter().filter(is_missing).count()))
        .collect()
}

/// Without an event: as a file that can be read after all.
fn mend(packager: &Packager, name: &str, with: &[u8]) {
    fs::write(packager.directory.join(name), with).unwrap();
}

fn spoil(packager: &Packager, name: &str) -> Vec<u8> {
    let path = packager.directory.join(name);
    let sound = fs::read(&path).unwrap();
    fs::write(path, b"torn").unwrap();
    sound
}

/// A part that could not be read is, with the next one: nothing is lost by it.
#[test]
fn a_part_that_can_be_read_a_moment_later_costs_nothing() {
    let root = Root::new("retry");
    let mut packager = Packager::begin(&root.0, &ONE);
    packager.parts(25);
    let mut catalogue = Catalogue::open(&root.0).unwrap();
    let torn = ["9.5.720p.m4s", "9.6.720p.m4s"].map(|name| {
        packager.parts(1);
        let sound = spoil(&packager, name);
        catalogue.look();
        assert_eq!(told(&catalogue), [(7, 10, 0), (8, 10, 0), (9, 5, 0)]);
        (name, sound)
    });
    torn.iter().for_each(|(name, sound)| mend(&packager, name, sound));
    packager.parts(1);
    catalogue.look();
    assert_eq!(told(&catalogue), [(7, 10, 0), (8, 10, 0), (9, 8, 0)]);
}

/// One that never can be costs its own time, wherever in its segment it is, and a new process tells
/// the same.
#[test]
fn a_part_that_cannot_be_read_costs_itself_alone() {
    for (torn, segments) in [
        ("8.5", [(7, 10, 0), (8, 10, 1), (9, 3, 0)]),
        ("8.9", [(7, 10, 0), (8, 10, 1), (9, 3, 0)]),
        ("9.0", [(7, 10, 0), (8, 10, 0), (9, 3, 1)]),
    ] {
        let root = Root::new(&format!("gap{torn}"));
        let mut packager = Packager::begin(&root.0, &ONE);
        packager.parts(15);
        let mut catalogue = Catalogue::open(&root.0).unwrap();
        for _ in 0..8 {
            packager.parts(1);
            let name = format!("{torn}.720p.m4s");
            if packager.directory.join(&name).exists() {
                spoil(&packager, &name);
            }
            catalogue.look();
        }
        assert_eq!(told(&catalogue), segments, "{torn}");
        assert_eq!(told(&Catalogue::open(&root.0).unwrap()), segments, "{torn}, read anew");
        let stream = catalogue.stream(&key("cam")).unwrap();
        let of = rendition(&catalogue);
        let starts: Vec<_> = of.parts().map(|part| part.note.start_ms).collect();
        assert!(starts.windows(2).all(|pair| pair[1] - pair[0] == 200), "{torn}: {starts:?}");
        let (segment, part) = torn.split_once('.').unwrap();
        let number = PartNumber { segment: segment.parse().unwrap(), part: part.parse().unwrap() };
        assert_eq!(stream.media_of(of, number), None);
    }
}

/// A rendition is not told of, and none of its parts, before its init segment can be had; then it is
/// with everything that it has.
#[test]
fn no_part_is_told_of_without_its_init_segment() {
    let root = Root::new("init");
    let mut packager = Packager::begin(&root.0, &ONE);
    let name = "init.0000000000000001.720p.mp4";
    let sound = spoil(&packager, name);
    let mut catalogue = Catalogue::open(&root.0).unwrap();
    packager.parts(12);
    catalogue.look();
    assert_eq!(told(&catalogue), []);
    assert!(catalogue.stream(&key("cam")).unwrap().offer().is_none());
    mend(&packager, name, &sound);
    packager.parts(10);
    catalogue.look();
    assert_eq!(told(&catalogue), [(8, 10, 0), (9, 2, 0)]);
    // One that is taken away, and is there again when a part needs it.
    fs::remove_file(packager.directory.join(name)).unwrap();
    catalogue.look();
    assert!(rendition(&catalogue).init().is_none());
    packager.put(name, &sound);
    packager.parts(1);
    catalogue.look();
    assert!(rendition(&catalogue).init().is_some());
    assert_eq!(told(&catalogue), [(8, 10, 0), (9, 3, 0)]);
}

/// What all renditions have in common is read with the first part, if it could not be before.
#[test]
fn a_stream_whose_description_came_to_nothing_is_read_with_its_first_part() {
    let root = Root::new("about");
    let mut packager = Packager::begin(&root.0, &ONE);
    let sound = spoil(&packager, STREAM_FILE);
    let mut catalogue = Catalogue::open(&root.0).unwrap();
    packager.parts(2);
    catalogue.look();
    assert!(catalogue.stream(&key("cam")).unwrap().about.is_none());
    mend(&packager, STREAM_FILE, &sound);
    packager.parts(10);
    catalogue.look();
    assert_eq!(told(&catalogue), [(7, 10, 0), (8, 2, 0)]);
}

/// Names that no publisher can have, links, files, and numbers that nobody counts to are passed over,
/// and what is there beside them is served.
#[test]
fn names_that_are_none_of_ours_break_nothing() {
    let root = Root::new("names");
    let mut packager = Packager::begin(&root.0, &ONE);
    packager.parts(12);
    let mut catalogue = Catalogue::open(&root.0).unwrap();
    let live = root.0.join("live");
    let long = "x".repeat(200);
    for odd in ["+thumbnails", "x y", "..x\n", "%2e%2e", "\u{fc}", &long] {
        fs::create_dir_all(live.join(odd)).unwrap();
        fs::create_dir_all(root.0.join(odd).join("cam")).unwrap();
        fs::write(live.join(odd).join(STREAM_FILE), b"{}").unwrap();
    }
    std::os::unix::fs::symlink(&packager.directory, live.join("link")).unwrap();
    std::os::unix::fs::symlink(&live, root.0.join("applink")).unwrap();
    fs::write(live.join("file"), b"x").unwrap();
    fs::create_dir(packager.directory.join("8.2.720p.m4s")).unwrap();
    let sound = fs::read(packager.directory.join("7.0.720p.m4s")).unwrap();
    for number in ["18446744073709551615.0", "9007199254740993.0", "8.4294967295"] {
        packager.put(&format!("{number}.720p.m4s"), &sound);
    }
    catalogue.look();
    for catalogue in [&catalogue, &Catalogue::open(&root.0).unwrap()] {
        assert_eq!(told(catalogue), [(7, 10, 0), (8, 2, 0)]);
        assert!(
            catalogue.stream(&key("link")).is_none() && catalogue.stream(&key("file")).is_none()
        );
    }
    // Any name that a publisher may have is a stream's.
    for name in ["-", "...", "index.m3u8", &"x".repeat(128)] {
        Packager::begin_as(&root.0, name, &ONE).parts(1);
        catalogue.look();
        assert!(catalogue.stream(&key(name)).is_some(), "{name}");
    }
}

/// With as many streams as are kept, one that has ended makes room for one that begins.
#[test]
fn an_ended_stream_makes_room_for_another() {
    let root = Root::new("room");
    for name in ["a", "b", "c"] {
        Packager::begin_as(&root.0, name, &ONE).parts(2);
    }
    let mut catalogue = Catalogue::open(&root.0).unwrap();
    assert!(catalogue.has_room(4) && !catalogue.has_room(3));
    for name in ["b", "c"] {
        fs::write(root.0.join("live").join(name).join(ENDED_FILE), b"").unwrap();
    }
    catalogue.look();
    assert!(catalogue.has_room(3));
    let left = ["a", "b", "c"].map(|name| catalogue.stream(&key(name)).is_some());
    assert_eq!(left, [true, false, true]);
    // One that begins again is served again, and with all that it had.
    Packager::begin_as(&root.0, "b", &ONE).parts(3);
    catalogue.look();
    let again = catalogue.stream(&key("b")).unwrap();
    assert_eq!(again.rendition(&PublicName::parse("720p").unwrap()).unwrap().parts().count(), 3);
}
