// Where each box of a flame graph lies. Pure. The root is on top; what it calls hangs below.

import type { StackNode } from "./pprof";

export interface Box {
  /** Indexes from the root: what names the box. */
  path: number[];
  name: string;
  file: string;
  depth: number;
  /** Of the whole width, 0 to 1. */
  left: number;
  width: number;
  total: number;
  self: number;
  /** Of the profile, 0 to 1. */
  share: number;
}

/** Narrower ones cannot be seen. */
const WIDTH_MIN = 0.002;
const BOXES_MAX = 4000;

/** Boxes with `focus` at full width, its callers above it, row by row. */
export function layOut(root: StackNode, focus: number[]): Box[] {
  const boxes: Box[] = [];
  const whole = root.total || 1;
  const put = (node: StackNode, path: number[], left: number, width: number) =>
    boxes.push({
      path,
      name: node.name,
      file: node.file,
      depth: path.length,
      left,
      width,
      total: node.total,
      self: node.self,
      share: node.total / whole,
    });
  let node = root;
  for (const [depth, index] of focus.entries()) {
    const next = node.children[index];
    if (!next) break;
    put(node, focus.slice(0, depth), 0, 1);
    node = next;
  }
  const path = focus.slice(0, boxes.length);
  let row = [{ node, path, left: 0, width: 1 }];
  while (row.length > 0 && boxes.length < BOXES_MAX) {
    const next: typeof row = [];
    for (const { node, path, left, width } of row) {
      put(node, path, left, width);
      let at = left;
      for (const [index, child] of node.children.entries()) {
        const childWidth = width * (child.total / (node.total || 1));
        if (childWidth >= WIDTH_MIN) {
          next.push({ node: child, path: [...path, index], left: at, width: childWidth });
        }
        at += childWidth;
      }
    }
    row = next;
  }
  return boxes;
}

/** Where the arrow keys lead from a box: to its caller, its largest callee, its neighbours. */
export function neighbour(boxes: Box[], from: number[], key: string): Box | null {
  const here = boxes.find((box) => isSame(box.path, from));
  if (!here) return boxes[0] ?? null;
  const row = (depth: number) =>
    boxes.filter((box) => box.depth === depth).sort((a, b) => a.left - b.left);
  switch (key) {
    case "ArrowUp":
      return boxes.find((box) => isSame(box.path, from.slice(0, -1))) ?? null;
    case "ArrowDown":
      return boxes.find((box) => box.depth === here.depth + 1 && isSame(box.path.slice(0, -1), from)) ?? null;
    case "ArrowLeft":
      return row(here.depth).findLast((box) => box.left < here.left) ?? null;
    case "ArrowRight":
      return row(here.depth).find((box) => box.left > here.left) ?? null;
    default:
      return null;
  }
}

export function isSame(one: number[], other: number[]): boolean {
  return one.length === other.length && one.every((step, index) => step === other[index]);
}

export type Kind = "codec" | "ours" | "system" | "rest";

/** Whose code a function is, for its colour. The file says more than the name, where it is known. */
export function kindOf(name: string, file: string): Kind {
  if (/(^|\/)(worker|shared|supervisor)\/src\//.test(file)) return "ours";
  if (/\/rustc\/|\/registry\/src\//.test(file)) return "rest";
  const text = `${name} ${file}`;
  if (/x264|avcodec|avutil|avfilter|swscale|swresample|^av_|^ff_|libav/.test(text)) return "codec";
  if (/libc\.so|ld-linux|pthread|__libc|^clone3?|^_?start|je_|jemalloc|malloc|calloc|memalign/.test(text)) return "system";
  return /tasuki/.test(name) ? "ours" : "rest";
}

/** As it fits into a box: without modules, type arguments and hash; a closure says where it is. */
export function shortName(name: string, file: string): string {
  let plain = name.replace(/::h[0-9a-f]{16}$/, "");
  if (plain.startsWith("<")) return plain;
  for (let before = ""; before !== plain; ) {
    before = plain;
    plain = plain.replace(/<[^<>]*>/g, "");
  }
  const steps = plain.split("::").filter(Boolean);
  const short = steps.length > 2 ? steps.slice(-2).join("::") : plain;
  const place = file.split("/").at(-1);
  return short.startsWith("{") && place ? `${short} ${place}` : short;
}

export interface Spender {
  name: string;
  self: number;
  total: number;
}

/** Functions by what they hold themselves, largest first, wherever they are called from. */
export function spenders(root: StackNode, most: number): Spender[] {
  const found = new Map<string, Spender>();
  const visit = (node: StackNode, above: Set<string>) => {
    const spender = found.get(node.name) ?? { name: node.name, self: 0, total: 0 };
    found.set(node.name, spender);
    spender.self += node.self;
    // A function that calls itself is counted once.
    const isNew = !above.has(node.name);
    if (isNew) {
      spender.total += node.total;
      above.add(node.name);
    }
    for (const child of node.children) visit(child, above);
    if (isNew) above.delete(node.name);
  };
  for (const child of root.children) visit(child, new Set());
  return [...found.values()].sort((a, b) => b.self - a.self).slice(0, most);
}
