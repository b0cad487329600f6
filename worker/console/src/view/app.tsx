// The page: how the node is, its workers, its streams, what was.

import { useEffect, useRef, useState } from "preact/hooks";
import { bitrate, bytes, clock, count, duration, percent, plural, words } from "../format";
import type { Link, Live } from "../live";
import type { AudienceStatus, Status } from "../status";
import { AskDialog, type Ask } from "./ask";
import { EvidenceDialog, type Sight } from "./evidence";
import { Lanes } from "./lanes";
import { Choice, Chip, toneOfState } from "./parts";
import { Deaths, Events, Recycles } from "./past";
import { Streams } from "./streams";
import { applyTheme, storedTheme, type Theme } from "./theme";

export function App({ live, nowMs }: { live: Live; nowMs: number }) {
  const [ask, setAsk] = useState<Ask | null>(null);
  const [sight, setSight] = useState<Sight | null>(null);
  const { status, link } = live;
  return (
    <>
      <a class="skip" href="#main">To the content</a>
      <Top status={status} link={link} ask={setAsk} />
      <Banner link={link} nowMs={nowMs} />
      <main id="main" class={link.is === "down" ? "stale" : ""}>
        {status && (
          <>
            <Figures status={status} nowMs={nowMs} />
            <Lanes live={live} nowMs={nowMs} ask={setAsk} look={setSight} />
            <Streams status={status} rates={live.rates} ask={setAsk} />
            <Recycles recycles={status.recycles ?? []} nowMs={nowMs} look={setSight} />
            <div class="pair">
              <Deaths deaths={status.deaths ?? []} nowMs={nowMs} />
              <Events events={live.events} nowMs={nowMs} />
            </div>
          </>
        )}
        {!status && link.is === "connecting" && <p class="faint waits">asking the server…</p>}
      </main>
      {link.is === "locked" && <TokenDialog isWrong={link.isWrong} unlock={(token) => live.unlock(token)} />}
      {ask && <AskDialog key={JSON.stringify(ask)} ask={ask} close={() => setAsk(null)} done={() => live.soon()} />}
      {sight && <EvidenceDialog key={JSON.stringify(sight)} sight={sight} close={() => setSight(null)} />}
    </>
  );
}

function Top({ status, link, ask }: { status: Status | null; link: Link; ask: (ask: Ask) => void }) {
  const [theme, setTheme] = useState<Theme>(storedTheme());
  const streams = status?.sessions.filter((session) => session.name !== "").length ?? 0;
  const isUp = link.is === "up";
  return (
    <header class="top">
      <h1>
        <svg viewBox="0 0 16 16" width="20" height="20" aria-hidden="true"><path d="M2 11.5C6 11.5 7 4.5 14 4.5" /></svg>
        Tasuki
      </h1>
      {status && <Chip tone={!isUp ? "bad" : status.state === "draining" ? "warn" : toneOfState(status.state)}>{isUp ? status.state : "no answer"}</Chip>}
      {status && (
        <p class="faint about">
          up {duration(status.uptime_ms)}<span class="wide"> · {status.version} · pid {status.pid} · {status.config}</span>
        </p>
      )}
      <div class="buttons">
        {status && <button type="button" disabled={!isUp} onClick={() => ask({ what: "rotate", worker: null, streams })}>Rotate all</button>}
        {status && <button type="button" disabled={!isUp || status.state === "draining"} onClick={() => ask({ what: "drain", streams })}>Drain</button>}
        <Choice legend="Colours" value={theme} options={[
          { value: "auto", label: "auto" },
          { value: "light", label: "light" },
          { value: "dark", label: "dark" },
        ]} choose={(theme) => { applyTheme(theme); setTheme(theme); }} />
      </div>
    </header>
  );
}

function Banner({ link, nowMs }: { link: Link; nowMs: number }) {
  if (link.is !== "down") return null;
  const inSeconds = Math.max(0, Math.ceil((link.retryAtMs - nowMs) / 1000));
  return (
    <p class="banner" role="alert">
      <b>No answer since {clock(link.sinceMs)}</b> ({duration(Math.max(0, nowMs - link.sinceMs))}): {link.why}. What is below was true then.{" "}
      {inSeconds > 0 ? `Asked again in ${inSeconds} s.` : "Asking…"}
    </p>
  );
}

