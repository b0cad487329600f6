// Each worker as a lane: its memory over time against its limits, and what moved from lane to lane.

import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { age, bytes, duration, percent, plural, slope } from "../format";
import type { Live } from "../live";
import type { Run } from "../series";
import type { MemoryStatus, WorkerStatus } from "../status";
import { drawArrows } from "./arrows";
import { LanePlot } from "./lane-plot";
import type { Ask } from "./ask";
import type { Sight } from "./evidence";
import { Choice, Chip, toneOfState } from "./parts";

const SPANS = [
  { value: 300_000, label: "5 min" },
  { value: 900_000, label: "15 min" },
  { value: 3_600_000, label: "1 h" },
];

interface Lane {
  slot: string;
  worker: WorkerStatus | null;
  runs: Run[];
}

interface Props {
  live: Live;
  nowMs: number;
  ask: (ask: Ask) => void;
  look: (sight: Sight) => void;
}

export function Lanes({ live, nowMs, ask, look }: Props) {
  const [spanMs, setSpan] = useState(900_000);
  const [scale, setScale] = useState<"near" | "whole">("near");
  const container = useRef<HTMLDivElement>(null);
  const svg = useRef<SVGSVGElement>(null);
  const plots = useRef(new Map<string, LanePlot>());
  const heads = useRef(new Map<string, HTMLElement>());
  const [width, setWidth] = useState(0);
  const [theme, setTheme] = useState(0);

  // Drawn at the pace of the samples, so that the picture does not crawl in between.
  const toMs = live.sampledAtMs || nowMs;
  const fromMs = toMs - spanMs;
  const lanes = lanesOf(live, fromMs);
  const last = lanes.at(-1)?.slot;

  useEffect(() => {
    const place = container.current;
    if (!place) return;
    const observer = new ResizeObserver(() => setWidth(place.clientWidth));
    observer.observe(place);
    const onTheme = () => setTheme((count) => count + 1);
    window.addEventListener("tasuki-theme", onTheme);
    return () => {
      observer.disconnect();
      window.removeEventListener("tasuki-theme", onTheme);
    };
  }, []);

  const shape = lanes.map((lane) => `${lane.slot}:${lane.runs.map((run) => run.generation).join()}`).join(" ");
  const marks = live.marks.since(fromMs);
  useLayoutEffect(() => {
    const isNarrow = width < 700;
    for (const lane of lanes) {
      const isJudged = lane.worker?.role === "worker" || lane.worker === null;
      // Beside its head a plot is as high as that; below it, as a phone has room.
      const head = heads.current.get(lane.slot)?.offsetHeight ?? 0;
      const low = isJudged ? 96 : 52;
      plots.current.get(lane.slot)?.draw({
        runs: lane.runs,
        fromMs,
        toMs,
        isWhole: scale === "whole",
        hasTimes: lane.slot === last,
        height: isNarrow ? low : Math.max(low, head - 6),
      });
    }
    const place = container.current?.getBoundingClientRect();
    if (!svg.current || !place) return;
    drawArrows(svg.current, marks, spanMs, (generation, unixMs) => {
      const slot = live.series.slotOf(generation);
      const plot = slot === null ? undefined : plots.current.get(slot);
      const footprint = live.series.footprintAt(generation, unixMs);
      return footprint === null ? null : (plot?.positionOf(unixMs, footprint, place) ?? null);
    });
  }, [shape, toMs, spanMs, scale, width, theme, marks.length, last]);

  const keep = (slot: string) => (plot: LanePlot | null, head: HTMLElement | null) => {
    if (plot && head) {
      plots.current.set(slot, plot);
      heads.current.set(slot, head);
    } else {
      plots.current.delete(slot);
      heads.current.delete(slot);
    }
  };

  return (
    <section aria-labelledby="workers">
      <header class="section">
        <h2 id="workers">Workers</h2>
        <Legend />
        <Choice legend="Scale" value={scale} choose={setScale} options={[
          { value: "near", label: "fit" },
          { value: "whole", label: "to the limits" },
        ]} />
        <Choice legend="Time shown" value={spanMs} choose={setSpan} options={SPANS} />
      </header>
      <div class="lanes panel" ref={container}>
        {lanes.map((lane) => (
          <LaneRow key={lane.slot} lane={lane} keep={keep(lane.slot)} ask={ask} look={look} />
        ))}
        <svg class="arrows" ref={svg} aria-hidden="true" />
      </div>
    </section>
  );
}

function Legend() {
  return (
    <details class="legend">
      <summary>
        <span class="key footprint">footprint</span>
        <span class="key rss">RSS</span>
        <span class="key lazy">LazyFree</span>
        <span class="key soft">soft limit</span>
        <span class="key hard">hard limit</span>
        <span class="key move">move</span>
        <span class="key death">death</span>
      </summary>
      <dl>
        <dt>Footprint</dt>
        <dd>Anonymous − LazyFree + Swap: what comes back only when the process exits. Both limits are for it, and nothing else recycles a worker for its memory.</dd>
        <dt>RSS</dt>
        <dd>What the kernel counts as resident: the footprint, LazyFree, and shared memory and files, which would be there without this worker too. High RSS is no leak.</dd>
        <dt>LazyFree</dt>
        <dd>Freed by the program already; the kernel takes it when it needs it. RSS counts it all the same.</dd>
        <dt>Soft and hard limit</dt>
        <dd>Above the soft limit a worker is recycled at leisure, above the hard one at once.</dd>
        <dt>Move, death</dt>
        <dd>An arrow is streams that went from one worker's lane to another's: planned, or because the worker died.</dd>
      </dl>
    </details>
  );
}

