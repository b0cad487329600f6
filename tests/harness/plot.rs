//! What leaked, as a picture and as a table.

use crate::leaking::{Bounds, Case, Story};
use anyhow::{Context, Result};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::Path;
use std::time::Duration;

const WIDTH: u32 = 1400;
const HEIGHT: u32 = 1000;
const FONT: &str = "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf";
const MIB: u64 = 1 << 20;

type Area<'a> = DrawingArea<BitMapBackend<'a>, plotters::coord::Shift>;
type Chart<'a, 'b> =
    ChartContext<'a, BitMapBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// Above each worker of the server that recycles, below the totals of the servers, against their
/// limits.
pub fn draw(path: &Path, stories: &[Story], bounds: &Bounds) -> Result<()> {
    let font = fs::read(FONT).with_context(|| format!("{FONT} (fonts-dejavu-core)"))?;
    // Kept for the rest of the process, as the library wants it.
    let registered = plotters::style::register_font("dejavu", FontStyle::Normal, font.leak());
    registered.map_err(|_| anyhow::anyhow!("{FONT} is no font"))?;
    let (width, height) = (usize::try_from(WIDTH)?, usize::try_from(HEIGHT)?);
    let mut pixels = vec![0; width * height * 3];
    {
        let all = BitMapBackend::with_buffer(&mut pixels, (WIDTH, HEIGHT)).into_drawing_area();
        all.fill(&WHITE)?;
        let (upper, lower) = all.split_vertically(HEIGHT / 2);
        draw_workers(&upper, stories, bounds)?;
        draw_totals(&lower, stories, bounds)?;
        all.present()?;
    }
    let mut encoder = png::Encoder::new(BufWriter::new(File::create(path)?), WIDTH, HEIGHT);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.write_header()?.write_image_data(&pixels)?;
    Ok(())
}

fn draw_workers(area: &Area<'_>, stories: &[Story], bounds: &Bounds) -> Result<()> {
    let title = "Footprint of each worker of the server that recycles, MiB over minutes";
    let recycling = || stories.iter().filter(|story| story.case == Case::Recycling);
    let held = recycling().flat_map(|story| &story.looks).flat_map(|look| &look.held);
    let most = held.map(|held| held.memory.footprint_bytes).max().unwrap_or(0).max(bounds.hard);
    let mut chart = chart(area, title, stories, most + most / 10)?;
    for story in recycling() {
        let workers = story.by_process().into_iter().filter(|(name, _)| name.starts_with('g'));
        for (index, (_, looks)) in workers.enumerate() {
            let points =
                looks.iter().map(|(at, held)| (minutes(*at), mib(held.memory.footprint_bytes)));
            let color = Palette99::pick(index).stroke_width(2);
            chart.draw_series(LineSeries::new(points, color))?;
        }
    }
    limit(&mut chart, "soft limit", bounds.soft, &BLUE, stories)?;
    limit(&mut chart, "hard limit", bounds.hard, &RED, stories)?;
    legend(&mut chart)
}

fn draw_totals(area: &Area<'_>, stories: &[Story], bounds: &Bounds) -> Result<()> {
    let most = stories.iter().map(Story::total_max).max().unwrap_or(0).max(bounds.total);
    let title = "Footprint of all processes of each server, MiB over minutes";
    let mut chart = chart(area, title, stories, most + most / 10)?;
    for (index, story) in stories.iter().enumerate() {
        let points = story.looks.iter().map(|look| (minutes(look.at), mib(look.total_bytes())));
        let color = Palette99::pick(index).stroke_width(2);
        chart
            .draw_series(LineSeries::new(points, color))?
            .label(story.case.name())
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 20, y)], color));
    }
    limit(&mut chart, "bound", bounds.total, &RED, stories)?;
    legend(&mut chart)
}

fn chart<'a, 'b>(
    area: &'a Area<'b>,
    title: &str,
    stories: &[Story],
    bytes_max: u64,
) -> Result<Chart<'a, 'b>> {
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("dejavu", 20))
        .margin(12)
        .x_label_area_size(30)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..end(stories), 0.0..mib(bytes_max))?;
    chart.configure_mesh().label_style(("dejavu", 14)).light_line_style(WHITE).draw()?;
    Ok(chart)
}

fn limit(
    chart: &mut Chart<'_, '_>,
    label: &str,
    bytes: u64,
    color: &RGBColor,
    stories: &[Story],
) -> Result<()> {
    let style = color.stroke_width(1);
    let line = LineSeries::new([(0.0, mib(bytes)), (end(stories), mib(bytes))], style);
    chart
        .draw_series(line)?
        .label(format!("{label}, {} MiB", bytes / MIB))
        .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 20, y)], style));
    Ok(())
}

fn legend<'a, 'b: 'a>(chart: &mut Chart<'a, 'b>) -> Result<()> {
    chart
        .configure_series_labels()
        .label_font(("dejavu", 14))
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK)
        .draw()?;
    Ok(())
}

/// A line for each worker, and one for each server.
#[must_use]
pub fn table(stories: &[Story], bounds: &Bounds) -> String {
    let mut text = format!(
        "{:<10} {:<8} {:>7} {:>7} {:>10} {:>9} {:>9}  left because\n",
        "server", "worker", "from s", "to s", "first MiB", "most MiB", "lazy MiB"
    );
    for story in stories {
        for (name, looks) in story.by_process() {
            let Some((from, first)) = looks.first() else { continue };
            let to = looks.last().map_or(*from, |(at, _)| *at);
            let most = looks.iter().map(|(_, held)| held.memory.footprint_bytes).max();
            let lazy = looks.iter().map(|(_, held)| held.memory.lazy_free_bytes).max();
            let why = story
                .recycles
                .iter()
                .find(|recycle| format!("g{}", recycle.generation) == name)
                .map(|r| format!("{}, {} streams moved: {}", r.reason, r.moves.len(), r.detail));
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "{:<10} {:<8} {:>7} {:>7} {:>10} {:>9} {:>9}  {}",
                story.case.name(),
                name,
                from.as_secs(),
                to.as_secs(),
                first.memory.footprint_bytes / MIB,
                most.unwrap_or(0) / MIB,
                lazy.unwrap_or(0) / MIB,
                why.unwrap_or_else(|| "–".to_owned())
            );
        }
    }
    for story in stories {
        let _ = writeln!(
            text,
            "{:<10} at most {} MiB of {} MiB together, {} workers replaced, {} pictures",
            story.case.name(),
            story.total_max() / MIB,
            bounds.total / MIB,
            story.recycles.len(),
            story.pictures
        );
    }
    text
}

fn end(stories: &[Story]) -> f64 {
    let looks = stories.iter().filter_map(|story| story.looks.last());
    looks.map(|look| minutes(look.at)).fold(0.1, f64::max)
}

fn minutes(at: Duration) -> f64 {
    at.as_secs_f64() / 60.0
}

#[expect(clippy::cast_precision_loss, reason = "for a picture")]
fn mib(bytes: u64) -> f64 {
    (bytes / 1024) as f64 / 1024.0
}
