// What was: recycles, deaths, events.

import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import { bytes, clock, count, duration, moment, pause, plural, words } from "../format";
import type { Announcement, DeathStatus, RecycleStatus } from "../status";
import type { Sight } from "./evidence";
import { Chip, Empty, toneOfState } from "./parts";

export function Recycles({ recycles, nowMs, look }: { recycles: RecycleStatus[]; nowMs: number; look: (sight: Sight) => void }) {
  return (
    <section aria-labelledby="recycles">
      <header class="section"><h2 id="recycles">Recycles <span class="faint">{recycles.length > 0 && `the last ${recycles.length}`}</span></h2></header>
      {recycles.length === 0
        ? <Empty>No process was replaced yet.</Empty>
        : <div class="panel scrolls" tabIndex={0} role="region" aria-labelledby="recycles"><table class="list recycles">
            <thead>
              <tr><th>when</th><th>process</th><th>reason</th><th>outcome</th><th class="figure">took</th><th class="figure">footprint</th><th>streams</th><th>evidence</th></tr>
            </thead>
            <tbody>{recycles.map((recycle) => <Recycle key={recycle.id} recycle={recycle} nowMs={nowMs} look={look} />)}</tbody>
          </table></div>}
    </section>
  );
}

/** On a phone a row is a card, and each cell says what it is. */
function Cell({ label, isFigure = false, children }: { label: string; isFigure?: boolean; children: ComponentChildren }) {
  return <td data-label={label} class={isFigure ? "figure" : ""}><div>{children}</div></td>;
}

function Recycle({ recycle, nowMs, look }: { recycle: RecycleStatus; nowMs: number; look: (sight: Sight) => void }) {
  const directory = recycle.evidence?.split("/").filter(Boolean).at(-1);
  const after = recycle.footprint_after_bytes;
  return (
    <tr>
      <Cell label="when"><span class="faint">#{recycle.id}</span> {moment(recycle.unix_ms, nowMs)}</Cell>
      <Cell label="process">{recycle.worker}<span class="faint">/g{recycle.generation}{recycle.role !== "worker" && ` ${recycle.role}`}</span></Cell>
      <Cell label="reason">{words(recycle.reason)}{recycle.detail && <span class="faint detail">{recycle.detail}</span>}</Cell>
      <Cell label="outcome"><Chip tone={toneOfState(recycle.outcome)}>{recycle.outcome}</Chip></Cell>
      <Cell label="took" isFigure>{duration(recycle.took_ms)}</Cell>
      <Cell label="footprint" isFigure>{bytes(recycle.footprint_before_bytes)}{after > 0 && <span class="faint"> → {bytes(after)}</span>}</Cell>
      <Cell label="streams"><Moves recycle={recycle} /></Cell>
      <Cell label="evidence">
        {directory
          ? <button type="button" onClick={() => look({ of: "recycle", directory, title: `${recycle.worker}/g${recycle.generation}, recycle ${recycle.id} (${words(recycle.reason)})` })}>Open</button>
          : <span class="faint">none</span>}
      </Cell>
    </tr>
  );
}

function Moves({ recycle }: { recycle: RecycleStatus }) {
  const { moves } = recycle;
  if (moves.length === 0) return <span class="faint">none</span>;
  const moved = moves.filter((move) => move.outcome === "done").length;
  const longest = Math.max(...moves.map((move) => move.pause_us));
  const lost = moves.reduce((sum, move) => sum + move.frames_lost, 0);
  return (
    <details>
      <summary>
        {moved === moves.length ? `${count(moved)} moved` : `${moved} of ${moves.length} moved`}, pause {pause(longest)}
        {lost > 0 && <span class="warn">, {plural(lost, "frame")} lost</span>}
      </summary>
      <ul>
        {moves.map((move) => (
          <li key={move.session}>
            {move.name || move.session}: {move.from} → {move.to || "?"} <Chip tone={toneOfState(move.outcome)}>{move.outcome}</Chip> {pause(move.pause_us)}
            {move.frames_lost > 0 && <span class="warn">, {plural(move.frames_lost, "frame")} lost</span>}
          </li>
        ))}
      </ul>
    </details>
  );
}

