// The console: one page that an operator keeps open.

import { render } from "preact";
import { Live } from "./live";
import { App } from "./view/app";
import { applyTheme, storedTheme } from "./view/theme";

applyTheme(storedTheme());

const place = document.getElementById("console") as HTMLElement;
place.replaceChildren();

/** A busy node has many events a second. */
const TOGETHER_MS = 200;

let isDue = false;
const live = new Live(() => {
  if (isDue) return;
  isDue = true;
  // Not by animation frame: a page in the background is to be right when it is looked at again.
  window.setTimeout(() => {
    isDue = false;
    draw();
  }, TOGETHER_MS);
});

function draw(): void {
  render(<App live={live} nowMs={live.nowMs()} />, place);
  const streams = live.status?.sessions.filter((session) => session.name !== "").length;
  const told = live.link.is === "down" ? "no answer" : streams === undefined ? "" : `${streams} live`;
  document.title = told ? `${told} – Tasuki` : "Tasuki";
}

draw();
live.start();
// Ages go on while nobody answers.
window.setInterval(() => {
  if (live.link.is === "down") draw();
}, 1000);
