// Bits and frames a second of each rung, from counters that only grow. Pure.

import type { Status } from "./status";

const SPAN_MS = 8000;

interface Count {
  atMs: number;
  bytes: number;
  frames: number;
}

export interface Rate {
  bps: number;
  fps: number;
}

export class Rates {
  private counts = new Map<string, Count[]>();

  observe(status: Status, nowMs: number): void {
    const next = new Map<string, Count[]>();
    for (const session of status.sessions) {
      for (const { label, bytes, frames } of session.rungs) {
        const key = `${session.id} ${label}`;
        const before = this.counts.get(key) ?? [];
        const last = before.at(-1);
        // A new owner counts on; where it does not, it begins anew.
        const isReset = last !== undefined && (bytes < last.bytes || frames < last.frames);
        const kept = isReset ? [] : before.filter((count) => nowMs - count.atMs <= SPAN_MS);
        next.set(key, [...kept, { atMs: nowMs, bytes, frames }]);
      }
    }
    this.counts = next;
  }

  of(session: string, label: string): Rate | null {
    const counts = this.counts.get(`${session} ${label}`);
    const [first, last] = [counts?.[0], counts?.at(-1)];
    if (!first || !last || last.atMs - first.atMs < 1500) return null;
    const seconds = (last.atMs - first.atMs) / 1000;
    return { bps: ((last.bytes - first.bytes) * 8) / seconds, fps: (last.frames - first.frames) / seconds };
  }
}
