import assert from "node:assert/strict";
import { test } from "node:test";
import { arrows, Marks } from "../src/marks";
import { columns, scaleTop, Series } from "../src/series";
import { parseSmaps, sumOf } from "../src/smaps";
import type { HistorySample, Status } from "../src/status";

const KIB = 1024;

test("smaps are added up by what is mapped, and the footprint is Anonymous − LazyFree + Swap", () => {
  const text = [
    "55d0c0000000-55d0c0100000 rw-p 00000000 00:00 0                          [heap]",
    "Size:               1024 kB",
    "Rss:                 900 kB",
    "Pss:                 900 kB",
    "Anonymous:           900 kB",
    "LazyFree:            300 kB",
    "Swap:                 50 kB",
    "VmFlags: rd wr mr mw me ac sd",
    "7f0000000000-7f0000200000 rw-s 00000000 00:01 77                         /memfd:tasuki-log (deleted)",
    "Rss:                2048 kB",
    "Pss:                1024 kB",
    "Anonymous:             0 kB",
    "7f0000400000-7f0000600000 rw-s 00000000 00:01 78                         /memfd:tasuki-log (deleted)",
    "Rss:                2048 kB",
    "Pss:                1024 kB",
    "7f1000000000-7f1000001000 rw-p 00000000 00:00 0 ",
    "Rss:                   4 kB",
    "Anonymous:             4 kB",
    "what is this",
  ].join("\n");
  const mappings = parseSmaps(text);
  assert.deepEqual(
    mappings.map(({ name, count, footprint, rss }) => [name, count, footprint / KIB, rss / KIB]),
    [
      ["[heap]", 1, 650, 900],
      ["without a name", 1, 4, 4],
      ["memfd tasuki-log", 2, 0, 4096],
    ],
  );
  assert.deepEqual([sumOf(mappings).footprint / KIB, sumOf(mappings).rss / KIB], [654, 5000]);
  assert.deepEqual(parseSmaps(""), []);
});

const sample = (unix_ms: number, footprint_bytes: number): HistorySample => ({
  unix_ms,
  footprint_bytes,
  rss_bytes: footprint_bytes * 2,
  lazy_free_bytes: 0,
  soft_limit_bytes: 100,
  hard_limit_bytes: 200,
  sessions: 1,
});

const status = (slot: string, generation: number, footprint_bytes: number) =>
  ({
    workers: [{ slot, generation, footprint_bytes, rss_bytes: 2 * footprint_bytes, lazy_free_bytes: 0, sessions: 1, pid: 7, memory: null }],
  }) as unknown as Status;

test("a worker that took another slot is drawn in the lane where it is, with what it was before", () => {
  const series = new Series();
  series.learn({
    interval_ms: 2000,
    workers: [
      { worker: "w0", generation: 1, samples: [sample(1000, 50)] },
      { worker: "w5", generation: 9, samples: [sample(1000, 10), sample(3000, 11)] },
    ],
  });
  series.observe(status("w0", 9, 12), 5000);
  const lanes = series.lanes(0);
  assert.deepEqual([...lanes.keys()], ["w0"]);
  assert.deepEqual(lanes.get("w0")?.map((run) => [run.generation, run.samples.length]), [[1, 1], [9, 3]]);
  assert.equal(series.slotOf(9), "w0");
  assert.equal(series.footprintAt(9, 3100), 11);
});

test("what is older than an hour is forgotten", () => {
  const series = new Series();
  series.observe(status("w0", 1, 5), 0);
  series.observe(status("w1", 2, 5), 3_600_001);
  assert.deepEqual([...series.lanes(0).keys()], ["w1"]);
});

test("columns share one time axis, join what belongs together and leave holes where nothing was seen", () => {
  const run = (generation: number, samples: HistorySample[]) => ({ generation, slot: "w0", samples });
  const one = run(1, [sample(2000, 1), sample(4000, 2), sample(60_000, 3)]);
  const two = run(2, [sample(4000, 7), sample(5000, 8)]);
  const [times, footprint, , , other] = columns([one, two], 0);
  assert.deepEqual(times, [2, 4, 5, 60]);
  assert.deepEqual(footprint, [1, 2, null, 3]);
  assert.deepEqual(other, [undefined, 7, 8, undefined]);
});

test("a scale fits the data, shows a limit that is near and all limits when asked", () => {
  assert.ok(scaleTop(10, 100, 200, false) < 20);
  assert.ok(scaleTop(80, 100, 200, false) > 200);
  assert.ok(scaleTop(50, 100, 200, false) > 100 && scaleTop(50, 100, 200, false) < 200);
  assert.ok(scaleTop(10, 100, 200, true) > 200);
  assert.ok(scaleTop(0, 0, 0, false) > 0);
});

test("an event says exactly when a stream moved, and a status fills in what was before", () => {
  const marks = new Marks();
  const moves = [
    { session: "a-1", name: "cam", from: "w0/g1", to: "w2/g6", outcome: "done", pause_us: 870, frames_lost: 0 },
    { session: "a-2", name: "stage", from: "w0/g1", to: "", outcome: "kept: no", pause_us: 0, frames_lost: 0 },
  ];
  const told = {
    recycles: [{ unix_ms: 1000, took_ms: 500, moves }],
    deaths: [
      { unix_ms: 9000, worker: "w2/g6", role: "worker", cause: "exit Panic (104)", sessions: [{ session: "a-1", name: "cam", outcome: "w1/g2", suspicion: "" }] },
    ],
  } as unknown as Status;
  marks.observe(told);
  assert.deepEqual(marks.since(0).map((mark) => [mark.kind, mark.unix_ms, mark.from, mark.to]), [
    ["move", 1500, 1, 6],
    ["death", 9000, 6, 2],
  ]);
  marks.hear({ unix_ms: 1234, event: "session_moved", session: "a-1", name: "cam", detail: "from w0/g1 to w2/g6, pause 870 µs, 0 frames lost" });
  marks.observe(told);
  assert.deepEqual(marks.since(0).map((mark) => mark.unix_ms), [1234, 9000]);
  // There and back again are two moves.
  marks.hear({ unix_ms: 2000, event: "session_moved", session: "a-1", name: "cam", detail: "from w0/g1 to w2/g6, pause 1 µs, 0 frames lost" });
  assert.equal(marks.since(0).length, 3);
  marks.hear({ unix_ms: 2000, event: "session_moved", session: "a-1", detail: "<b>what</b>" });
  assert.equal(marks.since(0).length, 3);
});

test("moves of the same way at nearly the same moment are one arrow", () => {
  const mark = (unix_ms: number, from: number, to: number) => ({ kind: "move" as const, unix_ms, from, to, session: "s", name: "n", text: "" });
  const found = arrows([mark(0, 1, 2), mark(900, 1, 2), mark(950, 1, 3), mark(3000, 1, 2)], 1000);
  assert.deepEqual(found.map((arrow) => [arrow.unix_ms, arrow.to, arrow.marks.length]), [[0, 2, 2], [950, 3, 1], [3000, 2, 1]]);
});
