//! Directories that nobody comes back to, and publishers that do.

use super::*;
use crate::output::hls::store::sweep::{clear, is_stale, set_aside};

const WINDOW_MS: u64 = 60_000;
const STALE_MS: u64 = WINDOW_MS + 6 * 60_000;

/// One of a stream that is over.
fn made(root: &Path, name: &str) -> std::path::PathBuf {
    let path = root.join("live").join(name);
    let (mut store, _) = open(&path, SERIES);
    put(&mut store, 1, 0, 1_000, b"x");
    path
}

/// The directory was last touched so long before now.
fn age(path: &Path, by_ms: u64) {
    let then_ms = tasuki_shared::clock::unix_ms() - by_ms;
    let then = std::time::UNIX_EPOCH + std::time::Duration::from_millis(then_ms);
    std::fs::File::open(path).unwrap().set_modified(then).unwrap();
}

/// Between the decision and the removal a publisher is back and has written: nothing of it is lost, and
/// it writes on.
#[test]
fn a_publisher_that_is_back_before_its_directory_is_removed_keeps_it() {
    let root = fixture::Directory::new();
    let path = made(&root.path, "cam");
    age(&path, STALE_MS);
    let now = tasuki_shared::clock::unix_ms();
    assert!(is_stale(&path, now));
    let (mut back, _) = open(&path, OTHER);
    put(&mut back, 2, 0, 2_000, b"new");
    assert_eq!(clear(&path, now, &mut 1_000), sweep::Removed::InPart);
    put(&mut back, 2, 1, 2_200, b"new");
    assert_eq!(names(&path), ["1.0.720p.m4s", "2.0.720p.m4s", "2.1.720p.m4s"]);
    assert_eq!(std::fs::read_dir(root.path.join("live")).unwrap().count(), 1);
}

/// One that is back while its old directory is being removed begins in a new one, of which nothing is
/// removed.
#[test]
fn a_publisher_that_is_back_while_its_directory_is_removed_has_another() {
    let root = fixture::Directory::new();
    let path = made(&root.path, "cam");
    age(&path, STALE_MS);
    let aside = set_aside(&path).unwrap();
    assert!(PublicName::parse(aside.file_name().unwrap().to_str().unwrap()).is_err());
    let (mut back, opened) = open(&path, OTHER);
    assert_eq!(opened, Opened::FirstTime);
    put(&mut back, 2, 0, 2_000, b"new");
    // Whoever set it aside is dead; another stream's turn removes the rest.
    let own = made(&root.path, "own");
    assert_eq!(sweep(&own, tasuki_shared::clock::unix_ms()), 1);
    assert_eq!((aside.exists(), names(&path)), (false, vec!["2.0.720p.m4s".to_owned()]));
}

/// A publisher has looked at its directory, and has it no more when it writes: it begins anew.
#[test]
fn a_publisher_whose_directory_is_swept_while_it_begins_makes_another() {
    struct Swept {
        files: Directory,
        turns: std::cell::Cell<u32>,
    }

    impl Files for Swept {
        fn create_directory(&self) -> io::Result<()> {
            self.files.create_directory()
        }

        fn names(&self) -> io::Result<Vec<String>> {
            let names = self.files.names();
            if self.turns.replace(self.turns.get() + 1) == 0 {
                set_aside(&self.files.path).unwrap();
            }
            names
        }

        fn head(&self, name: &str, bytes: usize) -> io::Result<Vec<u8>> {
            self.files.head(name, bytes)
        }

        fn read(&self, name: &str) -> io::Result<Vec<u8>> {
            self.files.read(name)
        }

        fn commit(&mut self, name: &str, bytes: &[u8]) -> io::Result<Put> {
            self.files.commit(name, bytes)
        }

        fn replace(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
            self.files.replace(name, bytes)
        }

        fn remove(&self, name: &str) -> io::Result<()> {
            self.files.remove(name)
        }
    }

    let root = fixture::Directory::new();
    let path = made(&root.path, "cam");
    let files = Swept { files: Directory { path: path.clone() }, turns: 0.into() };
    let opened = Store::open(files, &[label("720p")], OTHER, &about(&["720p"]));
    let (store, opened) = opened.map_err(|(_, error)| error).unwrap();
    assert_eq!((opened, store.newest(0)), (Opened::FirstTime, None));
    assert!(path.join(STREAM_FILE).exists());
}

/// What an operator has put there stays under its name.
#[test]
fn what_is_not_ours_in_a_stale_directory_stays() {
    let root = fixture::Directory::new();
    let (path, own) = (made(&root.path, "cam"), made(&root.path, "own"));
    std::fs::write(path.join("notes.txt"), "mine").unwrap();
    age(&path, STALE_MS);
    assert_eq!(sweep(&own, tasuki_shared::clock::unix_ms()), 0);
    let left: Vec<_> =
        std::fs::read_dir(&path).unwrap().map(|it| it.unwrap().file_name()).collect();
    assert_eq!(left, ["notes.txt"]);
}

/// However many directories there are, each that is stale is found, with more files than one turn
/// removes as well.
#[test]
fn a_stale_directory_among_thousands_is_swept() {
    let root = fixture::Directory::new();
    let live = root.path.join("live");
    for number in 0..1_500 {
        std::fs::create_dir_all(live.join(format!("empty{number}"))).unwrap();
    }
    let made = |name: &str| {
        let path = live.join(name);
        let (mut store, _) = open(&path, SERIES);
        for part in 0..6 {
            put(&mut store, 1, part, 1_000, b"x");
        }
        path
    };
    let stale: Vec<_> = (0..8).map(|number| made(&format!("stale{number}"))).collect();
    let own = made("own");
    let later = tasuki_shared::clock::unix_ms() + 60_000 + 6 * 60_000;
    // Eight files each, and the own one's are not looked at.
    let mut swept = 0;
    for _ in 0..8 {
        swept += sweep_at_most(&own, later, 10);
    }
    assert_eq!(swept, 8);
    assert!(stale.iter().all(|path| !path.exists()) && own.exists());
}

#[test]
fn directories_of_streams_long_gone_are_swept_and_all_others_stay() {
    let root = fixture::Directory::new();
    let made = |name: &str| {
        let path = root.path.join("live").join(name);
        let (mut store, _) = open(&path, SERIES);
        put(&mut store, 1, 0, 1_000, b"x");
        path
    };
    let (own, gone) = (made("own"), made("gone"));
    let foreign = root.path.join("live").join("photos");
    std::fs::create_dir_all(&foreign).unwrap();
    std::fs::write(foreign.join("1.0.720p.m4s"), "x").unwrap();
    let now = tasuki_shared::clock::unix_ms();
    assert_eq!(sweep(&own, now + 60_000 + 4 * 60_000), 0);
    assert_eq!(sweep(&own, now + 60_000 + 6 * 60_000), 1);
    assert!(own.exists() && foreign.exists() && !gone.exists());
    assert_eq!(sweep(Path::new("/"), now), 0, "no root above it");
}
