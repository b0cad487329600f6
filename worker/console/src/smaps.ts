// Reads /proc/PID/smaps and adds it up by what is mapped. Pure.

export interface Mapping {
  name: string;
  /** How many. */
  count: number;
  size: number;
  rss: number;
  pss: number;
  anonymous: number;
  lazyFree: number;
  swap: number;
  /** Anonymous − LazyFree + Swap. */
  footprint: number;
}

const KIB = 1024;
const HEAD = /^[0-9a-f]+-[0-9a-f]+ (\S{4}) [0-9a-f]+ \S+ \d+ *(.*)$/;
const LINE = /^(\w+): +(\d+) kB$/;

/** Largest footprint first, then RSS. Lines that are not understood are left out. */
export function parseSmaps(text: string): Mapping[] {
  const found = new Map<string, Mapping>();
  let current: Mapping | null = null;
  for (const line of text.split("\n")) {
    const head = HEAD.exec(line);
    if (head) {
      const name = nameOf(head[2] ?? "");
      current = found.get(name) ?? nothing(name);
      current.count += 1;
      found.set(name, current);
      continue;
    }
    const field = LINE.exec(line);
    if (field && current) add(current, field[1] ?? "", Number(field[2]) * KIB);
  }
  const all = [...found.values()];
  for (const mapping of all) {
    mapping.footprint = mapping.anonymous - mapping.lazyFree + mapping.swap;
  }
  return all.sort((a, b) => b.footprint - a.footprint || b.rss - a.rss);
}

export function sumOf(mappings: Mapping[]): Mapping {
  const sum = nothing("all");
  for (const mapping of mappings) {
    sum.count += mapping.count;
    sum.size += mapping.size;
    sum.rss += mapping.rss;
    sum.pss += mapping.pss;
    sum.anonymous += mapping.anonymous;
    sum.lazyFree += mapping.lazyFree;
    sum.swap += mapping.swap;
    sum.footprint += mapping.footprint;
  }
  return sum;
}

function nothing(name: string): Mapping {
  return { name, count: 0, size: 0, rss: 0, pss: 0, anonymous: 0, lazyFree: 0, swap: 0, footprint: 0 };
}

/** The same kind of thing has one name: stacks of threads, memfds, versions of a library's parts. */
function nameOf(path: string): string {
  if (path === "") return "without a name";
  return path.replace(/ \(deleted\)$/, "").replace(/^\/memfd:/, "memfd ");
}

function add(mapping: Mapping, field: string, bytes: number): void {
  switch (field) {
    case "Size":
      mapping.size += bytes;
      break;
    case "Rss":
      mapping.rss += bytes;
      break;
    case "Pss":
      mapping.pss += bytes;
      break;
    case "Anonymous":
      mapping.anonymous += bytes;
      break;
    case "LazyFree":
      mapping.lazyFree += bytes;
      break;
    case "Swap":
      mapping.swap += bytes;
      break;
    default:
      break;
  }
}
