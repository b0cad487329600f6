// How fast a player plays so that it stays a little behind the live edge. Pure: time is an input.
//
// Parts arrive every fifth of a second and the buffer is a saw: what counts is its lowest point of
// the last second. `behind` is that plus one part, which is how old the newest picture is when its
// part arrives, in terms of this stream. Speed follows the error smoothly; a jump is the last resort.

/** Slower than this is heard. */
export const RATE_MIN = 0.97;
export const RATE_MAX = 1.06;
/** Farther behind than this, catching up would take minutes. */
export const JUMP_BEHIND_MS = 3000;

const WINDOW_MS = 1000;
/** Rate per millisecond of error: an error shrinks to a third in five seconds. */
const GAIN = 0.0002;
const DEAD_BAND_MS = 20;
/** A change by less is not worth telling the decoder. */
const STEP = 0.005;
/** How much of the way to the wanted rate is made in one look (ten a second). */
const SMOOTHING = 0.35;
/** A stall says that the target is too near the edge for this network. */
const STALL_EXTRA_MS = 60;
const EXTRA_MAX_MS = 1000;
const EXTRA_HALF_LIFE_MS = 60_000;

export interface Look {
  nowMs: number;
  /** Media that is there after the picture shown now. */
  bufferMs: number;
  /** Where the playlist's newest part ends, from the picture shown now; null if not known. */
  edgeMs: number | null;
  /** The playlist's part target; 0 for one without parts. */
  partMs: number;
}

export interface Pace {
  rate: number;
  behindMs: number;
  targetMs: number;
  /** Go to the live edge at once. */
  jump: boolean;
}

export class RateController {
  private readonly wantedMs: number;
  private looks: { nowMs: number; bufferMs: number }[] = [];
  private smooth = 1;
  private rate = 1;
  private extraMs = 0;
  private extraAtMs = 0;

  constructor(wantedMs: number) {
    this.wantedMs = wantedMs;
  }

  /** What was seen is of another place. */
  moved(): void {
    this.looks = [];
    this.smooth = 1;
    this.rate = 1;
  }

  stalled(nowMs: number): void {
    this.extraMs = Math.min(this.extra(nowMs) + STALL_EXTRA_MS, EXTRA_MAX_MS);
    this.extraAtMs = nowMs;
  }

  targetMs(nowMs: number, partMs: number): number {
    // With fewer pictures a second parts are longer than usual, and so is what must be kept.
    return Math.max(this.wantedMs, 2 * partMs) + this.extra(nowMs);
  }

  look({ nowMs, bufferMs, edgeMs, partMs }: Look): Pace {
    this.looks.push({ nowMs, bufferMs });
    this.looks = this.looks.filter((look) => nowMs - look.nowMs < WINDOW_MS);
    const lowest = Math.min(...this.looks.map((look) => look.bufferMs));
    const behindMs = lowest + partMs;
    const targetMs = this.targetMs(nowMs, partMs);
    const farthest = Math.max(behindMs, edgeMs ?? 0);
    if (farthest > JUMP_BEHIND_MS + targetMs) {
      return { rate: 1, behindMs: farthest, targetMs, jump: true };
    }
    const error = behindMs - targetMs;
    const beyond = Math.sign(error) * Math.max(0, Math.abs(error) - DEAD_BAND_MS);
    const wanted = clamp(1 + beyond * GAIN, RATE_MIN, RATE_MAX);
    this.smooth += (wanted - this.smooth) * SMOOTHING;
    if (wanted === 1 && Math.abs(this.smooth - 1) < STEP / 2) this.smooth = 1;
    if (Math.abs(this.smooth - this.rate) >= STEP || this.smooth === 1) {
      this.rate = Math.round(clamp(Math.round(this.smooth / STEP) * STEP, RATE_MIN, RATE_MAX) * 1000) / 1000;
    }
    return { rate: this.rate, behindMs, targetMs, jump: false };
  }

  private extra(nowMs: number): number {
    const left = this.extraMs * 0.5 ** ((nowMs - this.extraAtMs) / EXTRA_HALF_LIFE_MS);
    return left < 1 ? 0 : left;
  }
}

function clamp(value: number, lowest: number, highest: number): number {
  return Math.min(highest, Math.max(lowest, value));
}
