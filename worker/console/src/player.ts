// A player of one stream: hls.js in low-latency mode with a playback rate of our own.

import Hls, { type ErrorData, type HlsConfig, type LevelDetails } from "hls.js/light";
import { RateController } from "./rate";

const LOOK_EVERY_MS = 100;
const TARGET_BEHIND_MS = 450;
const ERRORS_KEPT = 200;
const GAPS_KEPT = 200;
/** A picture that stands for longer is a gap, whatever the frame rate. */
const GAP_MS_MIN = 120;
const RETRY_MS_FIRST = 500;
const RETRY_MS_MAX = 5000;
const RECREATE_WITHIN_MS = 5000;
/** So long a jump, or the start, may take to show a picture before it is made again. */
const JUMP_PATIENCE_MS = 8000;
/** How often to look whether a stream that ended has begun again. */
const AGAIN_EVERY_MS = 3000;

export interface PlayerError {
  unix_ms: number;
  type: string;
  details: string;
  fatal: boolean;
  reason: string;
}

/** A picture that was shown for too long. */
export interface Gap {
  unix_ms: number;
  ms: number;
}

export type Doing = "loading" | "playing" | "paused" | "stalled" | "retrying" | "ended" | "unsupported";

/** Everything that is known of the playback; the object stays the same and is kept up to date. */
export interface PlayerState {
  doing: Doing;
  currentTime: number;
  /** Clock of this machine minus the time that the picture shown now was received at. */
  latencyMs: number | null;
  bufferMs: number;
  /** Behind the newest part. */
  behindMs: number;
  targetMs: number;
  rate: number;
  jumps: number;
  stalls: number;
  gaps: Gap[];
  errors: PlayerError[];
  discontinuities: number;
  dropped: number;
  total: number;
  width: number;
  height: number;
  /** Index of the level that is shown, -1 before. */
  level: number;
  /** Its rung. */
  rung: string;
  /** Rungs by level, lowest first. */
  rungs: string[];
  /** The level that was chosen, -1 for automatic. */
  chosen: number;
}

export interface PlayerOptions {
  targetMs?: number;
  /** Play this rung only. */
  rung?: string;
  changed?: (state: PlayerState) => void;
}

export class Player {
  readonly state: PlayerState;
  private readonly video: HTMLVideoElement;
  private readonly source: string;
  private readonly options: PlayerOptions;
  private readonly pace: RateController;
  private hls: Hls | null = null;
  private looking: number | undefined;
  private retrying: number | undefined;
  private retryMs = RETRY_MS_FIRST;
  private recoveredAt = -Infinity;
  /** Of the fragment shown: each level counts its discontinuities for itself. */
  private sequence: { level: number; cc: number } | null = null;
  private shownAt: number | null = null;
  /** When the last jump was begun, or the stream opened; null once pictures are shown again. */
  private arrivingAt: number | null = null;
  private gone = false;

  constructor(video: HTMLVideoElement, source: string, options: PlayerOptions = {}) {
    this.video = video;
    this.source = source;
    this.options = options;
    this.pace = new RateController(options.targetMs ?? TARGET_BEHIND_MS);
    this.state = {
      doing: "loading",
      get currentTime() {
        return video.currentTime;
      },
      latencyMs: null,
      bufferMs: 0,
      behindMs: 0,
      targetMs: options.targetMs ?? TARGET_BEHIND_MS,
      rate: 1,
      jumps: 0,
      stalls: 0,
      gaps: [],
      errors: [],
      discontinuities: 0,
      dropped: 0,
      total: 0,
      width: 0,
      height: 0,
      level: -1,
      rung: "",
      rungs: [],
      chosen: -1,
    };
    video.addEventListener("waiting", this.onWaiting);
    video.addEventListener("playing", this.onPlaying);
    video.addEventListener("pause", this.onPause);
    video.addEventListener("ended", this.onEnded);
    video.addEventListener("seeking", this.onSeeking);
    this.looking = window.setInterval(() => this.look(), LOOK_EVERY_MS);
    if ("requestVideoFrameCallback" in video) video.requestVideoFrameCallback(this.onFrame);
    this.open();
  }

  /** Shows one rung, or whichever fits with -1. */
  choose(level: number): void {
    this.state.chosen = level;
    if (this.hls) this.hls.nextLevel = level;
    this.tell();
  }

  toLiveEdge(): void {
    const position = this.hls?.liveSyncPosition;
    if (typeof position === "number") this.jump(position);
    void this.video.play().catch(() => undefined);
  }

  close(): void {
    this.gone = true;
    window.clearInterval(this.looking);
    window.clearTimeout(this.retrying);
    const { video } = this;
    video.removeEventListener("waiting", this.onWaiting);
    video.removeEventListener("playing", this.onPlaying);
    video.removeEventListener("pause", this.onPause);
    video.removeEventListener("ended", this.onEnded);
    video.removeEventListener("seeking", this.onSeeking);
    this.hls?.destroy();
    this.hls = null;
  }

