import assert from "node:assert/strict";
import { test } from "node:test";
import { isSame, kindOf, layOut, neighbour, shortName, spenders } from "../src/flame";
import { parsePprof, PprofError, type StackNode } from "../src/pprof";

// A writer for the few fields that a profile needs.
function varint(value: number | bigint): number[] {
  const bytes: number[] = [];
  let left = BigInt.asUintN(64, BigInt(value));
  do {
    bytes.push(Number(left & 0x7fn) | (left > 0x7fn ? 0x80 : 0));
    left >>= 7n;
  } while (left > 0n);
  return bytes;
}
const number = (field: number, value: number | bigint) => [...varint(field * 8), ...varint(value)];
const bytes = (field: number, body: number[]) => [...varint(field * 8 + 2), ...varint(body.length), ...body];
const text = (field: number, body: string) => bytes(field, [...new TextEncoder().encode(body)]);
const packed = (field: number, values: number[]) => bytes(field, values.flatMap(varint));

const STRINGS = ["", "objects", "count", "space", "bytes", "main", "decode", "grow", "codec.rs", "/usr/lib/libx264.so"];

/** main → decode → grow holds 300; main → decode 100; main → an address without a name 50. */
function profile(): Uint8Array {
  return new Uint8Array([
    ...bytes(1, [...number(1, 1), ...number(2, 2)]),
    ...bytes(1, [...number(1, 3), ...number(2, 4)]),
    // Packed, leaf first; the decoder's location has what was inlined into it as its first line.
    ...bytes(2, [...packed(1, [2, 1]), ...packed(2, [3, 300])]),
    // Not packed.
    ...bytes(2, [...number(1, 3), ...number(1, 1), ...number(2, 1), ...number(2, 100)]),
    ...bytes(2, [...packed(1, [4, 1]), ...packed(2, [1, 50])]),
    ...bytes(2, [...packed(1, [4, 1]), ...packed(2, [-1, -70])]),
    ...bytes(3, [...number(1, 7), ...number(5, 9)]),
    ...bytes(4, [...number(1, 1), ...bytes(4, number(1, 1))]),
    ...bytes(4, [...number(1, 2), ...bytes(4, number(1, 3)), ...bytes(4, number(1, 2))]),
    ...bytes(4, [...number(1, 3), ...bytes(4, number(1, 2))]),
    ...bytes(4, [...number(1, 4), ...number(2, 7), ...number(3, 0xffff_ffff_8123_4567n)]),
    ...bytes(5, [...number(1, 1), ...number(2, 5)]),
    ...bytes(5, [...number(1, 2), ...number(2, 6), ...number(4, 8)]),
    ...bytes(5, [...number(1, 3), ...number(2, 7)]),
    ...STRINGS.flatMap((string) => text(6, string)),
    // Fields that nobody asked for, of every wire type.
    ...number(12, 524_288),
    ...varint(90 * 8 + 1), 0, 0, 0, 0, 0, 0, 0, 0,
    ...varint(91 * 8 + 5), 0, 0, 0, 0,
  ]);
}

test("stacks of a profile become a tree, with inlined functions and addresses without a name", () => {
  const { root, unit, type, samples } = parsePprof(profile());
  assert.deepEqual([unit, type, samples, root.total], ["bytes", "space", 4, 450]);
  const main = root.children[0] as StackNode;
  assert.deepEqual([main.name, main.total, main.self], ["main", 450, 0]);
  const [decode, unnamed] = main.children as [StackNode, StackNode];
  assert.deepEqual([decode.name, decode.file, decode.total, decode.self], ["decode", "codec.rs", 400, 100]);
  assert.deepEqual([decode.children[0]?.name, decode.children[0]?.self], ["grow", 300]);
  assert.deepEqual([unnamed.name, unnamed.total], ["libx264.so 0xffffffff81234567", 50]);
});

