//! One `[apps.NAME]`: its ladder and everything that refers to it.

use super::{absolute_path, label, number, out_of_range, secs, time};
use crate::config::error::{Fault, nearest};
use crate::config::push_url::PushTarget;
use crate::config::raw::{
    RawApp, RawAudio, RawBlur, RawFlv, RawLimits, RawPush, RawRecord, RawRung,
};
use crate::config::units::{Bitrate, Percent, Size};
use crate::config::{App, delivery, describe, log_size};
use crate::id::RungId;
use crate::limits::{BLUR_RECTS_MAX, PUSHES_MAX, RECORD_DIRECTORY_BYTES_MAX, RUNGS_MAX};
use crate::plan::{
    AudioPlan, BlurRect, EncodedRung, LogSize, RecordPlan, RungKind, RungPlan, StreamLimits,
};
use std::cmp::Reverse;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;
use toml::Spanned;

const PRESETS: [&str; 9] = [
    "ultrafast",
    "superfast",
    "veryfast",
    "faster",
    "fast",
    "medium",
    "slow",
    "slower",
    "veryslow",
];
const PRESET_DEFAULT: &str = "veryfast";
const CRF_DEFAULT: f32 = 23.0;
const AUDIO_BITRATE_DEFAULT: u64 = 128_000;
/// Pass-through, then short side and bitrate of what is encoded.
const LADDER_DEFAULT: [(u32, u64); 3] = [(720, 2_500_000), (480, 1_200_000), (360, 600_000)];

pub(super) fn check(name: &str, at: &Range<usize>, raw: RawApp) -> Result<App, Fault> {
    let RawApp { audio, audio_bitrate, blur, rungs, push, record, hls, flv, limits } = raw;
    let (limits, gop, source_log) = check_limits(&limits, at)?;
    let blurred_at = blur.as_ref().map(Spanned::span);
    let blur = check_blur(blur)?;
    let blurred = if blur.is_empty() { None } else { blurred_at };
    let rungs = match rungs {
        Some(rungs) => check_rungs(name, rungs, limits.fps_max, blurred.is_some())?,
        None => match blurred {
            Some(at) => return Err(Fault::new(at, leak(name, "source"))),
            None => default_ladder(limits.fps_max),
        },
    };
    let hls = hls
        .map(|hls| delivery::check_hls(&hls, select_rungs(hls.rungs.clone(), &rungs)?))
        .transpose()?;
    Ok(App {
        audio: check_audio(audio, audio_bitrate.as_ref())?,
        pushes: check_pushes(push, &rungs)?,
        record: record.map(|record| check_record(&record, &rungs)).transpose()?,
        flv: check_flv(flv, hls.as_ref().map(|hls| hls.rungs.as_slice()), &rungs)?,
        hls,
        rungs,
        blur,
        limits,
        gop,
        source_log,
    })
}

fn check_limits(
    raw: &RawLimits,
    app_at: &Range<usize>,
) -> Result<(StreamLimits, Duration, LogSize), Fault> {
    let RawLimits { width, height, fps, bitrate, gop } = raw;
    let limits = StreamLimits {
        width_max: number(width.as_ref(), 3840, "width", 16..=8192)?,
        height_max: number(height.as_ref(), 2160, "height", 16..=8192)?,
        fps_max: number(fps.as_ref(), 60, "fps", 1..=240)?,
        bitrate_bps_max: rate(
            bitrate.as_ref(),
            Some(16_000_000),
            "bitrate",
            100_000..=200_000_000,
        )?,
    };
    let span = Duration::from_millis(500)..=secs(120);
    let gop_max = time(gop.as_ref(), secs(4), "gop", span)?;
    let at = gop.as_ref().map(Spanned::span).or_else(|| bitrate.as_ref().map(Spanned::span));
    let log = log_size::source_log(limits.bitrate_bps_max, gop_max, limits.fps_max).map_err(
        |needed| {
            let message = format!(
                "bitrate × gop needs a source log of {} for each stream, and {} is the most: \
                 lower limits.bitrate or limits.gop",
                describe::bytes(needed),
                describe::bytes(crate::limits::SOURCE_LOG_BYTES_MAX),
            );
            Fault::new(at.unwrap_or_else(|| app_at.clone()), message)
        },
    )?;
    Ok((limits, gop_max, log))
}

