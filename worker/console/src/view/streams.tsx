// The live streams, one row each, with a player that opens below.

import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { age, bitrate, bytes, count, duration, plural, words } from "../format";
import type { Rate, Rates } from "../rates";
import * as server from "../server";
import { playlistOf, type HlsStatus, type PushStatus, type RecordStatus, type RungStatus, type SessionStatus, type Status } from "../status";
import type { Ask } from "./ask";
import { Chip, Empty, toneOfState } from "./parts";
import { PlayerPanel } from "./player-panel";

const PICTURE_EVERY_MS = 4000;
const byName = new Intl.Collator(undefined, { numeric: true });

interface Props {
  status: Status;
  rates: Rates;
  ask: (ask: Ask) => void;
}

export function Streams({ status, rates, ask }: Props) {
  const streams = status.sessions.filter((session) => session.name !== "");
  const before = status.sessions.filter((session) => session.name === "");
  const sorted = [...streams].sort((a, b) => byName.compare(a.name, b.name) || byName.compare(a.id, b.id));
  return (
    <section aria-labelledby="streams">
      <header class="section">
        <h2 id="streams">Streams <span class="faint">{count(streams.length)}</span></h2>
        {before.length > 0 && <Before sessions={before} />}
      </header>
      {sorted.length === 0 && <Empty>Nobody publishes. Streams are taken on {status.listeners.join(", ")}.</Empty>}
      <div class="streams">
        {sorted.map((session) => <Stream key={session.id} session={session} status={status} rates={rates} ask={ask} />)}
      </div>
    </section>
  );
}

function Before({ sessions }: { sessions: SessionStatus[] }) {
  return (
    <details class="before">
      <summary>{plural(sessions.length, "session")} before publish</summary>
      <ul>
        {sessions.map((session) => (
          <li key={session.id}>
            <span class="mono">{session.id}</span> {session.state} at {session.worker}, from {session.peer}, {duration(session.uptime_ms)}
          </li>
        ))}
      </ul>
    </details>
  );
}

function Stream({ session, status, rates, ask }: { session: SessionStatus } & Props) {
  const [isOpen, setOpen] = useState(false);
  const playlist = playlistOf(status, session.app, session.name, location.hostname);
  const hasHls = (session.hls ?? []).some((hls) => hls.state === "packaging");
  return (
    <article class="stream panel" aria-label={`Stream ${session.name}`}>
      <Picture app={session.app} name={session.name} />
      <div class="who">
        <h3>{session.name}</h3>
        <p>
          <span class="faint">{session.app}</span>{" "}
          <Chip tone={toneOfState(session.state)}>{session.state}</Chip>{" "}
          <span class="at" title="Slot and generation of its worker">{session.worker}</span>
        </p>
        <p class="faint">{age(session.uptime_ms)}, from {session.peer}</p>
        <p class="faint mono">{session.id}</p>
      </div>
      <div class="media">
        <p>
          <b>{session.width > 0 ? `${session.width}×${session.height}` : "no picture yet"}</b>
          {session.fps > 0 && ` ${Math.round(session.fps)} fps`}{" "}
          <span class="faint">{[session.video_codec, session.audio_codec].filter(Boolean).join(" + ")}</span>
        </p>
        <dl class="figures">
          <div><dt>in</dt><dd>{bitrate(session.in_bitrate_bps)}</dd></div>
          <div><dt>out</dt><dd>{bitrate(session.out_bitrate_bps)}</dd></div>
          <div class={session.lag_ms >= 1000 ? "warn" : ""}><dt>lag</dt><dd>{duration(session.lag_ms)}</dd></div>
          <div title="Who watches it as FLV now"><dt>flv</dt><dd>{plural(session.flv_viewers ?? 0, "viewer")}</dd></div>
          {session.frames_dropped > 0 && <div class="warn"><dt>dropped</dt><dd>{count(session.frames_dropped)}</dd></div>}
          {(session.frames_lost ?? 0) > 0 && <div class="bad"><dt>lost</dt><dd>{count(session.frames_lost ?? 0)}</dd></div>}
        </dl>
        <Badges session={session} />
      </div>
      <Rungs session={session} rates={rates} />
      <Outputs session={session} />
      <div class="buttons">
        <button
          type="button"
          class="main"
          aria-expanded={isOpen}
          disabled={!isOpen && (!playlist || !hasHls)}
          title={hasHls ? undefined : "It has no rendition for viewers"}
          onClick={() => setOpen(!isOpen)}
        >
          {isOpen ? "Close" : "Watch"}
        </button>
        <button type="button" onClick={() => ask({ what: "move", session: session.id, name: session.name, from: session.worker })}>Move</button>
        <button type="button" onClick={() => ask({ what: "end", session: session.id, name: session.name })}>End</button>
      </div>
      {isOpen && playlist && <PlayerPanel source={playlist} name={session.name} />}
    </article>
  );
}

