//! libav's log, turned into tracing events.
//!
//! The callback runs on codec threads: it filters the level first, formats into its own stack,
//! never blocks beyond what the subscriber does, never panics, and passes on a bounded number
//! of lines a second; the rest is counted and reported with the next line that passes.

use ffmpeg_sys_next as ffi;
use std::ffi::{c_char, c_int, c_void};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Lines a second that pass; damaged input can produce thousands.
const LINES_PER_SECOND_MAX: u32 = 20;

static WINDOW_SECOND: AtomicU64 = AtomicU64::new(0);
static WINDOW_LINES: AtomicU32 = AtomicU32::new(0);
static SUPPRESSED: AtomicU64 = AtomicU64::new(0);

/// Sends libav's warnings and errors to tracing. Process-wide, done once.
pub fn redirect_log() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: both calls store process-wide settings; the callback is a plain function that
        // lives as long as the process.
        unsafe {
            ffi::av_log_set_level(ffi::AV_LOG_WARNING);
            ffi::av_log_set_callback(Some(on_line));
        }
    });
}

/// May one more line pass in the second `now`? Returns how many were suppressed before it.
fn admit(now_seconds: u64) -> Option<u64> {
    if WINDOW_SECOND.swap(now_seconds, Ordering::Relaxed) != now_seconds {
        WINDOW_LINES.store(0, Ordering::Relaxed);
    }
    if WINDOW_LINES.fetch_add(1, Ordering::Relaxed) < LINES_PER_SECOND_MAX {
        Some(SUPPRESSED.swap(0, Ordering::Relaxed))
    } else {
        SUPPRESSED.fetch_add(1, Ordering::Relaxed);
        None
    }
}

fn emit(level: c_int, line: &[u8]) {
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end();
    if text.is_empty() {
        return;
    }
    // x264 says so in words, and libav then calls it an external error.
    if text.contains("malloc of size") {
        crate::allocator::out_of_memory();
    }
    let Some(suppressed) = admit(tasuki_shared::clock::unix_ms() / 1000) else { return };
    if level <= ffi::AV_LOG_ERROR {
        // Damaged input is the publisher's fault, not ours: it is no error of this process.
        tracing::warn!(target: "libav", line = text, suppressed);
    } else {
        tracing::info!(target: "libav", line = text, suppressed);
    }
}

/// Where `va_list` is an array type it arrives as a pointer and can be formatted.
#[cfg(target_arch = "x86_64")]
unsafe extern "C" fn on_line(
    context: *mut c_void,
    level: c_int,
    format: *const c_char,
    arguments: *mut ffi::__va_list_tag,
) {
    if level > ffi::AV_LOG_WARNING || format.is_null() {
        return;
    }
    let mut line = [0u8; 512];
    let mut prefix: c_int = 1;
    // SAFETY: libav passes a valid format with its arguments; the context may be null, which
    // the formatter accepts; the buffer is writable for the length given and is terminated.
    let written = unsafe {
        ffi::av_log_format_line2(
            context,
            level,
            format,
            arguments,
            line.as_mut_ptr().cast(),
            512,
            &mut prefix,
        )
    };
    let length = usize::try_from(written).unwrap_or(0).min(line.len() - 1);
    emit_caught(level, &line[..length]);
}

/// Elsewhere its type differs by architecture: the format is shown without its arguments.
#[cfg(not(target_arch = "x86_64"))]
unsafe extern "C" fn on_line<V>(
    _context: *mut c_void,
    level: c_int,
    format: *const c_char,
    _arguments: V,
) {
    if level > ffi::AV_LOG_WARNING || format.is_null() {
        return;
    }
    // SAFETY: libav passes a NUL-terminated format.
    let format = unsafe { std::ffi::CStr::from_ptr(format) };
    emit_caught(level, format.to_bytes());
}

/// A panic must not unwind into C: a subscriber that panics costs its line.
fn emit_caught(level: c_int, line: &[u8]) {
    if std::panic::catch_unwind(|| emit(level, line)).is_err() {
        SUPPRESSED.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines beyond the bound of a second are counted, and the next second reports them.
    #[test]
    fn a_flood_of_lines_is_bounded_and_counted() {
        let passed = (0..1000).filter(|_| admit(7).is_some()).count();
        assert!(passed <= 20, "{passed}");
        let suppressed = admit(8).expect("a new second admits again");
        assert!(suppressed >= 980, "{suppressed}");
    }
}
