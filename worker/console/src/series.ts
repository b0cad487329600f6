// The memory of each generation over time, and in which lane it is drawn. Pure.

import type { HistoryAnswer, HistorySample, Status } from "./status";

export const KEPT_MS = 3_600_000;
/** A longer silence than this is a hole in a line. */
const HOLE_MS = 15_000;

/** One process: a line in a lane. */
export interface Run {
  generation: number;
  /** Where it is, or was last. */
  slot: string;
  samples: HistorySample[];
}

export class Series {
  private readonly runs = new Map<number, Run>();

  /** What the server saw before this page was opened. */
  learn(answer: HistoryAnswer): void {
    for (const { worker, generation, samples } of answer.workers) {
      // A process that took another slot is told of under both; the later one counts.
      const run = this.run(generation, worker);
      const isLater = (samples.at(-1)?.unix_ms ?? 0) >= (run.samples.at(-1)?.unix_ms ?? 0);
      if (isLater) run.slot = worker;
      run.samples = merged(run.samples, samples);
    }
  }

  observe(status: Status, nowMs: number): void {
    for (const worker of status.workers) {
      if (worker.pid === 0 && worker.footprint_bytes === 0) continue;
      const run = this.run(worker.generation, worker.slot);
      run.slot = worker.slot;
      run.samples.push({
        unix_ms: nowMs,
        footprint_bytes: worker.footprint_bytes,
        rss_bytes: worker.rss_bytes,
        lazy_free_bytes: worker.lazy_free_bytes,
        soft_limit_bytes: worker.memory?.soft_limit_bytes ?? 0,
        hard_limit_bytes: worker.memory?.hard_limit_bytes ?? 0,
        sessions: worker.sessions,
      });
    }
    this.forget(nowMs - KEPT_MS);
  }

  /** Runs with something in the window, by slot; oldest first. */
  lanes(fromMs: number): Map<string, Run[]> {
    const lanes = new Map<string, Run[]>();
    for (const run of this.runs.values()) {
      if ((run.samples.at(-1)?.unix_ms ?? 0) < fromMs) continue;
      const lane = lanes.get(run.slot) ?? [];
      lane.push(run);
      lanes.set(run.slot, lane);
    }
    for (const lane of lanes.values()) lane.sort((a, b) => a.generation - b.generation);
    return lanes;
  }

  slotOf(generation: number): string | null {
    return this.runs.get(generation)?.slot ?? null;
  }

  /** Null where it was not looked at then. */
  footprintAt(generation: number, unixMs: number): number | null {
    const samples = this.runs.get(generation)?.samples;
    if (!samples?.length) return null;
    let nearest = samples[0];
    for (const sample of samples) {
      if (nearest && Math.abs(sample.unix_ms - unixMs) <= Math.abs(nearest.unix_ms - unixMs)) nearest = sample;
    }
    if (!nearest || Math.abs(nearest.unix_ms - unixMs) > HOLE_MS) return null;
    return nearest.footprint_bytes;
  }

  private run(generation: number, slot: string): Run {
    let run = this.runs.get(generation);
    if (!run) {
      run = { generation, slot, samples: [] };
      this.runs.set(generation, run);
    }
    return run;
  }

  private forget(beforeMs: number): void {
    for (const [generation, run] of this.runs) {
      const kept = run.samples.findIndex((sample) => sample.unix_ms >= beforeMs);
      if (kept < 0) this.runs.delete(generation);
      else if (kept > 0) run.samples.splice(0, kept);
    }
  }
}

/** By time, each moment once. */
function merged(one: HistorySample[], other: HistorySample[]): HistorySample[] {
  const all = [...one, ...other].sort((a, b) => a.unix_ms - b.unix_ms);
  return all.filter((sample, index) => index === 0 || sample.unix_ms !== all[index - 1]?.unix_ms);
}

/** What uPlot draws: one time axis, and for each run footprint, RSS, LazyFree; then both limits. */
export type Columns = [number[], ...(number | null | undefined)[][]];

export function columns(runs: Run[], fromMs: number): Columns {
  const visible = runs.map((run) => run.samples.filter((sample) => sample.unix_ms >= fromMs));
  const times = [...new Set(visible.flat().map((sample) => sample.unix_ms))].sort((a, b) => a - b);
  const at = new Map(times.map((time, index) => [time, index]));
  const column = (samples: HistorySample[], of: (sample: HistorySample) => number | null) => {
    // Undefined joins what is on both sides, null does not.
    const values: (number | null | undefined)[] = new Array<undefined>(times.length).fill(undefined);
    let before: HistorySample | null = null;
    for (const sample of samples) {
      const index = at.get(sample.unix_ms) ?? 0;
      if (before && sample.unix_ms - before.unix_ms > HOLE_MS) {
        const hole = (at.get(before.unix_ms) ?? 0) + 1;
        if (hole < index) values[hole] = null;
      }
      values[index] = of(sample);
      before = sample;
    }
    return values;
  };
  const perRun = visible.flatMap((samples) => [
    column(samples, (sample) => sample.footprint_bytes),
    column(samples, (sample) => sample.rss_bytes),
    column(samples, (sample) => sample.lazy_free_bytes),
  ]);
  const all = visible.flat().sort((a, b) => a.unix_ms - b.unix_ms);
  // A worker that is just starting has none yet.
  const limited = all.filter((sample) => sample.soft_limit_bytes > 0);
  const limits = [
    column(limited, (sample) => sample.soft_limit_bytes),
    column(limited, (sample) => sample.hard_limit_bytes),
  ];
  return [times.map((time) => time / 1000), ...perRun, ...limits];
}

/** Top of a lane's scale: as far as the data goes, and to a limit that is not far above it. */
export function scaleTop(highest: number, soft: number, hard: number, isWhole: boolean): number {
  const wanted = highest * 1.15;
  if (isWhole) return Math.max(wanted, hard * 1.05, soft * 1.05, 1);
  const near = [hard, soft].find((limit) => limit > 0 && limit <= wanted * 2.5);
  return Math.max(wanted, (near ?? 0) * 1.08, 1);
}
