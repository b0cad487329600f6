//! What `blur` hides cannot be read in anything that is encoded, and a rung that would show it
//! all the same has to be asked for.

use anyhow::{Context, ensure};
use tasuki_tests::fixture::Recipe;
use tasuki_tests::flv::Flv;
use tasuki_tests::frames;
use tasuki_tests::passage::{self, Expected};
use tasuki_tests::picture::Band;
use tasuki_tests::place::in_run_directory;
use tasuki_tests::server::{self, Rung, Setup};

/// Over the lower number, which is on rows 6 and 7 of 9.
const LOWER_PART: &str = "blur = [{ left = 0, top = 60, width = 100, height = 35 }]";

#[test]
fn a_blurred_number_is_unreadable_in_every_encoded_rendition_and_the_others_stay_readable() {
    in_run_directory("blur", |run| {
        let recipe = Recipe {
            width: 640,
            height: 360,
            video_kbps: 800,
            band: Band::Low,
            ..Recipe::small(5)
        };
        let setup = Setup {
            // 360p is the source's own size and more than its bitrate: it must not pass through.
            rungs: Some(vec![
                Rung::UnblurredSource,
                Rung::encoded(360, 4000),
                Rung::encoded(240, 1500),
                Rung::encoded(72, 200),
            ]),
            app_lines: LOWER_PART.to_owned(),
            ..Setup::default()
        };
        let passage = passage::of_recipe(run.path(), &recipe, setup)?;
        let sent = Flv::read(&recipe.file()?)?;
        // The numbers outside of the region are read here.
        let found = passage.check(Some(&sent), &Expected::all_of(&recipe))?;
        ensure!(found.len() == 4, "{found:?}");
        for rung in &passage.session.rungs {
            let file = passage.origin.recording(&format!("cam_{}", rung.label))?;
            let hidden = frames::decode_band(&file, Band::Low)?;
            let readable = hidden.numbers().iter().flatten().count();
            if rung.label == "source" {
                // What is looked for can be found where nothing hides it.
                ensure!(readable == hidden.pictures.len(), "source: only {readable} readable");
            } else {
                ensure!(rung.state == "encoding", "{rung:?}");
                ensure!(readable == 0, "{}: {readable} pictures show it", rung.label);
            }
        }
        Ok(())
    });
}

#[test]
fn a_source_rung_beside_blur_is_refused_unless_it_says_unblurred() {
    in_run_directory("blur-config", |run| {
        let config = format!(
            "[rtmp]\nlisten = [\"127.0.0.1:0\"]\n[apps.live]\n{LOWER_PART}\n\
             [[apps.live.rungs]]\nsource = true\n"
        );
        let (code, said) = server::refused(run.path(), &config)?;
        ensure!(code == Some(78), "{code:?}: {said}");
        ensure!(said.contains("unblurred"), "the way out is not named: {said}");
        let (code, said) = server::refused(
            run.path(),
            &format!("[rtmp]\nlisten = [\"127.0.0.1:0\"]\n[apps.live]\n{LOWER_PART}\n"),
        )
        .context("the default ladder, which has the source")?;
        ensure!(code == Some(78), "{code:?}: {said}");
        Ok(())
    });
}
