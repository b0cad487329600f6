// What is known of a worker's memory: saved before its recycle, or looked at now.

import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { bytes, count, duration, percent, plural } from "../format";
import { parsePprof, type Profile } from "../pprof";
import * as server from "../server";
import { parseSmaps, sumOf, type Mapping } from "../smaps";
import type { ThreadStatus } from "../status";
import { Chip } from "./parts";
import { FlameGraph, Functions } from "./flame-graph";

export type Sight =
  | { of: "recycle"; directory: string; title: string }
  | { of: "worker"; worker: string };

interface Tab {
  name: string;
  /** Asked for when the tab is first looked at. */
  load: () => Promise<ComponentChildren>;
}

const HEAP = "heap.pb.gz";

export function EvidenceDialog({ sight, close }: { sight: Sight; close: () => void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  const [tabs, setTabs] = useState<Tab[]>([]);
  const [at, setAt] = useState(0);
  const [failure, setFailure] = useState("");

  useEffect(() => {
    dialog.current?.showModal();
    tabsOf(sight).then(setTabs, (error: unknown) => setFailure(messageOf(error)));
  }, []);

  const onKey = (event: KeyboardEvent) => {
    const step = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? -1 : 0;
    if (step === 0) return;
    event.preventDefault();
    const next = (at + step + tabs.length) % tabs.length;
    setAt(next);
    dialog.current?.querySelectorAll<HTMLElement>("[role=tab]")[next]?.focus();
  };
  const tab = tabs[at];

  return (
    <dialog ref={dialog} class="evidence" aria-labelledby="evidence-title" onClose={close}>
      <header>
        <h2 id="evidence-title">{sight.of === "recycle" ? <>Evidence of {sight.title}</> : <>Inside {sight.worker}, now</>}</h2>
        <button type="button" onClick={() => dialog.current?.close()}>Close</button>
      </header>
      <div class="tabs" role="tablist" aria-label="What to look at" onKeyDown={onKey}>
        {tabs.map((each, index) => (
          <button key={each.name} type="button" role="tab" id={`tab-${index}`} aria-controls="tab-panel" aria-selected={index === at} tabIndex={index === at ? 0 : -1} onClick={() => setAt(index)}>{each.name}</button>
        ))}
      </div>
      <div class="tab-panel" role="tabpanel" id="tab-panel" aria-labelledby={`tab-${at}`} tabIndex={0}>
        {failure && <p class="error">{failure}</p>}
        {tabs.length === 0 && !failure && <p class="faint">asking…</p>}
        {tab && <Loaded key={tab.name} load={tab.load} />}
      </div>
    </dialog>
  );
}

function Loaded({ load }: { load: Tab["load"] }) {
  const [content, setContent] = useState<ComponentChildren>(<p class="faint">asking…</p>);
  useEffect(() => {
    let isGone = false;
    const show = (content: ComponentChildren) => {
      if (!isGone) setContent(content);
    };
    load().then(show, (error: unknown) => show(<p class="error">{messageOf(error)}</p>));
    return () => {
      isGone = true;
    };
  }, []);
  return <>{content}</>;
}

async function tabsOf(sight: Sight): Promise<Tab[]> {
  if (sight.of === "worker") {
    const { worker } = sight;
    const heap = once(() => heapAt(server.heapPath(worker)));
    return [
      { name: "Threads", load: async () => <Threads threads={await server.threads(worker)} /> },
      ...heapTabs(heap, server.heapPath(worker), `${worker}-${HEAP}`),
    ];
  }
  const { directory } = sight;
  const files = await server.evidence(directory);
  const text = async (file: string) => new TextDecoder().decode(await server.bytesOf(server.evidencePath(directory, file)));
  const heap = once(() => heapAt(server.evidencePath(directory, HEAP)));
  const tabs: Tab[] = [];
  if (files.includes(HEAP)) tabs.push(...heapTabs(heap, server.evidencePath(directory, HEAP), `${directory}-${HEAP}`));
  for (const file of files.filter((file) => file !== HEAP).sort()) tabs.push({ name: nameOf(file), load: async () => shown(file, await text(file)) });
  tabs.push({ name: "Files", load: async () => <Files directory={directory} files={files} /> });
  return tabs;
}

function heapTabs(heap: () => Promise<Profile>, path: string, name: string): Tab[] {
  const about = (profile: Profile) => (
    <p class="faint about">
      {bytes(profile.root.total)} in use by {plural(profile.samples, "stack")}: an estimate from one sample in 512 KiB allocated.{" "}
      <button type="button" onClick={() => void server.save(path, name)}>Save for go tool pprof</button>
    </p>
  );
  return [
    { name: "Heap", load: async () => { const profile = await heap(); return <>{about(profile)}<FlameGraph profile={profile} /></>; } },
    { name: "Functions", load: async () => { const profile = await heap(); return <>{about(profile)}<Functions profile={profile} /></>; } },
  ];
}

/** Two tabs show the same profile. */
function once<T>(make: () => Promise<T>): () => Promise<T> {
  let made: Promise<T> | null = null;
  return () => (made ??= make());
}

async function heapAt(path: string): Promise<Profile> {
  return parsePprof(await server.gunzip(await server.bytesOf(path)));
}

function nameOf(file: string): string {
  return file.replace(/\.(txt|json)$/, "");
}

function shown(file: string, text: string): ComponentChildren {
  if (file === "smaps.txt") return <Smaps mappings={parseSmaps(text)} />;
  if (file === "threads.json") return <Threads threads={JSON.parse(text) as ThreadStatus[]} />;
  return <pre>{text}</pre>;
}

function Smaps({ mappings }: { mappings: Mapping[] }) {
  const row = (mapping: Mapping) => (
    <>
      <td class="figure strong">{bytes(mapping.footprint)}</td>
      <td class="figure">{bytes(mapping.rss)}</td>
      <td class="figure">{bytes(mapping.lazyFree)}</td>
      <td class="figure">{bytes(mapping.anonymous)}</td>
      <td class="figure">{bytes(mapping.swap)}</td>
      <td class="figure">{bytes(mapping.pss)}</td>
      <td class="figure">{count(mapping.count)}</td>
    </>
  );
  return (
    <table class="list smaps">
      <caption class="faint">Footprint is Anonymous − LazyFree + Swap. What a file or a memfd has in RSS is not this worker's alone.</caption>
      <thead>
        <tr><th class="figure">footprint</th><th class="figure">RSS</th><th class="figure">LazyFree</th><th class="figure">Anonymous</th><th class="figure">Swap</th><th class="figure">PSS</th><th class="figure">mappings</th><th>of</th></tr>
      </thead>
      <tbody>
        <tr class="sum">{row(sumOf(mappings))}<td>all</td></tr>
        {mappings.map((mapping) => <tr key={mapping.name}>{row(mapping)}<td class="mono breaks">{mapping.name}</td></tr>)}
      </tbody>
    </table>
  );
}

function Threads({ threads }: { threads: ThreadStatus[] }) {
  return (
    <table class="list">
      <thead><tr><th>thread</th><th class="figure">processor</th><th class="figure">so far</th><th>state</th><th>waits in</th><th>for</th></tr></thead>
      <tbody>
        {threads.map((thread) => (
          <tr key={thread.tid}>
            <td><b>{thread.name}</b> <span class="faint mono">{thread.tid}</span></td>
            <td class="figure">{percent(thread.cpu_percent)}</td>
            <td class="figure">{duration(thread.cpu_ms)}</td>
            <td><Chip tone={thread.state === "D" ? "warn" : thread.state === "R" ? "good" : "quiet"}>{stateOf(thread.state)}</Chip></td>
            <td class="mono">{thread.waits_in}</td>
            <td>{thread.task}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

function stateOf(state: string): string {
  switch (state) {
    case "R":
      return "runs";
    case "S":
      return "sleeps";
    case "D":
      return "waits for a device";
    default:
      return state;
  }
}

function Files({ directory, files }: { directory: string; files: string[] }) {
  return (
    <ul class="files">
      {files.map((file) => (
        <li key={file}><button type="button" onClick={() => void server.save(server.evidencePath(directory, file), file)}>Save</button> <span class="mono">{file}</span></li>
      ))}
    </ul>
  );
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
