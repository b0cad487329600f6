// One lane's plot: footprint, RSS and LazyFree of each of its runs, and the limits.

import uPlot from "uplot";
import { bytes, clock, plural } from "../format";
import { columns, scaleTop, type Run } from "../series";
import { colour } from "./theme";

export interface Drawn {
  runs: Run[];
  fromMs: number;
  toMs: number;
  /** Whether both limits are in view even where the footprint is far below. */
  isWhole: boolean;
  /** Whether the time is written below. */
  hasTimes: boolean;
  height: number;
}

const TIMES_HEIGHT = 22;
const GUTTER = 58;

export class LanePlot {
  private readonly place: HTMLElement;
  private readonly readout: HTMLElement;
  private plot: uPlot | null = null;
  private shape = "";
  private drawn: Drawn | null = null;

  constructor(place: HTMLElement, readout: HTMLElement) {
    this.place = place;
    this.readout = readout;
    place.addEventListener("keydown", this.onKey);
    place.addEventListener("blur", this.onBlur);
  }

  draw(drawn: Drawn): void {
    this.drawn = drawn;
    const width = this.place.clientWidth;
    if (width === 0) return;
    const data = columns(drawn.runs, drawn.fromMs);
    const shape = `${drawn.runs.map((run) => run.generation).join()} ${drawn.hasTimes} ${drawn.height}`;
    if (!this.plot || shape !== this.shape) {
      this.plot?.destroy();
      this.shape = shape;
      this.plot = new uPlot(this.options(drawn, width), data as uPlot.AlignedData, this.place);
    } else {
      if (this.plot.width !== width) this.plot.setSize({ width, height: heightOf(drawn) });
      this.plot.setData(data as uPlot.AlignedData, true);
    }
  }

  /** Where a moment and an amount are, relative to `container`; null where nothing is drawn. */
  positionOf(unixMs: number, amount: number, container: DOMRect): { x: number; y: number } | null {
    if (!this.plot || !this.drawn) return null;
    const over = this.plot.over.getBoundingClientRect();
    const x = this.plot.valToPos(unixMs / 1000, "x");
    if (!Number.isFinite(x) || x < 0 || x > over.width) return null;
    const y = this.plot.valToPos(amount, "y");
    return {
      x: over.left - container.left + x,
      y: over.top - container.top + Math.min(over.height - 2, Math.max(2, y)),
    };
  }

  destroy(): void {
    this.plot?.destroy();
    this.plot = null;
  }

  private options(drawn: Drawn, width: number): uPlot.Options {
    const line = (name: string, stroke: string, width: number, more: Partial<uPlot.Series> = {}): uPlot.Series => ({
      label: name,
      stroke: () => colour(stroke),
      width,
      points: { show: false },
      spanGaps: false,
      ...more,
    });
    const perRun = drawn.runs.flatMap(() => [
      line("footprint", "--footprint", 2, { fill: () => colour("--footprint-fill") }),
      line("RSS", "--rss", 1.25),
      line("LazyFree", "--lazy", 1.25, { dash: [3, 3] }),
    ]);
    return {
      width,
      height: heightOf(drawn),
      padding: [8, 8, drawn.hasTimes ? 0 : 7, 0],
      legend: { show: false },
      cursor: {
        sync: { key: "lanes", setSeries: false },
        drag: { x: false, y: false },
        points: { show: false },
        y: false,
      },
      scales: {
        x: { time: true, range: () => [(this.drawn?.fromMs ?? 0) / 1000, (this.drawn?.toMs ?? 1) / 1000] },
        y: { range: (plot) => [0, this.top(plot)] },
      },
      axes: [
        {
          size: drawn.hasTimes ? TIMES_HEIGHT : 0,
          stroke: () => colour("--faint"),
          font: "11px system-ui, sans-serif",
          grid: { stroke: () => colour("--grid"), width: 1 },
          ticks: { show: false },
          values: (_plot, splits) =>
            splits.map((split) => (drawn.hasTimes ? clock(split * 1000).replace(/:00$/, "") : "")),
          space: 70,
        },
        {
          size: GUTTER,
          stroke: () => colour("--faint"),
          font: "11px system-ui, sans-serif",
          grid: { stroke: () => colour("--grid"), width: 1 },
          ticks: { show: false },
          splits: (plot) => splitsOf(this.top(plot), drawn.height > 80 ? 3 : 1),
          values: (_plot, splits) => splits.map((split) => (split === 0 ? "0" : bytes(split))),
        },
      ],
      series: [
        {},
        ...perRun,
        line("soft limit", "--soft", 1.25, { dash: [6, 4] }),
        line("hard limit", "--hard", 1.25),
      ],
      hooks: { setCursor: [(plot) => this.read(plot)] },
    };
  }

