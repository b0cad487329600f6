// What the server says, as in shared/src/status.rs. Fields that an older server lacks are optional.

export interface Status {
  version: string;
  pid: number;
  uptime_ms: number;
  state: string;
  listeners: string[];
  /** The beginning of each URL for viewers. */
  viewers?: string[];
  config: string;
  streams_free: number;
  cpu_percent: number;
  workers: WorkerStatus[];
  sessions: SessionStatus[];
  recycles?: RecycleStatus[];
  deaths?: DeathStatus[];
  refusals: Record<string, number>;
  sessions_total: number;
  frames_lost?: number;
  ignored_frames?: number;
  audience?: AudienceStatus;
}

export interface AudienceStatus {
  connections: number;
  waits: number;
  flv_viewers: number;
  refused: Record<string, number>;
  answers: Record<string, number>;
  sent_bytes: number;
  flv_jumps: number;
  flv_stalled: number;
}

export interface WorkerStatus {
  slot: string;
  role: string;
  state: string;
  generation: number;
  pid: number;
  age_ms: number;
  sessions: number;
  streams_max: number;
  lobby: number;
  footprint_bytes: number;
  rss_bytes: number;
  lazy_free_bytes: number;
  cpu_percent: number;
  memory?: MemoryStatus | null;
  last_death?: string;
  restarts: number;
}

export interface MemoryStatus {
  soft_limit_bytes: number;
  hard_limit_bytes: number;
  slope_bytes_per_s: number;
  time_to_limit_ms: number | null;
  allocated_bytes: number;
  idle_bytes: number;
  shared_bytes?: number;
  threads: number;
  fds: number;
  verdict: string;
}

export interface SessionStatus {
  id: string;
  name: string;
  app: string;
  /** Slot and generation, `w0/g3`. */
  worker: string;
  peer: string;
  state: string;
  uptime_ms: number;
  video_codec: string;
  audio_codec: string;
  width: number;
  height: number;
  fps: number;
  in_bytes: number;
  out_bytes: number;
  in_bitrate_bps: number;
  out_bitrate_bps: number;
  frames_in: number;
  frames_out: number;
  frames_dropped: number;
  frames_lost?: number;
  no_anchor?: boolean;
  lag_ms: number;
  faults: Record<string, number>;
  rungs: RungStatus[];
  pushes: PushStatus[];
  records?: RecordStatus[];
  hls?: HlsStatus[];
  flv_viewers?: number;
  suspicion?: string;
  stalled_ms?: number;
}

export interface RungStatus {
  label: string;
  state: string;
  width: number;
  height: number;
  frames: number;
  bytes: number;
}

export interface PushStatus {
  rung: string;
  to: string;
  state: string;
  sent_bytes: number;
  messages: number;
  reconnects: number;
  skipped: number;
  last_error: string;
}

export interface RecordStatus {
  rung: string;
  state: string;
  path: string;
  bytes: number;
  last_error: string;
}

export interface HlsStatus {
  rung: string;
  state: string;
  segment: number;
  part: number;
  parts: number;
  discontinuities: number;
  forced_cuts: number;
  gaps: number;
  last_error: string;
}

export interface DeathStatus {
  unix_ms: number;
  worker: string;
  role: string;
  cause: string;
  sessions: { session: string; name: string; outcome: string; suspicion: string }[];
}

export interface RecycleStatus {
  id: number;
  unix_ms: number;
  worker: string;
  role: string;
  generation: number;
  reason: string;
  detail: string;
  outcome: string;
  took_ms: number;
  footprint_before_bytes: number;
  footprint_after_bytes: number;
  moves: MoveStatus[];
  evidence?: string | null;
}

export interface MoveStatus {
  session: string;
  name: string;
  from: string;
  to: string;
  outcome: string;
  pause_us: number;
  frames_lost: number;
}

export interface ThreadStatus {
  tid: number;
  name: string;
  state: string;
  cpu_percent: number;
  cpu_ms: number;
  waits_in: string;
  task: string;
}

/** An `Event` of the status socket. */
export interface Announcement {
  unix_ms: number;
  event: string;
  session?: string;
  name?: string;
  worker?: string;
  detail: string;
}

export type Request =
  | { request: "rotate"; worker: string | null; reason: string; haste: Haste }
  | { request: "move"; session: string; haste: Haste }
  | { request: "end"; session: string }
  | { request: "drain" };

export type Haste = "scheduled" | "now";

export type Reply =
  | ({ reply: "recycled" } & RecycleStatus)
  | ({ reply: "moved" } & MoveStatus)
  | { reply: "done" }
  | { reply: "refused"; reason: string };

export interface HistorySample {
  unix_ms: number;
  footprint_bytes: number;
  rss_bytes: number;
  lazy_free_bytes: number;
  soft_limit_bytes: number;
  hard_limit_bytes: number;
  sessions: number;
}

export interface HistoryAnswer {
  interval_ms: number;
  workers: { worker: string; generation: number; samples: HistorySample[] }[];
}

/** The number in `w0/g3`; null where there is none. */
export function generationOf(process: string): number | null {
  const found = /\/g?(\d+)$/.exec(process);
  return found ? Number(found[1]) : null;
}

/** The slot in `w0/g3`. */
export function slotOf(process: string): string {
  return process.split("/")[0] ?? "";
}

/** Where a stream is watched; null while no one can. */
export function playlistOf(status: Status, app: string, name: string, pageHost: string): string | null {
  const viewers = status.viewers?.[0];
  if (!viewers) return null;
  const found = /^(https?):\/\/(.*):(\d+)$/.exec(viewers);
  if (!found) return null;
  const [, scheme = "", host = "", port = ""] = found;
  const isHere = /^(127\.|0\.0\.0\.0$|\[::1?\]$|localhost$)/.test(host);
  const path = `${encodeURIComponent(app)}/${encodeURIComponent(name)}`;
  return `${scheme}://${isHere ? pageHost : host}:${port}/live/${path}/index.m3u8`;
}