fn check_audio(raw: RawAudio, bitrate: Option<&Spanned<Bitrate>>) -> Result<AudioPlan, Fault> {
    match (raw, bitrate) {
        (RawAudio::Aac, bitrate) => {
            let default = Some(AUDIO_BITRATE_DEFAULT);
            let bitrate_bps = rate(bitrate, default, "audio_bitrate", 32_000..=320_000)?;
            Ok(AudioPlan::Aac { bitrate_bps, log: log_size::audio_log(bitrate_bps) })
        }
        (RawAudio::Copy | RawAudio::None, Some(bitrate)) => {
            let message = "audio_bitrate only has a meaning with audio = \"aac\"";
            Err(Fault::new(bitrate.span(), message))
        }
        (RawAudio::Copy, None) => Ok(AudioPlan::Copy),
        (RawAudio::None, None) => Ok(AudioPlan::None),
    }
}

fn check_blur(raw: Option<Spanned<Vec<Spanned<RawBlur>>>>) -> Result<Vec<BlurRect>, Fault> {
    let Some(raw) = raw else { return Ok(Vec::new()) };
    if raw.get_ref().len() > BLUR_RECTS_MAX {
        let message = format!("blur has at most {BLUR_RECTS_MAX} rectangles");
        return Err(Fault::new(raw.span(), message));
    }
    raw.into_inner()
        .into_iter()
        .map(|rect| {
            let at = rect.span();
            blur_rect(rect.get_ref()).ok_or_else(|| {
                let message = "a blur rectangle lies within the frame: width and height above 0, \
                               left + width and top + height at most 100 percent";
                Fault::new(at, message)
            })
        })
        .collect()
}

fn blur_rect(raw: &RawBlur) -> Option<BlurRect> {
    let RawBlur { left, top, width, height } = raw;
    let part = |Percent(hundredths): &Percent| {
        u16::try_from(*hundredths).ok().filter(|hundredths| *hundredths <= 10_000)
    };
    let rect =
        BlurRect { left: part(left)?, top: part(top)?, width: part(width)?, height: part(height)? };
    let inside = rect.width > 0
        && rect.height > 0
        && rect.left + rect.width <= 10_000
        && rect.top + rect.height <= 10_000;
    inside.then_some(rect)
}

fn default_ladder(fps_max: u32) -> Vec<RungPlan> {
    let source = RungPlan { label: "source".to_owned(), kind: RungKind::Source };
    let encoded = LADDER_DEFAULT.map(|(short_side, bitrate_bps)| RungPlan {
        label: format!("{short_side}p"),
        kind: RungKind::Encoded(EncodedRung {
            short_side,
            bitrate_bps,
            preset: PRESET_DEFAULT.to_owned(),
            crf: CRF_DEFAULT,
            log: log_size::rung_log(bitrate_bps, fps_max),
        }),
    });
    std::iter::once(source).chain(encoded).collect()
}

/// The ladder, highest first whatever the order in the file.
fn check_rungs(
    app: &str,
    raw: Spanned<Vec<Spanned<RawRung>>>,
    fps_max: u32,
    blurred: bool,
) -> Result<Vec<RungPlan>, Fault> {
    if raw.get_ref().is_empty() || raw.get_ref().len() > RUNGS_MAX {
        let message =
            format!("a ladder has 1 to {RUNGS_MAX} rungs; leave rungs out for the default ladder");
        return Err(Fault::new(raw.span(), message));
    }
    let mut ladder: Vec<RungPlan> = Vec::new();
    for rung in raw.into_inner() {
        let at = rung.span();
        let raw = rung.into_inner();
        let label_at = raw.label.as_ref().map_or_else(|| at.clone(), Spanned::span);
        if blurred && raw.source && !raw.unblurred {
            let label = raw.label.as_ref().map_or("source", |label| label.get_ref().as_str());
            return Err(Fault::new(at, leak(app, label)));
        }
        let plan = check_rung(&raw, at.clone(), fps_max)?;
        if ladder.iter().any(|other| other.label == plan.label) {
            let message = format!("two rungs have the label '{}'", plan.label);
            return Err(Fault::new(label_at, message));
        }
        let second = |other: &RungPlan| matches!(other.kind, RungKind::Source);
        if second(&plan) && ladder.iter().any(second) {
            return Err(Fault::new(at, "a ladder passes the source through once"));
        }
        ladder.push(plan);
    }
    ladder.sort_by_key(|rung| match &rung.kind {
        RungKind::Source => Reverse((u32::MAX, u64::MAX)),
        RungKind::Encoded(encoded) => Reverse((encoded.short_side, encoded.bitrate_bps)),
    });
    Ok(ladder)
}