  private top(plot: uPlot): number {
    let highest = 0;
    let soft = 0;
    let hard = 0;
    const last = plot.data.length - 1;
    for (let index = 1; index < plot.data.length; index += 1) {
      for (const value of plot.data[index] ?? []) {
        if (value === null || value === undefined) continue;
        if (index === last) hard = Math.max(hard, value);
        else if (index === last - 1) soft = Math.max(soft, value);
        else highest = Math.max(highest, value);
      }
    }
    return scaleTop(highest, soft, hard, this.drawn?.isWhole ?? false);
  }

  /** What the lines say at the cursor. */
  private read(plot: uPlot): void {
    const index = plot.cursor.idx;
    const runs = this.drawn?.runs ?? [];
    const time = index === null || index === undefined ? undefined : plot.data[0][index];
    if (time === undefined || (plot.cursor.left ?? -1) < 0) {
      this.readout.textContent = "";
      return;
    }
    const told = runs.flatMap((run) => {
      const sample = run.samples.findLast((sample) => sample.unix_ms <= time * 1000 + 1);
      if (!sample || time * 1000 - sample.unix_ms > 5000) return [];
      return [
        `g${run.generation}: footprint ${bytes(sample.footprint_bytes)}, RSS ${bytes(sample.rss_bytes)}, ` +
          `LazyFree ${bytes(sample.lazy_free_bytes)}, ${plural(sample.sessions, "stream")}`,
      ];
    });
    this.readout.textContent = `${clock(time * 1000)}  ${told.join("  ·  ")}`;
  }

  private readonly onKey = (event: KeyboardEvent): void => {
    const { plot } = this;
    if (!plot) return;
    const count = plot.data[0].length;
    const from = plot.cursor.idx ?? count - 1;
    const step = event.shiftKey ? 30 : 5;
    let to: number;
    switch (event.key) {
      case "ArrowLeft":
        to = from - step;
        break;
      case "ArrowRight":
        to = from + step;
        break;
      case "Home":
        to = 0;
        break;
      case "End":
        to = count - 1;
        break;
      default:
        return;
    }
    event.preventDefault();
    const time = plot.data[0][Math.min(count - 1, Math.max(0, to))];
    if (time !== undefined) this.pointAt(plot.valToPos(time, "x"), 10);
  };

  private readonly onBlur = (): void => this.pointAt(-10, -10);

  /** In all lanes, as the mouse does; uPlot's types leave the third argument out. */
  private pointAt(left: number, top: number): void {
    const { plot } = this;
    const set = plot?.setCursor as ((at: { left: number; top: number }, fire: boolean, publish: boolean) => void) | undefined;
    set?.call(plot, { left, top }, true, true);
  }
}

function heightOf(drawn: Drawn): number {
  return drawn.height + (drawn.hasTimes ? TIMES_HEIGHT : 0);
}

/** Round steps of bytes. */
function splitsOf(top: number, most: number): number[] {
  let step = 1 << 20;
  while (top / step > most) step *= 2;
  if (top < step) step = 2 ** Math.floor(Math.log2(Math.max(top, 1)));
  const splits = [];
  for (let at = 0; at <= top; at += step) splits.push(at);
  return splits;
}