/** The thumbnail, where there is one; fetched anew while it can be seen. */
function Picture({ app, name }: { app: string; name: string }) {
  const [source, setSource] = useState<string | null>(null);
  const place = useRef<HTMLDivElement>(null);
  useEffect(() => {
    let isVisible = false;
    let isGone = false;
    const path = `/thumb/${encodeURIComponent(app)}/${encodeURIComponent(name)}.jpg`;
    const look = async () => {
      if (!isVisible || document.hidden) return;
      const picture = await server.picture(path).catch(() => null);
      if (!isGone) setSource(picture);
    };
    const observer = new IntersectionObserver((entries) => {
      const wasVisible = isVisible;
      isVisible = entries.some((entry) => entry.isIntersecting);
      if (isVisible && !wasVisible) void look();
    });
    if (place.current) observer.observe(place.current);
    const timer = window.setInterval(() => void look(), PICTURE_EVERY_MS);
    return () => {
      isGone = true;
      observer.disconnect();
      window.clearInterval(timer);
    };
  }, [app, name]);
  return (
    <div class="picture" ref={place}>
      {source === null ? <span class="faint">no picture</span> : <img src={source} alt={`What ${name} shows`} />}
    </div>
  );
}

function Badges({ session }: { session: SessionStatus }) {
  const faults = Object.entries(session.faults).filter(([, times]) => times > 0);
  const isPlain = faults.length === 0 && !session.no_anchor && !session.suspicion && !session.stalled_ms;
  if (isPlain) return null;
  return (
    <p class="badges">
      {session.no_anchor && (
        <Chip tone="bad" title="The source log lacks the keyframe that the next frame needs: a move waits for the source's next one, and a death loses the frames until then.">no anchor</Chip>
      )}
      {session.suspicion && <Chip tone="bad">suspected: {session.suspicion}</Chip>}
      {(session.stalled_ms ?? 0) > 0 && <Chip tone="bad">stands for {duration(session.stalled_ms ?? 0)}</Chip>}
      {faults.map(([kind, times]) => <Chip key={kind} tone="warn">{words(kind)} <b>{count(times)}</b></Chip>)}
    </p>
  );
}

function Rungs({ session, rates }: { session: SessionStatus; rates: Rates }) {
  const hls = session.hls ?? [];
  return (
    <table class="rungs">
      <caption class="unseen">Rungs of {session.name}</caption>
      <tbody>
        {session.rungs.map((rung) => (
          <Rung key={rung.label} rung={rung} rate={rates.of(session.id, rung.label)} hls={hls.find((hls) => hls.rung === rung.label)} />
        ))}
      </tbody>
    </table>
  );
}

function Rung({ rung, rate, hls }: { rung: RungStatus; rate: Rate | null; hls: HlsStatus | undefined }) {
  const isRunning = rung.state === "passing" || rung.state === "encoding";
  const oddities = hls ? odditiesOf(hls) : "";
  return (
    <>
      <tr>
        <th scope="row">{rung.label}</th>
        <td><Chip tone={toneOfState(rung.state)}>{rung.state}</Chip></td>
        <td>{rung.width > 0 && `${rung.width}×${rung.height}`}</td>
        <td class="figure">{isRunning && rate && bitrate(rate.bps)}</td>
        <td class="figure">{isRunning && rate && `${Math.round(rate.fps)} fps`}</td>
        <td>{hls && <Chip tone={toneOfState(hls.state)} title={`HLS: ${hls.state}, segment ${hls.segment}, part ${hls.part}`}>{hls.state === "packaging" ? "hls" : `hls ${hls.state}`}</Chip>}</td>
      </tr>
      {oddities && <tr><td /><td colSpan={5} class="warn wraps">hls: {oddities}</td></tr>}
    </>
  );
}

function odditiesOf(hls: HlsStatus): string {
  return [
    hls.discontinuities > 0 && plural(hls.discontinuities, "discontinuity", "discontinuities"),
    hls.gaps > 0 && plural(hls.gaps, "gap"),
    hls.forced_cuts > 0 && plural(hls.forced_cuts, "forced cut"),
    hls.last_error,
  ]
    .filter(Boolean)
    .join(", ");
}

function Outputs({ session }: { session: SessionStatus }) {
  const lines = [
    ...session.pushes.map((push, index) => <Push key={`push ${index}`} push={push} />),
    ...(session.records ?? []).map((record) => <Recording key={`record ${record.rung}`} record={record} />),
  ];
  if (lines.length === 0) return <p class="faint outputs">no push, no recording</p>;
  return <ul class="outputs" aria-label={`Outputs of ${session.name}`}>{lines}</ul>;
}

function Push({ push }: { push: PushStatus }) {
  return (
    <Output kind="push" rung={push.rung} state={push.state} error={push.state === "live" ? "" : push.last_error}>
      <span>{push.to}</span>
      <span class="faint">
        {bytes(push.sent_bytes)}
        {push.reconnects > 0 && `, ${plural(push.reconnects, "reconnect")}`}
        {push.skipped > 0 && `, ${count(push.skipped)} skipped`}
      </span>
    </Output>
  );
}

function Recording({ record }: { record: RecordStatus }) {
  return (
    <Output kind="record" rung={record.rung} state={record.state} error={record.last_error}>
      <span class="faint" title={record.path}>{bytes(record.bytes)}</span>
    </Output>
  );
}

function Output({ kind, rung, state, error, children }: {
  kind: string;
  rung: string;
  state: string;
  error: string;
  children: ComponentChildren;
}) {
  return (
    <li>
      <span class="kind">{kind}</span>
      <span>{rung}</span>
      <Chip tone={toneOfState(state)}>{state}</Chip>
      {children}
      {error && <span class="error">{error}</span>}
    </li>
  );
}
