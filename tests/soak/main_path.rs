//! The main path at full length: 30 s of 1080p30 through the default ladder.

use anyhow::Result;
use tasuki_tests::fixture::Recipe;
use tasuki_tests::flv::Flv;
use tasuki_tests::named;
use tasuki_tests::obs;
use tasuki_tests::obs_passage;
use tasuki_tests::passage::{self, Expected, Rendition};
use tasuki_tests::place::RunDirectory;
use tasuki_tests::server::Setup;

pub fn run(arguments: &[String]) -> Result<()> {
    let recipe = Recipe::full_hd(named::number(arguments, "seconds", 30)?);
    in_kept_directory("soak-main", |run| {
        let passage = passage::of_recipe(run.path(), &recipe, Setup::default())?;
        let sent = Flv::read(&recipe.file()?)?;
        let found = passage.check(Some(&sent), &Expected::all_of(&recipe))?;
        show(&found);
        println!("{} frames, each exactly once and in order in every rendition", recipe.frames());
        Ok(())
    })
}

pub fn run_obs(arguments: &[String]) -> Result<()> {
    if let Some(program) = obs::missing() {
        anyhow::bail!("{program} is not installed (apt-get install obs-studio xvfb)");
    }
    let pictures = named::number(arguments, "pictures", 900)?;
    in_kept_directory("soak-obs", |run| {
        show(&obs_passage::publish(run.path(), pictures.into())?);
        Ok(())
    })
}

/// The directory stays where it is when the run fails.
pub fn in_kept_directory<T>(
    label: &str,
    body: impl FnOnce(&RunDirectory) -> Result<T>,
) -> Result<T> {
    let run = RunDirectory::new(label)?;
    let result = body(&run);
    if result.is_err() {
        run.keep();
    }
    result
}

fn show(renditions: &[Rendition]) {
    for Rendition { label, streams, pictures, worst_skew_ms } in renditions {
        let skew = worst_skew_ms.map_or_else(|| "-".to_owned(), |skew| format!("{skew:.1} ms"));
        println!(
            "{label:<8} {}+{} {}x{} {pictures} pictures, worst A/V skew {skew}",
            streams.video_codec, streams.audio_codec, streams.width, streams.height
        );
    }
}
