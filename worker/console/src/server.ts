// What the page asks of the server. A token, where one is wanted, is asked for once and kept for
// as long as the tab lives.

import type { Announcement, HistoryAnswer, Reply, Request, Status, ThreadStatus } from "./status";

const TOKEN = "tasuki-token";
const PATIENCE_MS = 10_000;

/** The server wants a token, or another one. */
export class Unauthorized extends Error {
  constructor() {
    super("the server wants a token");
  }
}

export function setToken(token: string): void {
  sessionStorage.setItem(TOKEN, token);
}

export function forgetToken(): void {
  sessionStorage.removeItem(TOKEN);
}

async function ask(path: string, init: RequestInit = {}): Promise<Response> {
  const headers = new Headers(init.headers);
  const token = sessionStorage.getItem(TOKEN);
  if (token !== null) headers.set("authorization", `Bearer ${token}`);
  const answer = await fetch(path, { cache: "no-store", ...init, headers });
  if (answer.status === 401) throw new Unauthorized();
  return answer;
}

async function ok(path: string, patienceMs = PATIENCE_MS): Promise<Response> {
  const answer = await ask(path, { signal: AbortSignal.timeout(patienceMs) });
  if (!answer.ok) throw new Error(await refusal(answer));
  return answer;
}

/** Why not, as the server says it. */
async function refusal(answer: Response): Promise<string> {
  const text = (await answer.text().catch(() => "")).trim();
  try {
    const reason: unknown = JSON.parse(text).reason;
    if (typeof reason === "string") return reason;
  } catch {
    // Not JSON: as it is.
  }
  return text.slice(0, 300) || `${answer.status} ${answer.statusText}`;
}

/** And the server's clock, where it tells; to a second. */
export async function status(): Promise<{ status: Status; dateMs: number | null }> {
  const answer = await ok("/api/status");
  const dateMs = Date.parse(answer.headers.get("date") ?? "");
  return { status: (await answer.json()) as Status, dateMs: Number.isNaN(dateMs) ? null : dateMs };
}

export async function history(): Promise<HistoryAnswer> {
  return (await ok("/api/history")).json() as Promise<HistoryAnswer>;
}

export async function threads(worker: string): Promise<ThreadStatus[]> {
  const answer = (await (await ok(`/api/threads?worker=${encodeURIComponent(worker)}`)).json()) as
    | { reply: "threads"; threads: ThreadStatus[] }
    | { reply: "refused"; reason: string };
  if (answer.reply !== "threads") throw new Error(answer.reason);
  return answer.threads;
}

export const heapPath = (worker: string): string => `/debug/pprof/heap?worker=${encodeURIComponent(worker)}`;

export function evidencePath(directory: string, file = ""): string {
  return `/api/evidence/${encodeURIComponent(directory)}/${encodeURIComponent(file)}`;
}

export async function evidence(directory: string): Promise<string[]> {
  return (await ok(evidencePath(directory))).json() as Promise<string[]>;
}

export async function bytesOf(path: string): Promise<Uint8Array> {
  // A heap profile takes the worker up to fifteen seconds.
  return new Uint8Array(await (await ok(path, 30_000)).arrayBuffer());
}

/** A picture as a data: address, for an <img> cannot send a token; null where there is none yet. */
export async function picture(path: string): Promise<string | null> {
  const answer = await ask(path, { signal: AbortSignal.timeout(PATIENCE_MS) });
  if (!answer.ok) {
    await answer.body?.cancel();
    return null;
  }
  const reader = new FileReader();
  const read = new Promise<void>((done) => reader.addEventListener("loadend", () => done()));
  reader.readAsDataURL(await answer.blob());
  await read;
  return typeof reader.result === "string" ? reader.result : null;
}

/** Lets the browser save what is behind an address. */
export async function save(path: string, name: string): Promise<void> {
  const url = URL.createObjectURL(new Blob([(await bytesOf(path)) as BlobPart]));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  window.setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/** Each reply as it comes. */
export async function request(wish: Request, each: (reply: Reply) => void): Promise<void> {
  const answer = await ask("/api/request", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(wish),
  });
  if (!answer.ok || !answer.body) throw new Error(await refusal(answer));
  for await (const line of lines(answer.body)) {
    if (line !== "") each(JSON.parse(line) as Reply);
  }
}

/** Events until the connection ends. EventSource could not send a token. */
export async function events(each: (event: Announcement) => void, opened: () => void, signal: AbortSignal): Promise<void> {
  const answer = await ask("/api/events", { signal, headers: { accept: "text/event-stream" } });
  if (!answer.ok || !answer.body) throw new Error(await refusal(answer));
  opened();
  let pending = "";
  for await (const line of lines(answer.body)) {
    if (line.startsWith("data:")) pending += line.slice(5).trimStart();
    if (line !== "" || pending === "") continue;
    each(JSON.parse(pending) as Announcement);
    pending = "";
  }
}

async function* lines(body: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  const reader = body.pipeThrough(new TextDecoderStream() as ReadableWritablePair<string, Uint8Array>).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    const parts = (rest + value).split(/\r?\n/);
    rest = parts.pop() ?? "";
    yield* parts;
  }
  if (rest !== "") yield rest;
}

export async function gunzip(bytes: Uint8Array): Promise<Uint8Array> {
  const isGzip = bytes[0] === 0x1f && bytes[1] === 0x8b;
  if (!isGzip) return bytes;
  const stream = new Blob([bytes as BlobPart]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
