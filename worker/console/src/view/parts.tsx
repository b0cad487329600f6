// Small pieces that many places use.

import type { ComponentChildren } from "preact";

export type Tone = "plain" | "good" | "warn" | "bad" | "quiet";

export function Chip({ tone = "plain", title, children }: { tone?: Tone; title?: string | undefined; children: ComponentChildren }) {
  return <span class={`chip ${tone}`} title={title}>{children}</span>;
}

export function toneOfState(state: string): Tone {
  if (/^(stuck|failed|stopped|crashed|ended|evacuate)/.test(state)) return "bad";
  if (/^(backoff|quarantine|dropped|left|ending|kept|held back|recycle$)/.test(state)) return "warn";
  if (/^(serving|live|packaging|recording|encoding|passing|done)/.test(state)) return "good";
  if (/^(off|idle|standby|lobby)/.test(state)) return "quiet";
  return "plain";
}

interface ChoiceProps<T extends string | number> {
  legend: string;
  value: T;
  options: { value: T; label: string }[];
  choose: (value: T) => void;
}

/** One of a few, side by side. */
export function Choice<T extends string | number>({ legend, value, options, choose }: ChoiceProps<T>) {
  return (
    <fieldset class="choice">
      <legend class="unseen">{legend}</legend>
      {options.map((option) => (
        <label key={option.value}>
          <input type="radio" name={legend} checked={option.value === value} onChange={() => choose(option.value)} />
          <span>{option.label}</span>
        </label>
      ))}
    </fieldset>
  );
}

export function Empty({ children }: { children: ComponentChildren }) {
  return <p class="panel empty">{children}</p>;
}