  private open(): void {
    if (!Hls.isSupported()) {
      // Safari on a phone: its own player, without a rate of ours.
      if (this.video.canPlayType("application/vnd.apple.mpegurl")) this.video.src = this.source;
      else this.set("unsupported");
      return;
    }
    const hls = new Hls(this.config());
    this.hls = hls;
    this.sequence = null;
    this.arrivingAt = performance.now();
    hls.on(Hls.Events.MANIFEST_PARSED, (_event, data) => {
      this.retryMs = RETRY_MS_FIRST;
      this.state.rungs = data.levels.map((level, index) => rungOf(level.url[0]) || `${index}`);
      const only = this.options.rung ? this.state.rungs.indexOf(this.options.rung) : -1;
      const chosen = only >= 0 ? only : this.state.chosen;
      if (chosen >= 0 && chosen < this.state.rungs.length) {
        this.state.chosen = chosen;
        hls.loadLevel = chosen;
      }
      if (this.video.autoplay) void this.video.play().catch(() => undefined);
    });
    hls.on(Hls.Events.LEVEL_SWITCHED, (_event, { level }) => {
      this.state.level = level;
      this.state.rung = this.state.rungs[level] ?? "";
      this.tell();
    });
    hls.on(Hls.Events.FRAG_CHANGED, (_event, { frag }) => {
      const { level, cc } = frag;
      if (this.sequence?.level === level && this.sequence.cc !== cc) this.state.discontinuities += 1;
      this.sequence = { level, cc };
    });
    hls.on(Hls.Events.ERROR, (_event, data) => this.onError(data));
    hls.loadSource(this.source);
    hls.attachMedia(this.video);
  }

  private config(): Partial<HlsConfig> {
    const again = (most: number) => ({
      maxNumRetry: most,
      retryDelayMs: 100,
      maxRetryDelayMs: 1000,
      backoff: "exponential" as const,
    });
    const policy = (firstByteMs: number, loadMs: number) => ({
      default: {
        maxTimeToFirstByteMs: firstByteMs,
        maxLoadTimeMs: loadMs,
        timeoutRetry: again(4),
        errorRetry: again(12),
      },
    });
    return {
      lowLatencyMode: true,
      // The parts are fMP4 already: there is nothing to do for a thread of its own.
      enableWorker: false,
      liveSyncDuration: (this.options.targetMs ?? TARGET_BEHIND_MS) / 1000,
      liveMaxLatencyDuration: Infinity,
      maxLiveSyncPlaybackRate: 1,
      liveSyncOnStallIncrease: 0,
      backBufferLength: 10,
      fragLoadPolicy: policy(10_000, 20_000),
      playlistLoadPolicy: policy(10_000, 20_000),
    };
  }

  private onError(data: ErrorData): void {
    const { state } = this;
    state.errors.push({
      unix_ms: Date.now(),
      type: data.type,
      details: data.details,
      fatal: data.fatal,
      reason: data.reason ?? data.error?.message ?? "",
    });
    if (state.errors.length > ERRORS_KEPT) state.errors.shift();
    if (data.fatal) this.recover(data);
    this.tell();
  }

  private recover(data: ErrorData): void {
    const now = performance.now();
    const isMedia = data.type === Hls.ErrorTypes.MEDIA_ERROR;
    if (isMedia && this.hls && now - this.recoveredAt > RECREATE_WITHIN_MS) {
      this.recoveredAt = now;
      this.hls.recoverMediaError();
      return;
    }
    this.set("retrying");
    this.hls?.destroy();
    this.hls = null;
    window.clearTimeout(this.retrying);
    this.retrying = window.setTimeout(() => {
      if (!this.gone) this.open();
    }, this.retryMs);
    this.retryMs = Math.min(this.retryMs * 1.7, RETRY_MS_MAX);
  }

  /** Opens a stream that had ended once it is live again under its name. */
  private async again(): Promise<void> {
    const isLive = await this.isLive().catch(() => false);
    if (this.gone) return;
    if (!isLive) {
      this.retrying = window.setTimeout(() => void this.again(), AGAIN_EVERY_MS);
      return;
    }
    this.hls?.destroy();
    this.set("loading");
    this.open();
  }

  private async isLive(): Promise<boolean> {
    const multivariant = await (await fetch(this.source, { cache: "no-store" })).text();
    const uri = multivariant.split("\n").find((line) => line !== "" && !line.startsWith("#"));
    if (!uri) return false;
    const answer = await fetch(new URL(uri, new URL(this.source, location.href)), { cache: "no-store" });
    return answer.ok && !(await answer.text()).includes("#EXT-X-ENDLIST");
  }

