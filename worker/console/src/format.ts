// Figures as people read them. Pure.

import type { PlayerState } from "./player";

const KIB = 1024;
const MINUTE_MS = 60_000;
const HOUR_MS = 60 * MINUTE_MS;
const DAY_MS = 24 * HOUR_MS;

/** `412 KiB`, `1.25 GiB`: three figures. */
export function bytes(count: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let value = Math.abs(count);
  let unit = 0;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= KIB;
    unit += 1;
  }
  return `${count < 0 ? "−" : ""}${threeFigures(value, unit === 0)} ${units[unit]}`;
}

/** `5.12 Mb/s`. */
export function bitrate(bps: number): string {
  if (bps < 1000) return `${Math.round(bps)} b/s`;
  if (bps < 999_500) return `${threeFigures(bps / 1000, false)} kb/s`;
  return `${threeFigures(bps / 1e6, false)} Mb/s`;
}

function threeFigures(value: number, isWhole: boolean): string {
  if (isWhole || value >= 99.95) return String(Math.round(value));
  return value >= 9.995 ? value.toFixed(1) : value.toFixed(2);
}

/** `850 ms`, `12 s`, `3 min 05 s`, `2 h 10 min`, `4 d 3 h`. */
export function duration(ms: number): string {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 9950) return `${(ms / 1000).toFixed(1)} s`;
  if (ms < MINUTE_MS) return `${Math.floor(ms / 1000)} s`;
  const two = (value: number) => String(Math.floor(value)).padStart(2, "0");
  if (ms < HOUR_MS) return `${Math.floor(ms / MINUTE_MS)} min ${two((ms % MINUTE_MS) / 1000)} s`;
  if (ms < DAY_MS) return `${Math.floor(ms / HOUR_MS)} h ${two((ms % HOUR_MS) / MINUTE_MS)} min`;
  return `${Math.floor(ms / DAY_MS)} d ${Math.floor((ms % DAY_MS) / HOUR_MS)} h`;
}

/** How long something has been there; less exact the longer it is. */
export function age(ms: number): string {
  if (ms < MINUTE_MS) return `${Math.floor(ms / 1000)} s`;
  if (ms < HOUR_MS) return `${Math.floor(ms / MINUTE_MS)} min`;
  return duration(ms);
}

/** A pause: `870 µs`, `4.2 ms`, `1.3 s`. */
export function pause(us: number): string {
  if (us < 1000) return `${us} µs`;
  if (us < 1e6) return `${threeFigures(us / 1000, false)} ms`;
  return `${(us / 1e6).toFixed(1)} s`;
}

/** Of a footprint: `+20.0 MiB/min`, or nothing when it does not grow. */
export function slope(bytesPerSecond: number): string {
  if (bytesPerSecond < KIB / 60) return "not growing";
  return `+${bytes(bytesPerSecond * 60)}/min`;
}

/** Time of day, in this place. */
export function clock(unixMs: number): string {
  const at = new Date(unixMs);
  return [at.getHours(), at.getMinutes(), at.getSeconds()]
    .map((part) => String(part).padStart(2, "0"))
    .join(":");
}

/** With the day where it is not today's. */
export function moment(unixMs: number, nowMs: number): string {
  const at = new Date(unixMs);
  if (at.toDateString() === new Date(nowMs).toDateString()) return clock(unixMs);
  return `${at.toLocaleDateString(undefined, { month: "short", day: "numeric" })} ${clock(unixMs)}`;
}

/** `12 345`, with thin spaces. */
export function count(value: number): string {
  return String(Math.round(value)).replace(/\B(?=(\d{3})+$)/g, "\u202f");
}

export function plural(value: number, one: string, many = `${one}s`): string {
  return `${count(value)} ${value === 1 ? one : many}`;
}

export function percent(value: number): string {
  return value < 9.95 && value > 0.05 ? `${value.toFixed(1)} %` : `${Math.round(value)} %`;
}

/** A name from the code, for people: `audio_gap_filled`. */
export function words(name: string): string {
  return name.replaceAll("_", " ");
}

/** One line under a bare player. */
export function playbackFacts(state: PlayerState): string {
  const latency = state.latencyMs === null ? "" : `${state.latencyMs} ms behind the publisher`;
  return [
    state.doing,
    latency,
    `buffer ${state.bufferMs} ms`,
    `rate ${state.rate.toFixed(3)}`,
    plural(state.stalls, "stall"),
    `${count(state.dropped)} of ${count(state.total)} frames dropped`,
    state.rung && `${state.rung} ${state.width}×${state.height}`,
  ]
    .filter(Boolean)
    .join(" · ");
}