fn check_rung(raw: &RawRung, at: Range<usize>, fps_max: u32) -> Result<RungPlan, Fault> {
    let RawRung { label: name, source, unblurred, height, bitrate, preset, crf } = raw;
    if let Some(name) = name {
        label(name, "a rung's label")?;
    }
    let named = |default: String| name.as_ref().map_or(default, |name| name.get_ref().clone());
    if *source {
        let settings = [
            height.as_ref().map(Spanned::span),
            bitrate.as_ref().map(Spanned::span),
            preset.as_ref().map(Spanned::span),
            crf.as_ref().map(Spanned::span),
        ];
        if let Some(at) = settings.into_iter().flatten().next() {
            let message = "a rung with source = true is not encoded: it has a label and nothing \
                           of height, bitrate, preset, crf";
            return Err(Fault::new(at, message));
        }
        return Ok(RungPlan { label: named("source".to_owned()), kind: RungKind::Source });
    }
    if *unblurred {
        return Err(Fault::new(at, "unblurred only has a meaning with source = true"));
    }
    let Some(height) = height else {
        return Err(Fault::new(at, "a rung needs source = true, or height and bitrate"));
    };
    let short_side = number(Some(height), 0, "height", 32..=4320)?;
    if short_side % 2 != 0 {
        return Err(Fault::new(height.span(), "height must be even"));
    }
    let Some(bitrate) = bitrate else {
        return Err(Fault::new(at, "an encoded rung needs a bitrate, for example \"2.5M\""));
    };
    let bitrate_bps = rate(Some(bitrate), None, "bitrate", 50_000..=100_000_000)?;
    let encoded = EncodedRung {
        short_side,
        bitrate_bps,
        preset: check_preset(preset.as_ref())?,
        crf: check_crf(crf.as_ref())?,
        log: log_size::rung_log(bitrate_bps, fps_max),
    };
    Ok(RungPlan { label: named(format!("{short_side}p")), kind: RungKind::Encoded(encoded) })
}

fn check_preset(raw: Option<&Spanned<String>>) -> Result<String, Fault> {
    let Some(raw) = raw else { return Ok(PRESET_DEFAULT.to_owned()) };
    if PRESETS.contains(&raw.get_ref().as_str()) {
        return Ok(raw.get_ref().clone());
    }
    let hint = nearest(raw.get_ref(), PRESETS)
        .map(|near| format!("did you mean '{near}'? "))
        .unwrap_or_default();
    let message = format!("unknown x264 preset: {hint}(known here: {})", PRESETS.join(", "));
    Err(Fault::new(raw.span(), message))
}

fn check_crf(raw: Option<&Spanned<f32>>) -> Result<f32, Fault> {
    match raw {
        None => Ok(CRF_DEFAULT),
        // Zero would be lossless, which is another profile.
        Some(raw) if (1.0..=51.0).contains(raw.get_ref()) => Ok(*raw.get_ref()),
        Some(raw) => Err(out_of_range(raw.span(), "crf", 1, 51)),
    }
}

fn check_pushes(raw: Vec<RawPush>, ladder: &[RungPlan]) -> Result<Vec<PushTarget>, Fault> {
    let mut targets = Vec::new();
    let mut connections = 0;
    for RawPush { url, rungs } in raw {
        let rungs = select_rungs(rungs, ladder)?;
        connections += rungs.len();
        if connections > PUSHES_MAX {
            let message = format!(
                "an application pushes over at most {PUSHES_MAX} connections (one per push and \
                 rung), and this is the {connections}th: push fewer rungs"
            );
            return Err(Fault::new(url.span(), message));
        }
        let target = PushTarget::parse(url.get_ref(), rungs)
            .map_err(|bad| Fault::new(url.span(), bad.to_string()))?;
        targets.push(target);
    }
    Ok(targets)
}

