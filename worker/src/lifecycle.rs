//! A worker's life: warm up, say so, run the io thread until told to leave.
//!
//! ```text
//!  spawned ─▶ warming up ─Ready─▶ serving ─Drain─▶ draining ─last session ended─▶ Exit::Done
//!                                    │ supervisor gone
//!                                    └─▶ sessions ended ─▶ Exit::Orphaned
//! ```

use crate::bell::{Bell, CONTROL};
use crate::control::Control;
use crate::io_thread::IoThread;
use crate::knell;
use crate::libav::{
    Colour, ForceIdr, FramePool, LibavError, Ratio, VideoDecoder, VideoEncoder,
    VideoEncoderSettings, check_runtime, redirect_log,
};
use crate::media::packet::VideoCodec;
use std::sync::Arc;
use tasuki_shared::exit::Exit;
use tasuki_shared::inherit::Inherited;
use tasuki_shared::message::FromWorker;

/// Runs a worker to its end.
pub fn run(mut inherited: Inherited) -> Exit {
    let generation = inherited.generation;
    if let Some(pipe) = inherited.knell.take()
        && let Err(error) = knell::hang(pipe)
    {
        tracing::warn!(%error, "no knell: the supervisor learns of this worker's death somewhat later");
    }
    let bell = match Bell::new() {
        Ok(bell) => bell,
        Err(error) => {
            tracing::error!(%error, "no eventfd for the io thread");
            return Exit::Failure;
        }
    };
    let ring = Arc::clone(&bell);
    let control = match Control::start(inherited, move || ring.ring(CONTROL)) {
        Ok(control) => control,
        Err(error) => {
            tracing::error!(%error, "the control thread cannot start");
            return Exit::Failure;
        }
    };
    if let Err(error) = warm_up() {
        tracing::error!(
            %error,
            "this machine's libav cannot encode: FFmpeg ≥ 5.1 with libx264 is needed \
             (Debian 12, Ubuntu 24.04 or newer: apt install libavcodec-extra)"
        );
        return Exit::Unsupported;
    }
    if let Err(error) = control.send(FromWorker::Ready, Vec::new()) {
        tracing::error!(%error, "the supervisor cannot be told that this worker is ready");
        return Exit::Orphaned;
    }
    match IoThread::new(generation, control, bell) {
        Ok(mut io_thread) => {
            let exit = io_thread.run();
            io_thread.finish();
            exit
        }
        Err(error) => {
            tracing::error!(%error, "the io thread cannot start");
            Exit::Failure
        }
    }
}

/// What a stream that says nothing of its colours has (ITU-T H.273 value 2).
const UNSPECIFIED: Colour = Colour {
    range: 0,
    primaries: 2,
    transfer: 2,
    matrix: 2,
    sample_aspect: Ratio { num: 0, den: 1 },
};

/// Pays for the first use of libav and x264, which costs tens of milliseconds in a process.
fn warm_up() -> Result<(), LibavError> {
    redirect_log();
    check_runtime()?;
    let settings = VideoEncoderSettings {
        width: 128,
        height: 72,
        frame_rate: Ratio { num: 30, den: 1 },
        colour: UNSPECIFIED,
        preset: "veryfast".to_owned(),
        crf: 23.0,
        bitrate_bps: 200_000,
        vbv_init: None,
    };
    let mut encoder = VideoEncoder::open(&settings)?;
    let frame = FramePool::new(settings.width, settings.height)?.get()?;
    let encoded = encoder.encode(&frame, ForceIdr::Yes)?;
    let pixels = u64::from(settings.width) * u64::from(settings.height);
    let mut decoder = VideoDecoder::open(VideoCodec::H264, encoder.configuration(), pixels)?;
    decoder.send(&encoded.payload, 0)?;
    decoder.receive().map(|_frame| ())
}