  private look(): void {
    const { video, hls, state } = this;
    const nowMs = performance.now();
    const bufferMs = aheadMs(video);
    const details = detailsOf(hls);
    state.bufferMs = Math.round(bufferMs);
    const quality = video.getVideoPlaybackQuality();
    state.dropped = quality.droppedVideoFrames;
    state.total = quality.totalVideoFrames;
    state.width = video.videoWidth;
    state.height = video.videoHeight;
    const date = hls?.playingDate;
    state.latencyMs = date ? Math.round(Date.now() - date.getTime()) : null;
    if (hls && details?.live && !video.paused && !video.seeking && video.readyState > 0) {
      this.steer(nowMs, bufferMs, details);
    }
    this.tell();
  }

  private steer(nowMs: number, bufferMs: number, details: LevelDetails): void {
    const { video, state } = this;
    const partMs = (details.partTarget || 0) * 1000;
    const edgeMs = (details.edge - video.currentTime) * 1000;
    if (this.arrivingAt !== null && nowMs - this.arrivingAt < JUMP_PATIENCE_MS) return;
    const pace = this.pace.look({ nowMs, bufferMs, edgeMs, partMs });
    state.behindMs = Math.round(pace.behindMs);
    state.targetMs = Math.round(pace.targetMs);
    if (pace.jump) {
      this.jump(details.edge - pace.targetMs / 1000);
      return;
    }
    // While nothing is there to play a rate means nothing.
    const rate = bufferMs > 0 ? pace.rate : 1;
    if (video.playbackRate !== rate) video.playbackRate = rate;
    state.rate = rate;
  }

  private jump(position: number): void {
    this.state.jumps += 1;
    this.pace.moved();
    this.shownAt = null;
    this.arrivingAt = performance.now();
    this.video.playbackRate = 1;
    this.state.rate = 1;
    this.forgetBefore(position);
    this.video.currentTime = position;
  }

  /** With a hole in the buffer hls.js takes every stall for one and seeks to get over it. */
  private forgetBefore(position: number): void {
    const { buffered } = this.video;
    for (let index = 0; index < buffered.length; index += 1) {
      const [startOffset, endOffset] = [buffered.start(index), buffered.end(index)];
      if (endOffset >= position) break;
      this.hls?.trigger(Hls.Events.BUFFER_FLUSHING, { startOffset, endOffset, type: null });
    }
  }

  private readonly onFrame = (nowMs: number): void => {
    if (this.gone) return;
    const { state, shownAt } = this;
    if (shownAt !== null && nowMs - shownAt > GAP_MS_MIN) {
      state.gaps.push({ unix_ms: Date.now(), ms: Math.round(nowMs - shownAt) });
      if (state.gaps.length > GAPS_KEPT) state.gaps.shift();
    }
    // A page that is not looked at is shown no pictures.
    this.shownAt = document.hidden ? null : nowMs;
    this.video.requestVideoFrameCallback(this.onFrame);
  };

  private readonly onWaiting = (): void => {
    // Before the first picture, and after a jump, waiting is no stall.
    if (this.arrivingAt !== null || this.video.seeking || this.video.paused) return;
    this.state.stalls += 1;
    this.pace.stalled(performance.now());
    this.set("stalled");
  };

  private readonly onPlaying = (): void => {
    this.arrivingAt = null;
    this.set("playing");
  };
  private readonly onSeeking = (): void => {
    this.shownAt = null;
  };
  private readonly onPause = (): void => {
    this.shownAt = null;
    this.set("paused");
  };
  private readonly onEnded = (): void => {
    this.set("ended");
    window.clearTimeout(this.retrying);
    this.retrying = window.setTimeout(() => void this.again(), AGAIN_EVERY_MS);
  };

  private set(doing: Doing): void {
    this.state.doing = doing;
    this.tell();
  }

  private tell(): void {
    this.options.changed?.(this.state);
  }
}

function detailsOf(hls: Hls | null): LevelDetails | null {
  return hls?.latestLevelDetails ?? null;
}

/** How much is there behind the picture shown now. */
function aheadMs(video: HTMLVideoElement): number {
  const { buffered, currentTime } = video;
  for (let index = 0; index < buffered.length; index += 1) {
    if (buffered.start(index) - 0.1 <= currentTime && currentTime < buffered.end(index)) {
      return (buffered.end(index) - currentTime) * 1000;
    }
  }
  return 0;
}

/** A rung's playlist is at …/RUNG/index.m3u8. */
function rungOf(url: string | undefined): string {
  const steps = url?.split(/[?#]/)[0]?.split("/") ?? [];
  return decodeURIComponent(steps.at(-2) ?? "");
}
