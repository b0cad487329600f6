// The bare player: player.html?src=PLAYLIST. `window.player` tells tests how it goes.
//   muted=0      with sound; the browser may want a click first
//   autoplay=0   waits for a click
//   rung=LABEL   shows this rung only
//   target=MS    how far behind the live edge to stay

import { playbackFacts } from "./format";
import { Player, type PlayerState } from "./player.js";

declare global {
  interface Window {
    player?: PlayerState;
  }
}

const query = new URLSearchParams(location.search);
const source = query.get("src");
const video = document.getElementById("video") as HTMLVideoElement;
const facts = document.getElementById("facts") as HTMLElement;

if (!source || !/^(https?:\/\/|\/)/.test(source)) {
  facts.textContent = "There is nothing to play: player.html?src=http://HOST:8935/live/APP/NAME/index.m3u8";
} else {
  video.muted = query.get("muted") !== "0";
  video.autoplay = query.get("autoplay") !== "0";
  const rung = query.get("rung");
  const target = Number(query.get("target"));
  const player = new Player(video, source, {
    ...(rung ? { rung } : {}),
    ...(target >= 100 && target <= 30_000 ? { targetMs: target } : {}),
    changed: (state) => {
      facts.textContent = playbackFacts(state);
    },
  });
  window.player = player.state;
}
