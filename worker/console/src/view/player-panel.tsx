// A stream's player, below its row, with what is measured of the playback.

import { useEffect, useRef, useState } from "preact/hooks";
import { count, plural } from "../format";
import type { Player, PlayerState } from "../player";

const TRACE_MAX = 300;

interface Trace {
  latency: number | null;
  buffer: number;
}

export function PlayerPanel({ source, name }: { source: string; name: string }) {
  const video = useRef<HTMLVideoElement>(null);
  const player = useRef<Player | null>(null);
  const trace = useRef<Trace[]>([]);
  const [state, setState] = useState<PlayerState | null>(null);
  const [failure, setFailure] = useState("");
  const [isMuted, setMuted] = useState(true);
  const [, setTold] = useState(0);

  useEffect(() => {
    let isGone = false;
    let looks = 0;
    const open = async () => {
      // hls.js is large and most pages open no player.
      const module = await import("../player.js");
      if (isGone || !video.current) return;
      const opened = new module.Player(video.current, source, {
        changed: (now) => {
          looks += 1;
          if (looks % 2 === 0) {
            trace.current.push({ latency: now.latencyMs, buffer: now.bufferMs });
            if (trace.current.length > TRACE_MAX) trace.current.shift();
          }
          if (looks % 4 === 0) setTold(looks);
        },
      });
      player.current = opened;
      setState(opened.state);
    };
    open().catch((error: unknown) => setFailure(String(error)));
    return () => {
      isGone = true;
      player.current?.close();
    };
  }, [source]);

  return (
    <div class="player" role="group" aria-label={`Player of ${name}`}>
      <video ref={video} muted={isMuted} autoplay playsInline />
      <div class="playback">
        <div class="buttons">
          <button type="button" aria-pressed={!isMuted} onClick={() => setMuted(!isMuted)}>{isMuted ? "Sound on" : "Sound off"}</button>
          <button type="button" onClick={() => toggle(video.current)}>{state?.doing === "paused" ? "Play" : "Pause"}</button>
          <button type="button" onClick={() => player.current?.toLiveEdge()}>To the live edge</button>
          <label>
            <span class="unseen">Rung</span>
            <select value={state?.chosen ?? -1} onChange={(event) => player.current?.choose(Number(event.currentTarget.value))}>
              <option value={-1}>automatic</option>
              {state?.rungs.map((rung, index) => <option key={rung} value={index}>{rung}</option>)}
            </select>
          </label>
        </div>
        {failure && <p class="error">{failure}</p>}
        {state && <Facts state={state} />}
        <Trail trace={trace.current} />
        <p class="faint source"><a href={`player.html?src=${encodeURIComponent(source)}`} target="_blank" rel="noopener">alone</a> <span class="mono">{source}</span></p>
      </div>
    </div>
  );
}

function toggle(video: HTMLVideoElement | null): void {
  if (!video) return;
  if (video.paused) void video.play().catch(() => undefined);
  else video.pause();
}

function Facts({ state }: { state: PlayerState }) {
  const last = state.errors.at(-1);
  const standing = state.gaps.reduce((sum, gap) => sum + gap.ms, 0);
  return (
    <>
      <dl class="figures wide" aria-live="off">
        <div class="large">
          <dt title="Clock of this machine minus PROGRAM-DATE-TIME of the picture shown now">latency</dt>
          <dd>{latencyOf(state)}</dd>
        </div>
        <div class="large"><dt>buffer ahead</dt><dd>{state.bufferMs} ms</dd></div>
        <div><dt>behind the edge</dt><dd>{state.behindMs} <span class="faint">of {state.targetMs} ms</span></dd></div>
        <div><dt>rate</dt><dd>{state.rate.toFixed(3)}</dd></div>
        <div class={state.stalls > 0 ? "warn" : ""}><dt>stalls</dt><dd>{count(state.stalls)}</dd></div>
        <div class={state.gaps.length > 0 ? "warn" : ""}><dt>pictures that stood</dt><dd>{count(state.gaps.length)}{standing > 0 && `, ${count(standing)} ms`}</dd></div>
        <div><dt>frames dropped</dt><dd>{count(state.dropped)} <span class="faint">of {count(state.total)}</span></dd></div>
        <div class={state.discontinuities > 0 ? "warn" : ""}><dt>discontinuities</dt><dd>{count(state.discontinuities)}</dd></div>
        <div><dt>shown</dt><dd>{state.rung || "–"} {state.width > 0 && <span class="faint">{state.width}×{state.height}</span>}</dd></div>
        <div><dt>player</dt><dd>{state.doing}</dd></div>
      </dl>
      {last && <p class="faint">{plural(state.errors.length, "error")} of the player, the last: {last.details} {last.reason}</p>}
    </>
  );
}

function latencyOf(state: PlayerState): string {
  if (state.latencyMs === null) return "–";
  // What is in the buffer was received before now: less is a wrong clock.
  return state.latencyMs < state.bufferMs - 50 ? "clocks differ" : `${state.latencyMs} ms`;
}

/** Latency and buffer of the last minute. */
function Trail({ trace }: { trace: Trace[] }) {
  const width = 300;
  const height = 56;
  const top = Math.max(1000, ...trace.map((look) => Math.min(4000, Math.max(look.latency ?? 0, look.buffer)) * 1.1));
  const path = (of: (look: Trace) => number | null) =>
    trace
      .map((look, index) => ({ x: width - trace.length + index, value: of(look) }))
      .filter((point) => point.value !== null)
      .map(({ x, value }, index) => `${index === 0 ? "M" : "L"}${x} ${(height - (Math.min(value ?? 0, top) / top) * height).toFixed(1)}`)
      .join("");
  const half = height - (500 / top) * height;
  return (
    <figure class="trail">
      <svg viewBox={`0 0 ${width} ${height}`} preserveAspectRatio="none" role="img" aria-label="Latency and buffer of the last minute">
        <line x1="0" x2={width} y1={half} y2={half} class="half" />
        <path d={path((look) => look.buffer)} class="buffer" />
        <path d={path((look) => look.latency)} class="latency" />
      </svg>
      <figcaption class="faint"><span class="key latency">latency</span> <span class="key buffer">buffer</span> of the last minute; the line is 500 ms</figcaption>
    </figure>
  );
}
