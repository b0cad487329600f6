// What the page knows, kept up to date: status each second, events as they happen, and what was
// before. The view is told at each change.

import { Marks } from "./marks";
import { Rates } from "./rates";
import { Series } from "./series";
import * as server from "./server";
import type { Announcement, Status } from "./status";

const EVERY_MS = 1000;
/** Memory is looked at as often as the server does. */
const SAMPLE_EVERY_MS = 2000;
const RETRY_MS_FIRST = 1000;
const RETRY_MS_MAX = 15_000;
const EVENTS_KEPT = 500;
/** A Date header is cut to the second, and an answer takes a moment: less is no difference. */
const SKEW_MS_MIN = 2500;

export type Link =
  | { is: "connecting" }
  | { is: "up" }
  | { is: "down"; sinceMs: number; why: string; retryAtMs: number }
  | { is: "locked"; isWrong: boolean };

export class Live {
  link: Link = { is: "connecting" };
  status: Status | null = null;
  events: Announcement[] = [];
  series = new Series();
  marks = new Marks();
  readonly rates = new Rates();
  private readonly changed: () => void;
  private retryMs = RETRY_MS_FIRST;
  private timer: number | undefined;
  /** When memory was last looked at: lanes are drawn anew at that pace. */
  sampledAtMs = 0;
  private answeredAtMs = Date.now();
  private skewMs = 0;
  private following: AbortController | null = null;
  private triedToken = false;

  constructor(changed: () => void) {
    this.changed = changed;
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) this.soon();
    });
  }

  start(): void {
    void this.look();
  }

  /** The server's clock: what it says of the past is in it. */
  nowMs(): number {
    return Date.now() + this.skewMs;
  }

  unlock(token: string): void {
    server.setToken(token);
    this.triedToken = true;
    this.link = { is: "connecting" };
    this.changed();
    this.soon();
  }

  /** Looks at once, because something was asked for. */
  soon(): void {
    window.clearTimeout(this.timer);
    void this.look();
  }

  private async look(): Promise<void> {
    window.clearTimeout(this.timer);
    try {
      const { status, dateMs } = await server.status();
      const skewMs = dateMs === null ? 0 : dateMs + 500 - Date.now();
      this.skewMs = Math.abs(skewMs) < SKEW_MS_MIN ? 0 : skewMs;
      await this.take(status);
    } catch (error) {
      this.miss(error);
    }
    this.changed();
  }

  private async take(status: Status): Promise<void> {
    const nowMs = this.nowMs();
    const isNew = this.link.is !== "up";
    if (this.status && this.status.pid !== status.pid) {
      // Another server counts generations anew.
      this.series = new Series();
      this.marks = new Marks();
    }
    this.status = status;
    this.answeredAtMs = nowMs;
    this.retryMs = RETRY_MS_FIRST;
    this.link = { is: "up" };
    if (isNew) {
      await server.history().then(
        (answer) => this.series.learn(answer),
        () => undefined,
      );
      this.follow();
    }
    if (nowMs - this.sampledAtMs >= SAMPLE_EVERY_MS - 100) {
      this.sampledAtMs = nowMs;
      this.series.observe(status, nowMs);
    }
    this.marks.observe(status);
    this.rates.observe(status, nowMs);
    this.again(EVERY_MS);
  }

  private miss(error: unknown): void {
    if (error instanceof server.Unauthorized) {
      this.link = { is: "locked", isWrong: this.triedToken };
      server.forgetToken();
      return;
    }
    const why = error instanceof Error ? error.message : String(error);
    this.link = { is: "down", sinceMs: this.answeredAtMs, why, retryAtMs: this.nowMs() + this.retryMs };
    this.again(this.retryMs);
    this.retryMs = Math.min(this.retryMs * 1.6, RETRY_MS_MAX);
  }

  private again(ms: number): void {
    window.clearTimeout(this.timer);
    this.timer = window.setTimeout(() => void this.look(), document.hidden ? Math.max(ms, 5000) : ms);
  }

  private follow(): void {
    this.following?.abort();
    const following = new AbortController();
    this.following = following;
    const hear = (event: Announcement) => {
      this.events.unshift(event);
      this.events.length = Math.min(this.events.length, EVENTS_KEPT);
      this.marks.hear(event);
      this.changed();
    };
    const over = () => {
      if (following.signal.aborted) return;
      // The status says whether the server is still there; then events are asked for again.
      window.setTimeout(() => {
        if (!following.signal.aborted && this.link.is === "up") this.follow();
      }, RETRY_MS_FIRST);
    };
    server.events(hear, () => undefined, following.signal).then(over, over);
  }
}