export function Deaths({ deaths, nowMs }: { deaths: DeathStatus[]; nowMs: number }) {
  return (
    <section aria-labelledby="deaths">
      <header class="section"><h2 id="deaths">Deaths <span class="faint">{deaths.length > 0 && "that nobody had planned"}</span></h2></header>
      {deaths.length === 0
        ? <Empty>No process died unplanned.</Empty>
        : <div class="panel scrolls" tabIndex={0} role="region" aria-labelledby="deaths"><table class="list deaths">
            <thead><tr><th>when</th><th>process</th><th>cause</th><th>its streams</th></tr></thead>
            <tbody>{deaths.map((death) => (
              <tr key={`${death.worker} ${death.unix_ms}`}>
                <Cell label="when">{moment(death.unix_ms, nowMs)}</Cell>
                <Cell label="process">{death.worker} <span class="faint">{death.role}</span></Cell>
                <Cell label="cause">{death.cause}</Cell>
                <Cell label="its streams">
                  {death.sessions.length === 0 && <span class="faint">none</span>}
                  {death.sessions.map((session) => (
                    <span class="fate" key={session.session}>
                      {session.name || session.session} → <Chip tone={/^ended/.test(session.outcome) ? "bad" : session.outcome === "waits" ? "warn" : "plain"}>{session.outcome}</Chip>
                      {session.suspicion && <span class="error">{session.suspicion}</span>}
                    </span>
                  ))}
                </Cell>
              </tr>
            ))}</tbody>
          </table></div>}
    </section>
  );
}

const SHOWN_MAX = 200;

export function Events({ events, nowMs }: { events: Announcement[]; nowMs: number }) {
  const [filter, setFilter] = useState("");
  const wanted = filter.trim().toLowerCase();
  const text = (event: Announcement) =>
    `${words(event.event)} ${event.worker ?? ""} ${event.name ?? ""} ${event.session ?? ""} ${event.detail}`;
  const found = events.filter((event) => text(event).toLowerCase().includes(wanted)).slice(0, SHOWN_MAX);
  return (
    <section aria-labelledby="events">
      <header class="section">
        <h2 id="events">Events</h2>
        <input type="search" aria-label="Show events that contain" placeholder="filter" value={filter} onInput={(event) => setFilter(event.currentTarget.value)} />
      </header>
      <div class="panel scrolls events" tabIndex={0} role="region" aria-labelledby="events">
        {found.length === 0 && <p class="empty">{events.length === 0 ? "Nothing has happened since this page was opened." : "None contains that."}</p>}
        <ol>
          {found.map((event) => (
            <li key={`${event.unix_ms} ${event.event} ${event.session ?? ""} ${event.worker ?? ""} ${event.detail}`}>
              <time dateTime={new Date(event.unix_ms).toISOString()} title={moment(event.unix_ms, nowMs)}>{clock(event.unix_ms)}</time>
              <b class={toneOfEvent(event)}>{words(event.event)}</b>
              <span>{[event.worker, event.name || event.session].filter(Boolean).join(" ")}</span>
              <span class="faint">{event.detail}</span>
            </li>
          ))}
        </ol>
      </div>
    </section>
  );
}

function toneOfEvent({ event, detail }: Announcement): string {
  // A worker that leaves when it is done dies as well.
  if (event === "worker_died" && detail === "exit Done (0)") return "";
  if (/died|hung|broken|failed|unkillable|given_up|dropped|frames_lost|incompatible/.test(event)) return "bad";
  if (/refused|lost|stopped|left|overload$|fault|no_anchor|kept|crashed|missing|born_over|quarantine/.test(event)) return "warn";
  return "";
}