test("a profile that is cut short or made up is an error, never a hang or another exception", () => {
  const whole = profile();
  for (let length = 0; length < whole.length; length += 1) {
    try {
      parsePprof(whole.subarray(0, length));
    } catch (error) {
      assert.ok(error instanceof PprofError, `${length}: ${String(error)}`);
    }
  }
  let seed = 7;
  for (let round = 0; round < 3000; round += 1) {
    const broken = profile();
    for (let change = 0; change < 3; change += 1) {
      seed = (Math.imul(seed, 1_103_515_245) + 12_345) >>> 0;
      broken[seed % broken.length] = seed >>> 24;
    }
    try {
      parsePprof(broken);
    } catch (error) {
      assert.ok(error instanceof PprofError, `round ${round}: ${String(error)}`);
    }
  }
});

test("an empty profile has a root and nothing below it", () => {
  const { root } = parsePprof(new Uint8Array());
  assert.deepEqual([root.total, root.children.length], [0, 0]);
  assert.equal(layOut(root, []).length, 1);
});

test("a box is as wide as its share, and a focused one has its callers above it", () => {
  const { root } = parsePprof(profile());
  const boxes = layOut(root, []);
  const decode = boxes.find((box) => box.name === "decode");
  assert.deepEqual([decode?.depth, decode?.left, decode?.width], [2, 0, 400 / 450]);
  const focused = layOut(root, [0, 0]);
  assert.deepEqual(focused.map((box) => [box.name, box.depth, box.width]), [
    ["all", 0, 1],
    ["main", 1, 1],
    ["decode", 2, 1],
    ["grow", 3, 0.75],
  ]);
  assert.ok(layOut(root, [9, 9]).some((box) => box.name === "main"), "a focus that is gone shows the whole");
});

test("arrow keys lead from box to box", () => {
  const boxes = layOut(parsePprof(profile()).root, []);
  const go = (from: number[], key: string) => neighbour(boxes, from, key)?.name;
  assert.equal(go([], "ArrowDown"), "main");
  assert.equal(go([0, 0], "ArrowUp"), "main");
  assert.equal(go([0, 0], "ArrowRight"), "libx264.so 0xffffffff81234567");
  assert.equal(go([0, 1], "ArrowLeft"), "decode");
  assert.equal(go([0, 1], "ArrowRight"), undefined);
  assert.ok(isSame([1, 2], [1, 2]) && !isSame([1], [1, 2]));
});

test("a function that calls itself is counted once in what it holds with its callees", () => {
  const leaf: StackNode = { name: "walk", file: "", self: 5, total: 5, children: [] };
  const inner: StackNode = { name: "walk", file: "", self: 3, total: 8, children: [leaf] };
  const root: StackNode = { name: "all", file: "", self: 0, total: 8, children: [inner] };
  assert.deepEqual(spenders(root, 10), [{ name: "walk", self: 8, total: 8 }]);
});

test("a box says whose code it is and fits its name", () => {
  const start = "{closure#1}<tasuki_worker::chaos::start::{closure_env#0}, ()>";
  assert.deepEqual(
    [
      kindOf("touched", "/build/worker/src/libav/block.rs"),
      kindOf(start, "/rustc/5980/library/std/src/panic.rs"),
      kindOf("av_malloc", ""),
      kindOf("x264_encoder_open_164", "libx264.so.164"),
      kindOf("_rjem_je_prof_backtrace", ""),
      kindOf("hash_one", "/c/registry/src/index/hashbrown/src/lib.rs"),
    ],
    ["ours", "rest", "codec", "codec", "system", "rest"],
  );
  assert.equal(shortName(start, "/rustc/5980/library/std/src/panic.rs"), "{closure#1} panic.rs");
  assert.equal(shortName("core::ops::Fn::call<Vec<Vec<u8>>>::h0123456789abcdef", ""), "Fn::call");
  assert.equal(shortName("<A as B>::c", "x.rs"), "<A as B>::c");
});
