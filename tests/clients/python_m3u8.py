"""Reads playlists with m3u8 in strict mode. A line of JSON in, {text}; a line of JSON out: what was
read, in the shape of tests/harness/clients/reading.rs, or why it was refused."""

import json
import sys

import m3u8


def micros(seconds):
    return None if seconds is None else round(seconds * 1_000_000)


def milliseconds(moment):
    return None if moment is None else round(moment.timestamp() * 1000)


def multivariant(playlist):
    def variant(listed):
        about = listed.stream_info
        width, height = about.resolution or (None, None)
        rate = about.frame_rate
        return {
            "uri": listed.uri,
            "bandwidth_bps": about.bandwidth,
            "average_bps": about.average_bandwidth,
            "codecs": about.codecs,
            "width": width,
            "height": height,
            "frame_rate_mhz": None if rate is None else round(rate * 1000),
        }

    return {"multivariant": {"variants": [variant(listed) for listed in playlist.playlists]}}


def segment(number, listed):
    parts = [
        {
            "uri": part.uri,
            "duration_us": micros(part.duration),
            "independent": part.independent == "YES",
        }
        for part in listed.parts
    ]
    # That of a segment which is not whole yet is with its first part.
    date = listed.program_date_time
    if date is None and listed.uri is None and listed.parts:
        date = listed.parts[0].program_date_time
    return {
        "number": number,
        "uri": listed.uri,
        "duration_us": None if listed.uri is None else micros(listed.duration),
        "map": listed.init_section.uri if listed.init_section else None,
        "date_unix_ms": milliseconds(date),
        "parts": parts,
    }


def media(playlist):
    control, inf, skip = playlist.server_control, playlist.part_inf, playlist.skip
    hint = playlist.preload_hint
    skipped = skip.skipped_segments if skip else 0
    first = playlist.media_sequence + skipped
    return {
        "media": {
            "version": int(playlist.version),
            "target_s": playlist.target_duration,
            "blocks": bool(control and control.can_block_reload == "YES"),
            "can_skip_until_us": micros(control.can_skip_until if control else None),
            "hold_back_us": micros(control.hold_back if control else None),
            "part_hold_back_us": micros(control.part_hold_back if control else None),
            "part_target_us": micros(inf.part_target if inf else None),
            "media_sequence": playlist.media_sequence,
            "skipped": skipped,
            "discontinuities": sum(1 for listed in playlist.segments if listed.discontinuity),
            "segments": [
                segment(first + at, listed) for at, listed in enumerate(playlist.segments)
            ],
            "hints": [hint.uri] if hint else [],
            "reports": [
                {"uri": it.uri, "last_msn": it.last_msn, "last_part": it.last_part}
                for it in playlist.rendition_reports
            ],
            "ended": playlist.is_endlist,
        }
    }


def read(text):
    # What it raises is of no common kind, and of its own bugs as well.
    try:
        playlist = m3u8.M3U8(text, strict=True)
        return multivariant(playlist) if playlist.is_variant else media(playlist)
    except Exception as error:
        return {"refused": f"{type(error).__name__}: {error}"}


for line in sys.stdin:
    print(json.dumps(read(json.loads(line)["text"])), flush=True)