function lanesOf(live: Live, fromMs: number): Lane[] {
  const runs = live.series.lanes(fromMs);
  const workers = live.status?.workers ?? [];
  const present = workers.map((worker) => ({ slot: worker.slot, worker, runs: runs.get(worker.slot) ?? [] }));
  const gone = [...runs]
    .filter(([slot]) => !workers.some((worker) => worker.slot === slot))
    .map(([slot, runs]) => ({ slot, worker: null, runs }));
  const order = (lane: Lane) => (lane.worker === null ? 1 : lane.worker.role === "worker" ? 0 : 2);
  const number = (lane: Lane) => Number(/\d+/.exec(lane.slot)?.[0] ?? 0);
  return [...present, ...gone].sort((a, b) => order(a) - order(b) || number(a) - number(b));
}

function LaneRow({ lane, keep, ask, look }: {
  lane: Lane;
  keep: (plot: LanePlot | null, head: HTMLElement | null) => void;
  ask: (ask: Ask) => void;
  look: (sight: Sight) => void;
}) {
  const place = useRef<HTMLDivElement>(null);
  const head = useRef<HTMLDivElement>(null);
  const readout = useRef<HTMLOutputElement>(null);
  useLayoutEffect(() => {
    if (!place.current || !readout.current) return;
    const plot = new LanePlot(place.current, readout.current);
    keep(plot, head.current);
    return () => {
      keep(null, null);
      plot.destroy();
    };
  }, []);
  const { worker, slot } = lane;
  const footprint = worker ? `footprint ${bytes(worker.footprint_bytes)}, RSS ${bytes(worker.rss_bytes)}` : "gone";
  return (
    <article class={`lane ${worker && worker.role !== "worker" ? "small" : ""}`} aria-label={`${worker?.role ?? "worker"} ${slot}`}>
      <div class="lane-head" ref={head}>
        {worker ? <Head worker={worker} ask={ask} look={look} /> : <p><b>{slot}</b> <span class="faint">temporary slot, gone</span></p>}
      </div>
      <div class="lane-plot">
        <div class="plot" ref={place} tabIndex={0} role="img" aria-label={`Memory of ${slot} over time: ${footprint}. Arrow keys read values.`} />
        <output class="readout" ref={readout} />
      </div>
    </article>
  );
}

/** Where the footprint is going. */
function Outlook({ memory }: { memory: MemoryStatus }) {
  const left = memory.time_to_limit_ms;
  return (
    <>
      <p class="faint">soft limit {bytes(memory.soft_limit_bytes)}, hard {bytes(memory.hard_limit_bytes)}</p>
      <p>
        {left === null && <span class="faint">not growing, no limit in sight</span>}
        {left === 0 && <b class="warn">over the soft limit</b>}
        {left !== null && left > 0 && (
          <>soft limit in <b class={left < 600_000 ? "warn" : ""}>{duration(left)}</b> <span class="faint">at {slope(memory.slope_bytes_per_s)}</span></>
        )}
        {memory.verdict !== "fine" && <> <Chip tone={memory.verdict === "evacuate" ? "bad" : "warn"}>{memory.verdict}</Chip></>}
      </p>
    </>
  );
}

function Head({ worker, ask, look }: { worker: WorkerStatus; ask: (ask: Ask) => void; look: (sight: Sight) => void }) {
  const { memory, slot } = worker;
  const isWorker = worker.role === "worker";
  const isOver = memory && worker.footprint_bytes >= memory.soft_limit_bytes && memory.soft_limit_bytes > 0;
  return (
    <>
      <p class="lane-name">
        <b>{isWorker ? slot : worker.role}</b>
        <span class="faint mono">{isWorker ? "" : `${slot} `}g{worker.generation}</span>
        <Chip tone={toneOfState(worker.state)}>{worker.state}</Chip>
        {isWorker && <span class="grow-end">{worker.sessions}/{worker.streams_max} streams{worker.lobby > 0 && `, ${worker.lobby} before publish`}</span>}
        {!isWorker && <span class="grow-end figure">{bytes(worker.footprint_bytes)}</span>}
      </p>
      {isWorker && (
        <dl class="memory">
          <div class={`footprint ${isOver ? "over" : ""}`}><dt>footprint</dt><dd>{bytes(worker.footprint_bytes)}</dd></div>
          <div class="rss"><dt>RSS</dt><dd>{bytes(worker.rss_bytes)}</dd></div>
          <div class="lazy"><dt>LazyFree</dt><dd>{bytes(worker.lazy_free_bytes)}</dd></div>
        </dl>
      )}
      {memory && <Outlook memory={memory} />}
      <p class="lane-foot">
        <span class="faint">
          up {age(worker.age_ms)}, {percent(worker.cpu_percent)} CPU
          {worker.restarts > 0 && <>, <span title={worker.last_death}>{plural(worker.restarts, "restart")}</span></>}
        </span>
        {(isWorker || memory) && (
          <span class="buttons">
            <button type="button" onClick={() => look({ of: "worker", worker: slot })}>Look inside</button>
            <button type="button" onClick={() => ask({ what: "rotate", worker: slot, streams: worker.sessions })}>Rotate</button>
          </span>
        )}
      </p>
    </>
  );
}
