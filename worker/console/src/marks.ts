// What happened to streams, as marks on the lanes: moves, and flights from a death. Pure.

import { generationOf, type Announcement, type Status } from "./status";

export interface Mark {
  kind: "move" | "death";
  unix_ms: number;
  from: number;
  /** Null when it is not known where the stream went. */
  to: number | null;
  session: string;
  name: string;
  /** A sentence. */
  text: string;
}

const KEPT_MAX = 2000;
const MOVED = /^from (\S+) to ([^\s,]+),? ?(.*)$/;

export class Marks {
  private readonly marks = new Map<string, Mark>();
  /** Those that an event told of. */
  private readonly ways = new Set<string>();

  /** Events tell exactly when. */
  hear(event: Announcement): void {
    if (event.event !== "session_moved") return;
    const found = MOVED.exec(event.detail);
    const from = generationOf(found?.[1] ?? "");
    const to = generationOf(found?.[2] ?? "");
    if (!found || from === null || to === null || !event.session) return;
    const way = wayOf(event.session, from, to);
    this.ways.add(way);
    // A recycle may have told of it already, less exactly.
    this.marks.delete(way);
    this.put(`${way} ${event.unix_ms}`, {
      kind: "move",
      unix_ms: event.unix_ms,
      from,
      to,
      session: event.session,
      name: event.name ?? "",
      text: found[3] ?? "",
    });
  }

  /** A status tells of the last recycles and deaths, also of those before this page was opened. */
  observe(status: Status): void {
    for (const recycle of status.recycles ?? []) {
      for (const move of recycle.moves) {
        const [from, to] = [generationOf(move.from), generationOf(move.to)];
        if (from === null || to === null || move.outcome !== "done") continue;
        const way = wayOf(move.session, from, to);
        if (this.ways.has(way)) continue;
        this.put(way, {
          kind: "move",
          unix_ms: recycle.unix_ms + recycle.took_ms,
          from,
          to,
          session: move.session,
          name: move.name,
          text: `pause ${move.pause_us} µs, ${move.frames_lost} frames lost`,
        });
      }
    }
    for (const death of status.deaths ?? []) {
      const from = generationOf(death.worker);
      if (from === null) continue;
      for (const { session, name, outcome } of death.sessions) {
        this.put(`${session} ${from} death`, { kind: "death", unix_ms: death.unix_ms, from, to: generationOf(outcome), session, name, text: death.cause });
      }
      if (death.sessions.length === 0) {
        this.put(`${from} death`, { kind: "death", unix_ms: death.unix_ms, from, to: null, session: "", name: "", text: death.cause });
      }
    }
  }

  since(fromMs: number): Mark[] {
    return [...this.marks.values()]
      .filter((mark) => mark.unix_ms >= fromMs)
      .sort((a, b) => a.unix_ms - b.unix_ms);
  }

  private put(key: string, mark: Mark): void {
    this.marks.set(key, mark);
    const oldest = this.marks.keys().next().value;
    if (this.marks.size > KEPT_MAX && oldest !== undefined) this.marks.delete(oldest);
    if (this.ways.size > KEPT_MAX) this.ways.clear();
  }
}

function wayOf(session: string, from: number, to: number): string {
  return `${session} ${from} ${to}`;
}

/** Marks of the same way at nearly the same moment: one arrow. */
export interface Arrow {
  kind: Mark["kind"];
  unix_ms: number;
  from: number;
  to: number | null;
  marks: Mark[];
}

export function arrows(marks: Mark[], togetherMs: number): Arrow[] {
  const found: Arrow[] = [];
  for (const mark of marks) {
    const same = found.find(
      (arrow) =>
        arrow.from === mark.from &&
        arrow.to === mark.to &&
        arrow.kind === mark.kind &&
        mark.unix_ms - arrow.unix_ms <= togetherMs,
    );
    if (same) same.marks.push(mark);
    else found.push({ kind: mark.kind, unix_ms: mark.unix_ms, from: mark.from, to: mark.to, marks: [mark] });
  }
  return found;
}
