// Reads a pprof profile (github.com/google/pprof, profile.proto) and makes a tree of its stacks. Pure.
//
// A profile is what a worker said of itself, so reading is total: what is malformed throws a
// PprofError, and every count has a bound.

export class PprofError extends Error {}

/** A function at its place in the stacks, root first. */
export interface StackNode {
  name: string;
  file: string;
  /** Without what it calls. */
  self: number;
  total: number;
  /** Largest first. */
  children: StackNode[];
}

export interface Profile {
  /** Of what is counted, `inuse_space`. */
  type: string;
  /** Of what is counted, `bytes`. */
  unit: string;
  samples: number;
  root: StackNode;
}

const SAMPLES_MAX = 1_000_000;
const STACK_MAX = 1024;

interface ValueType {
  type: number;
  unit: number;
}
interface Sample {
  locations: number[];
  values: number[];
}
interface Line {
  function: number;
}
interface Location {
  address: bigint;
  mapping: number;
  lines: Line[];
}

export function parsePprof(bytes: Uint8Array): Profile {
  const types: ValueType[] = [];
  const samples: Sample[] = [];
  const locations = new Map<number, Location>();
  const functions = new Map<number, { name: number; file: number }>();
  const mappings = new Map<number, number>();
  const strings: string[] = [];
  let preferred = 0;
  for (const field of fields(bytes)) {
    switch (field.number) {
      case 1:
        types.push(valueType(body(field)));
        break;
      case 2:
        if (samples.length >= SAMPLES_MAX) throw new PprofError("too many samples");
        samples.push(sample(body(field)));
        break;
      case 3: {
        const [id, file] = twoOf(body(field), 1, 5);
        mappings.set(id, file);
        break;
      }
      case 4: {
        const { id, location } = locationOf(body(field));
        locations.set(id, location);
        break;
      }
      case 5: {
        const [id, name, file] = threeOf(body(field), 1, 2, 4);
        functions.set(id, { name, file });
        break;
      }
      case 6:
        strings.push(new TextDecoder().decode(body(field)));
        break;
      case 14:
        preferred = field.value;
        break;
      default:
        break;
    }
  }
  const at = (index: number) => strings[index] ?? "";
  const which = measured(types, preferred, at);
  const root: Growing = { name: "all", file: "", self: 0, total: 0, children: new Map() };
  for (const { locations: stack, values } of samples) {
    const value = values[which] ?? 0;
    if (value <= 0) continue;
    root.total += value;
    let node = root;
    for (const id of stack.slice(0, STACK_MAX).reverse()) {
      for (const frame of framesOf(locations.get(id), functions, mappings, at)) {
        node = child(node, frame);
        node.total += value;
      }
    }
    node.self += value;
  }
  return {
    type: at(types[which]?.type ?? 0),
    unit: at(types[which]?.unit ?? 0),
    samples: samples.length,
    root: grown(root),
  };
}

/** The one that the profile prefers, or the last that is in bytes, or the last. */
function measured(types: ValueType[], preferred: number, at: (index: number) => string): number {
  const named = preferred ? types.findIndex((type) => type.type === preferred) : -1;
  if (named >= 0) return named;
  const inBytes = types.findLastIndex((type) => at(type.unit) === "bytes");
  return inBytes >= 0 ? inBytes : Math.max(0, types.length - 1);
}

interface Frame {
  name: string;
  file: string;
}

/** Of one location, callers first: what was inlined has lines of its own. */
function framesOf(
  location: Location | undefined,
  functions: Map<number, { name: number; file: number }>,
  mappings: Map<number, number>,
  at: (index: number) => string,
): Frame[] {
  if (!location) return [{ name: "?", file: "" }];
  const frames: Frame[] = location.lines.map((line) => {
    const found = functions.get(line.function);
    return { name: (found && at(found.name)) || "?", file: found ? at(found.file) : "" };
  });
  if (frames.length > 0) return frames.reverse();
  const object = at(mappings.get(location.mapping) ?? 0).split("/").at(-1) || "?";
  return [{ name: `${object} 0x${location.address.toString(16)}`, file: object }];
}

interface Growing extends Omit<StackNode, "children"> {
  children: Map<string, Growing>;
}

