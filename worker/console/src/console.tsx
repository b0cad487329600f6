// The console: one page that an operator keeps open.

import { render } from "preact";
import { Live } from "./live";
import { App } from "./view/app";
import { applyTheme, storedTheme } from "./view/theme";

applyTheme(storedTheme());

const place = document.getElementById("console") as HTMLElement;
place.replaceChildren();

let isDue = false;
const live = new Live(() => {
  if (isDue) return;
  isDue = true;
  // Not by animation frame: a page in the background is to be right when it is looked at again.
  queueMicrotask(() => {
    isDue = false;
    draw();
  });
});

function draw(): void {
  render(<App live={live} nowMs={Date.now()} />, place);
}

draw();
live.start();
// Ages go on while nobody answers.
window.setInterval(draw, 1000);