function Figures({ status, nowMs }: { status: Status; nowMs: number }) {
  const streams = status.sessions.filter((session) => session.name !== "");
  const workers = status.workers.filter((worker) => worker.role === "worker");
  const footprint = workers.reduce((sum, worker) => sum + worker.footprint_bytes, 0);
  const within = (unixMs: number) => nowMs - unixMs < 3_600_000;
  const recycles = (status.recycles ?? []).filter((recycle) => within(recycle.unix_ms)).length;
  const deaths = (status.deaths ?? []).filter((death) => within(death.unix_ms)).length;
  const refused = Object.entries(status.refusals);
  const refusals = refused.reduce((sum, [, times]) => sum + times, 0);
  const out = streams.reduce((sum, session) => sum + session.out_bitrate_bps, 0);
  return (
    <dl class="node">
      <div><dt>streams</dt><dd>{count(streams.length)} <span class="faint">{count(status.streams_free)} free</span></dd></div>
      <div class={status.cpu_percent > 90 ? "warn" : ""}><dt>processor</dt><dd>{percent(status.cpu_percent)}</dd></div>
      <div><dt>footprint of workers</dt><dd>{bytes(footprint)}</dd></div>
      <div><dt>pushed</dt><dd>{bitrate(out)}</dd></div>
      {status.audience && (status.viewers ?? []).length > 0 && <Audience audience={status.audience} />}
      <div><dt>sessions since start</dt><dd>{count(status.sessions_total)}</dd></div>
      <div><dt>recycles, last hour</dt><dd>{count(recycles)}</dd></div>
      <div class={deaths > 0 ? "bad" : ""}><dt>deaths, last hour</dt><dd>{count(deaths)}</dd></div>
      <div class={(status.frames_lost ?? 0) > 0 ? "bad" : ""}><dt>frames lost</dt><dd>{count(status.frames_lost ?? 0)}</dd></div>
      <div class={refusals > 0 ? "warn" : ""} title={refused.map(([reason, times]) => `${words(reason)} ${times}×`).join("\n")}>
        <dt>refused</dt>
        <dd>{count(refusals)}{refused.length > 0 && <span class="faint"> {words(refused.sort((a, b) => b[1] - a[1])[0]?.[0] ?? "")}</span>}</dd>
      </div>
      {(status.ignored_frames ?? 0) > 0 && <div class="warn"><dt>frames ignored</dt><dd>{count(status.ignored_frames ?? 0)}</dd></div>}
    </dl>
  );
}

function Audience({ audience }: { audience: AudienceStatus }) {
  const sum = (counts: Record<string, number>) => Object.values(counts).reduce((sum, times) => sum + times, 0);
  const refused = Object.entries(audience.refused).filter(([, times]) => times > 0);
  const lines = [
    `${plural(audience.waits, "request waits", "requests wait")}`,
    `since start: ${plural(sum(audience.answers), "answer")}, ${bytes(audience.sent_bytes)} sent`,
    audience.flv_jumps > 0 && `FLV: overtaken ${count(audience.flv_jumps)}×`,
    audience.flv_stalled > 0 && `FLV: closed for taking nothing ${count(audience.flv_stalled)}×`,
    ...refused.map(([setting, times]) => `refused by ${setting} ${count(times)}×`),
  ];
  return (
    <div class={refused.length > 0 ? "warn" : ""} title={lines.filter(Boolean).join("\n")}>
      <dt>viewers' connections</dt>
      <dd>
        {count(audience.connections)} <span class="faint">{count(audience.flv_viewers)} watch FLV{refused.length > 0 && `, ${count(sum(audience.refused))} refused`}</span>
      </dd>
    </div>
  );
}

function TokenDialog({ isWrong, unlock }: { isWrong: boolean; unlock: (token: string) => void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  const [token, setToken] = useState("");
  useEffect(() => dialog.current?.showModal(), []);
  return (
    <dialog ref={dialog} class="ask" aria-labelledby="token-title" onCancel={(event) => event.preventDefault()}>
      <form onSubmit={(event) => { event.preventDefault(); unlock(token.trim()); }}>
        <h2 id="token-title">This console wants a token</h2>
        <p>It is the console's token in the server's configuration, and is kept until this tab is closed.</p>
        {isWrong && <p class="error" role="alert">That was not it.</p>}
        <label class="line">Token <input type="password" autocomplete="current-password" required autofocus value={token} onInput={(event) => setToken(event.currentTarget.value)} /></label>
        <div class="buttons"><button type="submit" class="main">Go on</button></div>
      </form>
    </dialog>
  );
}