function child(node: Growing, { name, file }: Frame): Growing {
  let found = node.children.get(name);
  if (!found) {
    found = { name, file, self: 0, total: 0, children: new Map() };
    node.children.set(name, found);
  }
  return found;
}

function grown({ name, file, self, total, children }: Growing): StackNode {
  const list = [...children.values()].map(grown).sort((a, b) => b.total - a.total);
  return { name, file, self, total, children: list };
}

// The wire.

interface Field {
  number: number;
  /** Of a varint. */
  value: number;
  big: bigint;
  /** Of a length-delimited field. */
  bytes: Uint8Array | null;
}

function* fields(bytes: Uint8Array): Generator<Field> {
  const reader = new Reader(bytes);
  while (!reader.isDone()) {
    const tag = Number(reader.varint());
    const number = Math.floor(tag / 8);
    switch (tag % 8) {
      case 0: {
        const big = reader.varint();
        yield { number, big, value: Number(BigInt.asIntN(64, big)), bytes: null };
        break;
      }
      case 1:
        reader.take(8);
        break;
      case 2:
        yield { number, big: 0n, value: 0, bytes: reader.take(Number(reader.varint())) };
        break;
      case 5:
        reader.take(4);
        break;
      default:
        throw new PprofError(`wire type ${tag % 8}`);
    }
  }
}

class Reader {
  private readonly bytes: Uint8Array;
  private at = 0;

  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
  }

  isDone(): boolean {
    return this.at >= this.bytes.length;
  }

  take(count: number): Uint8Array {
    if (count > this.bytes.length - this.at) throw new PprofError("cut short");
    this.at += count;
    return this.bytes.subarray(this.at - count, this.at);
  }

  varint(): bigint {
    // Nearly all are short, and numbers are faster.
    let low = 0;
    for (let index = 0; index < 7; index += 1) {
      const byte = this.byte();
      low += (byte & 0x7f) * 2 ** (7 * index);
      if (byte < 0x80) return BigInt(low);
    }
    let value = BigInt(low);
    for (let index = 7n; index < 10n; index += 1n) {
      const byte = this.byte();
      value |= BigInt(byte & 0x7f) << (7n * index);
      if (byte < 0x80) return value;
    }
    throw new PprofError("a number of more than ten bytes");
  }

  private byte(): number {
    const byte = this.bytes[this.at];
    if (byte === undefined) throw new PprofError("cut short");
    this.at += 1;
    return byte;
  }
}

function body(field: Field): Uint8Array {
  if (!field.bytes) throw new PprofError(`field ${field.number} is a number`);
  return field.bytes;
}

/** Repeated numbers, packed or not. */
function numbers(field: Field, into: number[]): void {
  if (!field.bytes) {
    into.push(field.value);
    return;
  }
  const reader = new Reader(field.bytes);
  while (!reader.isDone()) into.push(Number(BigInt.asIntN(64, reader.varint())));
}

function valueType(bytes: Uint8Array): ValueType {
  const [type, unit] = twoOf(bytes, 1, 2);
  return { type, unit };
}

function sample(bytes: Uint8Array): Sample {
  const found: Sample = { locations: [], values: [] };
  for (const field of fields(bytes)) {
    if (field.number === 1) numbers(field, found.locations);
    if (field.number === 2) numbers(field, found.values);
  }
  return found;
}

function locationOf(bytes: Uint8Array): { id: number; location: Location } {
  let id = 0;
  const location: Location = { address: 0n, mapping: 0, lines: [] };
  for (const field of fields(bytes)) {
    if (field.number === 1) id = field.value;
    if (field.number === 2) location.mapping = field.value;
    if (field.number === 3) location.address = field.big;
    if (field.number === 4) location.lines.push({ function: twoOf(body(field), 1, 2)[0] });
  }
  return { id, location };
}

function twoOf(bytes: Uint8Array, first: number, second: number): [number, number] {
  const [one, two] = threeOf(bytes, first, second, -1);
  return [one, two];
}

function threeOf(bytes: Uint8Array, first: number, second: number, third: number): [number, number, number] {
  const found: [number, number, number] = [0, 0, 0];
  for (const field of fields(bytes)) {
    if (field.number === first) found[0] = field.value;
    if (field.number === second) found[1] = field.value;
    if (field.number === third) found[2] = field.value;
  }
  return found;
}
