//! `numbers FILE`: time and burnt-in frame number of each picture, for a look at a recording.

use std::path::Path;
use tasuki_tests::frames;

fn main() -> anyhow::Result<()> {
    let file = std::env::args().nth(1).unwrap_or_default();
    let decoded = frames::decode(Path::new(&file))?;
    for picture in &decoded.pictures {
        match picture.number {
            Some(number) => println!("{:.3} {number}", picture.pts_s),
            None => println!("{:.3} unreadable", picture.pts_s),
        }
    }
    for error in &decoded.errors {
        println!("error: {error}");
    }
    Ok(())
}
