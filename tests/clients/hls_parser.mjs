// Reads playlists with hls-parser, as in its strict mode. A line of JSON in, {text}; a line of JSON out: what
// was read, in the shape of tests/harness/clients/reading.rs, or why it was refused.

import { createInterface } from "node:readline";
import HLS from "hls-parser";

// Its strict mode throws at the first objection; otherwise all are said, and the same are refusals here.
let objections = [];
console.error = (message) => objections.push(message);
HLS.setOptions({ strictMode: false, silent: false });

/** It counts three segments where the draft (4.4.4.9) says three target durations; reading.rs counts those. */
const MISCOUNTED = "greater than three target durations";

const micros = (seconds) => (seconds === undefined ? null : Math.round(seconds * 1e6));
const or = (value, otherwise) => (value === undefined || value === null ? otherwise : value);

function multivariant(playlist) {
  const variants = playlist.variants.map((variant) => ({
    uri: variant.uri,
    bandwidth_bps: variant.bandwidth,
    average_bps: or(variant.averageBandwidth, null),
    codecs: variant.codecs,
    width: or(variant.resolution?.width, null),
    height: or(variant.resolution?.height, null),
    frame_rate_mhz: variant.frameRate === undefined ? null : Math.round(variant.frameRate * 1000),
  }));
  return { multivariant: { variants } };
}

function media(playlist) {
  const control = or(playlist.lowLatencyCompatibility, {});
  // The hinted part is with the parts of the segment that it will be in.
  const hints = playlist.segments.flatMap((segment) => segment.parts.filter((part) => part.hint));
  const segments = playlist.segments
    .map((segment) => ({
      number: segment.mediaSequenceNumber,
      uri: segment.uri === "" ? null : segment.uri,
      duration_us: segment.uri === "" ? null : micros(segment.duration),
      map: or(segment.map?.uri, null),
      date_unix_ms: or(segment.programDateTime?.getTime(), null),
      parts: segment.parts
        .filter((part) => !part.hint)
        .map((part) => ({
          uri: part.uri,
          duration_us: micros(part.duration),
          independent: part.independent === true,
        })),
    }))
    .filter((segment) => segment.uri !== null || segment.parts.length > 0);
  return {
    media: {
      version: playlist.version,
      target_s: playlist.targetDuration,
      blocks: control.canBlockReload === true,
      can_skip_until_us: micros(control.canSkipUntil),
      hold_back_us: micros(control.holdBack),
      part_hold_back_us: micros(control.partHoldBack),
      part_target_us: micros(playlist.partTargetDuration),
      media_sequence: playlist.mediaSequenceBase,
      skipped: or(playlist.skip, 0),
      discontinuities: playlist.segments.filter((segment) => segment.discontinuity).length,
      segments,
      hints: hints.map((part) => part.uri),
      reports: playlist.renditionReports.map((report) => ({
        uri: report.uri,
        last_msn: report.lastMSN,
        last_part: report.lastPart,
      })),
      ended: playlist.endlist === true,
    },
  };
}

function read(text) {
  objections = [];
  try {
    const playlist = HLS.parse(text);
    const refusals = objections.filter((objection) => !objection.includes(MISCOUNTED));
    if (refusals.length > 0) return { refused: refusals.join("; ") };
    return playlist.isMasterPlaylist ? multivariant(playlist) : media(playlist);
  } catch (error) {
    return { refused: [...objections, error.message].join("; ") };
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(`${JSON.stringify(read(JSON.parse(line).text))}\n`);
}
