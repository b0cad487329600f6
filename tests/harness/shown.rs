//! What a viewer saw: the pictures that a browser presented, with their times. Pure, but for reading
//! the browser's own notes (browser/shown.js).

use anyhow::{Context, Result};
use serde_json::Value;

/// The script that takes the notes.
pub const SCRIPT: &str = include_str!("browser/shown.js");
/// What it has noted, as JSON.
pub const NOTES: &str = "window.shown.pictures";

/// One picture on the screen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Picture {
    /// When it is expected to be seen, Unix time.
    pub at_ms: f64,
    /// Its place in the media.
    pub media_ms: f64,
    /// The number that is burnt in, if it was read.
    pub number: Option<u32>,
    /// Media that the browser had from its place on.
    pub ahead_ms: f64,
}

/// A picture that stood longer than the next one's distance in the media says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Freeze {
    /// From here on something else should have been seen.
    pub at_ms: f64,
    pub ms: f64,
    pub want: Want,
}

/// What it stood for want of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// The next picture was not there in time.
    Media,
    /// It was there: the browser was late, as on a machine without a processor to spare.
    Time,
}

/// Reads the notes.
pub fn pictures(notes: &Value) -> Result<Vec<Picture>> {
    let notes = notes.as_array().context("notes of pictures")?;
    let read = |note: &Value| {
        let number = note[3].as_u64().and_then(|number| u32::try_from(number).ok());
        let [at_ms, media_ms, ahead_ms] = [0, 1, 4].map(|at| note[at].as_f64());
        Some(Picture { at_ms: at_ms?, media_ms: media_ms?, number, ahead_ms: ahead_ms? })
    };
    notes.iter().map(|note| read(note).with_context(|| format!("a note {note}"))).collect()
}

/// Where a picture stood for at least one more of `frame_ms`. A player's own changes of speed are far
/// below that, and so are the ticks of a screen.
#[must_use]
pub fn freezes(pictures: &[Picture], frame_ms: f64) -> Vec<Freeze> {
    let pairs = pictures.windows(2).filter_map(|pair| {
        let [before, after] = pair else { return None };
        let media_ms = after.media_ms - before.media_ms;
        let ms = after.at_ms - before.at_ms - media_ms;
        // Behind a jump the distance in the media says nothing.
        let is_jump = !(0.0..=1_000.0).contains(&media_ms);
        let ms = if is_jump { after.at_ms - before.at_ms - frame_ms } else { ms };
        let at_ms = if is_jump { before.at_ms + frame_ms } else { before.at_ms + media_ms };
        // Its own time, and the next one's.
        let had_next = before.ahead_ms >= media_ms.max(frame_ms) + frame_ms;
        let want = if is_jump || !had_next { Want::Media } else { Want::Time };
        (ms >= frame_ms).then_some(Freeze { at_ms, ms, want })
    });
    pairs.collect()
}

/// The longest distance in the media between two pictures that follow each other, in frames: more
/// than one where some were not presented.
#[must_use]
pub fn longest_step(pictures: &[Picture], frame_ms: f64) -> f64 {
    let steps = pictures.windows(2).map(|pair| match pair {
        [before, after] => (after.media_ms - before.media_ms) / frame_ms,
        _ => 0.0,
    });
    steps.fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn steady(count: u32) -> Vec<Picture> {
        let picture = |number: u32| {
            let ms = f64::from(number) * 40.0;
            Picture { at_ms: 1000.0 + ms, media_ms: ms, number: Some(number), ahead_ms: 300.0 }
        };
        (0..count).map(picture).collect()
    }

    #[test]
    fn only_a_picture_that_stands_is_a_freeze() {
        let mut seen = steady(10);
        assert_eq!(freezes(&seen, 40.0), []);
        // One that is not presented is skipped, not frozen: the next comes when it should.
        seen.remove(4);
        assert_eq!(freezes(&seen, 40.0), []);
        assert!((longest_step(&seen, 40.0) - 2.0).abs() < 0.01);
        // A tick late and back again.
        seen[2].at_ms += 16.0;
        assert_eq!(freezes(&seen, 40.0), []);
        seen.iter_mut().skip(6).for_each(|picture| picture.at_ms += 90.0);
        let found = freezes(&seen, 40.0);
        assert_eq!(found.len(), 1);
        assert!((found[0].ms - 90.0).abs() < 0.01, "{found:?}");
        assert_eq!(found[0].want, Want::Time);
    }

    /// Whose fault a freeze is follows from what the browser had when it began.
    #[test]
    fn what_was_not_there_in_time_is_told_from_what_was() {
        for (ahead_ms, want) in [(40.0, Want::Media), (79.0, Want::Media), (80.0, Want::Time)] {
            let mut seen = steady(10);
            seen[4].ahead_ms = ahead_ms;
            seen.iter_mut().skip(5).for_each(|picture| picture.at_ms += 50.0);
            assert_eq!(freezes(&seen, 40.0).first().map(|it| it.want), Some(want), "{ahead_ms}");
        }
    }

    #[test]
    fn a_jump_forward_hides_no_freeze() {
        let mut seen = steady(10);
        seen.iter_mut().skip(5).for_each(|picture| {
            picture.media_ms += 5_000.0;
            picture.at_ms += 300.0;
        });
        let found = freezes(&seen, 40.0);
        assert!(found.len() == 1 && (found[0].ms - 300.0).abs() < 0.01, "{found:?}");
    }

    #[test]
    fn notes_are_read() {
        let notes = json!([[1000.5, 40, 1, 7, 300.5], [1040.5, 80, 2, null, 260]]);
        let seen = pictures(&notes).unwrap();
        let first = Picture { at_ms: 1000.5, media_ms: 40.0, number: Some(7), ahead_ms: 300.5 };
        assert_eq!(seen[0], first);
        assert_eq!(seen[1].number, None);
        assert!(pictures(&json!([["x"]])).is_err());
    }
}
