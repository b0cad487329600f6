import assert from "node:assert/strict";
import { test } from "node:test";
import { JUMP_BEHIND_MS, RATE_MAX, RATE_MIN, RateController } from "../src/rate";

const PART_MS = 200;

/** A viewer of a stream whose parts arrive late by `lateMs(part)`, simulated in steps of 10 ms. */
function watch({ startMs, seconds, lateMs = () => 0 }: { startMs: number; seconds: number; lateMs?: (part: number) => number }) {
  const pace = new RateController(450);
  let [edge, played, rate] = [startMs, 0, 1];
  let [stalledMs, jumps, slowest, fastest] = [0, 0, 1, 1];
  let part = 0;
  const behind: number[] = [];
  for (let now = 0; now < seconds * 1000; now += 10) {
    while ((part + 1) * PART_MS + lateMs(part) <= now) {
      edge += PART_MS;
      part += 1;
    }
    const ahead = edge - played;
    if (ahead <= 0) stalledMs += 10;
    else played = Math.min(edge, played + 10 * rate);
    if (now % 100 === 0) {
      const found = pace.look({ nowMs: now, bufferMs: Math.max(0, edge - played), edgeMs: edge - played, partMs: PART_MS });
      if (found.jump) {
        jumps += 1;
        played = edge - found.targetMs;
        pace.moved();
      }
      rate = found.rate;
      [slowest, fastest] = [Math.min(slowest, rate), Math.max(fastest, rate)];
      behind.push(found.behindMs);
    }
  }
  const end = behind.slice(-100);
  return { stalledMs, jumps, slowest, fastest, behindMs: end.reduce((a, b) => a + b, 0) / end.length, rate };
}

test("a viewer who starts too far behind comes to half a second and stays there at normal speed", () => {
  const seen = watch({ startMs: 1600, seconds: 60 });
  assert.ok(Math.abs(seen.behindMs - 450) < 45, `${seen.behindMs} ms behind`);
  assert.equal(seen.stalledMs, 0);
  assert.equal(seen.jumps, 0);
  assert.ok(seen.fastest > 1.04 && seen.fastest <= RATE_MAX);
});

test("a viewer who starts too near the edge plays slower and never stands", () => {
  const seen = watch({ startMs: 260, seconds: 40 });
  assert.equal(seen.stalledMs, 0);
  assert.ok(seen.slowest >= RATE_MIN && seen.slowest < 1);
  assert.ok(Math.abs(seen.behindMs - 450) < 60, `${seen.behindMs} ms behind`);
});

test("parts that come irregularly are kept ahead of, without a stall or a jump", () => {
  // A fixed pattern of up to 120 ms.
  const seen = watch({ startMs: 500, seconds: 90, lateMs: (part) => ((part * 7919) % 13) * 10 });
  assert.equal(seen.stalledMs, 0);
  assert.equal(seen.jumps, 0);
});

test("only who is three seconds behind jumps", () => {
  assert.equal(watch({ startMs: JUMP_BEHIND_MS - 200, seconds: 5 }).jumps, 0);
  assert.equal(watch({ startMs: JUMP_BEHIND_MS + 1000, seconds: 5 }).jumps, 1);
});

test("a stall keeps the viewer farther from the edge, and that is forgotten", () => {
  const pace = new RateController(450);
  assert.equal(pace.targetMs(0, PART_MS), 450);
  pace.stalled(0);
  pace.stalled(100);
  assert.ok(pace.targetMs(200, PART_MS) > 500);
  assert.ok(pace.targetMs(120_000, PART_MS) < 500);
  for (let stall = 0; stall < 100; stall += 1) pace.stalled(0);
  assert.ok(pace.targetMs(0, PART_MS) <= 1450);
});

test("longer parts are kept one more of", () => {
  assert.equal(new RateController(450).targetMs(0, 1000), 2000);
});
