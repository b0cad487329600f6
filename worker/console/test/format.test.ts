import assert from "node:assert/strict";
import { test } from "node:test";
import { age, bitrate, bytes, count, duration, pause, percent, plural, slope } from "../src/format";
import { Rates } from "../src/rates";
import { generationOf, playlistOf, type Status } from "../src/status";

test("amounts have three figures and their unit", () => {
  assert.deepEqual([0, 999, 1024, 10_240, 523_800, 1_100_000, 1.5 * 2 ** 30].map(bytes), [
    "0 B", "999 B", "1.00 KiB", "10.0 KiB", "512 KiB", "1.05 MiB", "1.50 GiB",
  ]);
  assert.equal(bytes(1023 * 1024), "1.00 MiB", "never 1000 of a unit");
  assert.deepEqual([0, 999, 128_000, 999_900, 5_120_000].map(bitrate), ["0 b/s", "999 b/s", "128 kb/s", "1.00 Mb/s", "5.12 Mb/s"]);
  assert.deepEqual([7, 1234, 12_345_678].map(count), ["7", "1\u202f234", "12\u202f345\u202f678"]);
  assert.deepEqual([0, 0.04, 3.21, 87.4].map(percent), ["0 %", "0 %", "3.2 %", "87 %"]);
  assert.deepEqual([0, 20 * 2 ** 20].map((perMinute) => slope(perMinute / 60)), ["not growing", "+20.0 MiB/min"]);
});

test("times are as exact as they are short", () => {
  assert.deepEqual([0, 850, 4200, 59_999, 185_000, 7_800_000, 270_000_000].map(duration), [
    "0 ms", "850 ms", "4.2 s", "59 s", "3 min 05 s", "2 h 10 min", "3 d 3 h",
  ]);
  assert.deepEqual([4200, 185_000, 7_800_000].map(age), ["4 s", "3 min", "2 h 10 min"]);
  assert.deepEqual([870, 4200, 250_000, 1_300_000].map(pause), ["870 µs", "4.20 ms", "250 ms", "1.3 s"]);
  assert.deepEqual([plural(1, "stream"), plural(0, "stream"), plural(2, "discontinuity", "discontinuities")], [
    "1 stream", "0 streams", "2 discontinuities",
  ]);
});

test("a generation is read from a process's name and from nothing else", () => {
  assert.deepEqual(["w0/g3", "w12/45", "", "waits", "ended: why 3"].map(generationOf), [3, 45, null, null, null]);
});

test("a loopback listener is reached by the name that the page was reached by, as the server says", () => {
  const at = (viewers: string[]) => playlistOf({ viewers } as Status, "live", "cam-1", "node.example");
  assert.equal(at(["http://127.0.0.1:8935"]), "http://node.example:8935/live/live/cam-1/index.m3u8");
  assert.equal(at(["http://[::]:8935"]), "http://node.example:8935/live/live/cam-1/index.m3u8");
  assert.equal(at(["http://0.0.0.0:80"]), "http://node.example:80/live/live/cam-1/index.m3u8");
  assert.equal(at(["http://10.0.0.7:8935"]), "http://10.0.0.7:8935/live/live/cam-1/index.m3u8");
  assert.equal(at(["https://[::1]:443"]), "https://node.example:443/live/live/cam-1/index.m3u8");
  assert.equal(at([]), null);
});

test("a rung's bitrate is of the last seconds, and begins anew when its counters do", () => {
  const rates = new Rates();
  const observe = (bytes: number, frames: number, nowMs: number) =>
    rates.observe({ sessions: [{ id: "s", rungs: [{ label: "720p", bytes, frames }] }] } as unknown as Status, nowMs);
  observe(0, 0, 0);
  assert.equal(rates.of("s", "720p"), null);
  observe(250_000, 60, 2000);
  assert.deepEqual(rates.of("s", "720p"), { bps: 1_000_000, fps: 30 });
  observe(10, 1, 3000);
  assert.equal(rates.of("s", "720p"), null);
  assert.equal(rates.of("s", "360p"), null);
});
