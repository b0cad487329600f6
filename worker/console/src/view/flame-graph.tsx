// A heap profile as a flame graph. Boxes are buttons: one tab stop, arrow keys among them, Enter
// brings a box to full width.

import { useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { isSame, kindOf, layOut, neighbour, shortName, spenders, type Box } from "../flame";
import { bytes, percent } from "../format";
import type { Profile } from "../pprof";

const ROW = 19;

export function FlameGraph({ profile }: { profile: Profile }) {
  const [focus, setFocus] = useState<number[]>([]);
  const [here, setHere] = useState<number[]>([]);
  const [wanted, setWanted] = useState("");
  const place = useRef<HTMLDivElement>(null);
  const isMoving = useRef(false);
  const boxes = useMemo(() => layOut(profile.root, focus), [profile, focus]);
  const shown = boxes.find((box) => isSame(box.path, here)) ?? boxes[0];
  const rows = Math.max(...boxes.map((box) => box.depth)) + 1;
  const needle = wanted.trim().toLowerCase();
  const isBytes = profile.unit === "bytes";
  const amount = (value: number) => (isBytes ? bytes(value) : `${value} ${profile.unit}`);

  useLayoutEffect(() => {
    if (!isMoving.current) return;
    isMoving.current = false;
    place.current?.querySelector<HTMLElement>("[tabindex='0']")?.focus();
  });

  const go = (box: Box | null) => {
    if (!box) return;
    isMoving.current = true;
    setHere(box.path);
  };
  const onKey = (event: KeyboardEvent) => {
    if (event.key === "Escape" && focus.length > 0) {
      event.preventDefault();
      event.stopPropagation();
      setFocus([]);
      return;
    }
    if (!event.key.startsWith("Arrow")) return;
    event.preventDefault();
    go(neighbour(boxes, here, event.key));
  };

  return (
    <div class="flame">
      <div class="flame-head">
        <p class="told" aria-live="polite">
          {shown && <><b>{shown.name}</b> holds {amount(shown.total)} ({percent(shown.share * 100)}), itself {amount(shown.self)}{shown.file && <span class="faint"> {shown.file}</span>}</>}
        </p>
        <input type="search" placeholder="find a function" aria-label="Find a function" value={wanted} onInput={(event) => setWanted(event.currentTarget.value)} />
        <button type="button" disabled={focus.length === 0} onClick={() => setFocus([])}>Whole profile</button>
      </div>
      <p class="faint keys">
        <span class="kind-ours">Tasuki</span> <span class="kind-codec">codecs</span> <span class="kind-system">system</span> <span class="kind-rest">others</span>
        {" "}Width is what is held, a caller above what it calls. Arrow keys go from box to box, Enter widens one, Escape goes back.
      </p>
      <div class="boxes" ref={place} style={{ height: `${rows * ROW}px` }} onKeyDown={onKey} role="group" aria-label="Flame graph">
        {boxes.map((box) => {
          const isHere = shown === box;
          const isFound = needle !== "" && box.name.toLowerCase().includes(needle);
          const classes = ["box", box.depth === 0 ? "root" : `kind-${kindOf(box.name, box.file)}`, box.depth < focus.length ? "caller" : "", isFound ? "found" : "", needle && !isFound ? "dim" : ""];
          return (
            <button
              key={box.path.join(".")}
              type="button"
              class={classes.filter(Boolean).join(" ")}
              style={{ left: `${box.left * 100}%`, width: `${box.width * 100}%`, top: `${box.depth * ROW}px` }}
              tabIndex={isHere ? 0 : -1}
              title={`${box.name}\n${amount(box.total)}, ${percent(box.share * 100)}`}
              onClick={() => setFocus(box.path)}
              onFocus={() => setHere(box.path)}
              onPointerEnter={() => setHere(box.path)}
            >
              {box.width > 0.015 ? shortName(box.name, box.file) : ""}
            </button>
          );
        })}
      </div>
    </div>
  );
}

export function Functions({ profile }: { profile: Profile }) {
  const all = useMemo(() => spenders(profile.root, 100), [profile]);
  const whole = profile.root.total || 1;
  return (
    <table class="list">
      <thead><tr><th class="figure">itself</th><th class="figure">share</th><th class="figure">with callees</th><th>function</th></tr></thead>
      <tbody>
        {all.filter((spender) => spender.self > 0).map((spender) => (
          <tr key={spender.name}>
            <td class="figure">{bytes(spender.self)}</td>
            <td class="figure">{percent((spender.self / whole) * 100)}</td>
            <td class="figure">{bytes(spender.total)}</td>
            <td class="mono breaks">{spender.name}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}