fn check_record(raw: &RawRecord, ladder: &[RungPlan]) -> Result<RecordPlan, Fault> {
    let RawRecord { directory, rungs, rotate, keep_age, keep_size, reserve } = raw;
    let years = secs(10 * 365 * 86_400);
    let size = |raw: &Option<Spanned<Size>>, default| match raw {
        Some(raw) => raw.get_ref().0,
        None => default,
    };
    let rotate = time(rotate.as_ref(), secs(3600), "rotate", secs(10)..=secs(7 * 86_400))?;
    let keep = time(keep_age.as_ref(), Duration::ZERO, "keep_age", Duration::ZERO..=years)?;
    Ok(RecordPlan {
        directory: absolute_path(directory, "directory", RECORD_DIRECTORY_BYTES_MAX)?,
        rungs: select_rungs(rungs.clone(), ladder)?,
        rotate_ms: millis(rotate),
        keep_ms: millis(keep),
        keep_bytes: size(keep_size, 0),
        reserve_bytes: size(reserve, 1 << 30),
    })
}

/// What is packaged can be had as FLV as well, where nothing else is said.
fn check_flv(
    raw: Option<RawFlv>,
    packaged: Option<&[RungId]>,
    ladder: &[RungPlan],
) -> Result<Option<Vec<RungId>>, Fault> {
    let RawFlv { offer, rungs } = match (raw, packaged) {
        (Some(raw), _) => raw,
        (None, Some(_)) => RawFlv::default(),
        (None, None) => return Ok(None),
    };
    let rungs = match (rungs, packaged) {
        (None, Some(packaged)) => packaged.to_vec(),
        (rungs, _) => select_rungs(rungs, ladder)?,
    };
    Ok(offer.unwrap_or(true).then_some(rungs))
}

/// The named rungs in the ladder's order, or all.
fn select_rungs(
    names: Option<Spanned<Vec<Spanned<String>>>>,
    ladder: &[RungPlan],
) -> Result<Vec<RungId>, Fault> {
    let ids = (0_u8..).map(RungId);
    let Some(names) = names else { return Ok(ids.take(ladder.len()).collect()) };
    if names.get_ref().is_empty() {
        return Err(Fault::new(names.span(), "rungs is empty; leave it out for all rungs"));
    }
    let mut selected = Vec::new();
    for name in names.into_inner() {
        let known = ladder.iter().map(|rung| rung.label.as_str());
        let Some((id, _)) =
            ids.clone().zip(known.clone()).find(|(_, label)| *label == name.get_ref())
        else {
            let hint = nearest(name.get_ref(), known.clone())
                .map(|near| format!("did you mean '{near}'? "))
                .unwrap_or_default();
            let list = known.collect::<Vec<_>>().join(", ");
            let message = format!("no rung has this label: {hint}(the ladder has {list})");
            return Err(Fault::new(name.span(), message));
        };
        if selected.contains(&id) {
            return Err(Fault::new(name.span(), "this rung is listed twice"));
        }
        selected.push(id);
    }
    selected.sort();
    Ok(selected)
}

fn rate(
    raw: Option<&Spanned<Bitrate>>,
    default: Option<u64>,
    what: &str,
    allowed: RangeInclusive<u64>,
) -> Result<u64, Fault> {
    let shown = |bps: &u64| describe::bitrate(*bps);
    match (raw, default) {
        (Some(raw), _) if allowed.contains(&raw.get_ref().0) => Ok(raw.get_ref().0),
        (Some(raw), _) => {
            Err(out_of_range(raw.span(), what, shown(allowed.start()), shown(allowed.end())))
        }
        (None, Some(default)) => Ok(default),
        (None, None) => Err(Fault::new(0..0, format!("{what} is missing"))),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn leak(app: &str, label: &str) -> String {
    format!(
        "app '{app}': rung '{label}' passes the source through and would show what blur hides: \
         list rungs without it, or say unblurred = true in that rung"
    )
}
