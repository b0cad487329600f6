// Notes what a page's <video> presents: for each picture when it is shown, its place in the media,
// the browser's own count, the frame number that is burnt into it (see picture.rs), if asked to, and
// how much media was there from its place on. `window.shown` holds it all.
(() => {
  const shown = { pictures: [], events: [], readsNumbers: false };
  window.shown = shown;
  const COLUMNS = 16, CELLS = 32, BITS = 20, SIDE = 8;
  const canvas = document.createElement("canvas");
  canvas.width = COLUMNS * SIDE;
  canvas.height = 2 * SIDE;
  const context = canvas.getContext("2d", { willReadFrequently: true });

  const crc8 = (number) => {
    let crc = 0xa5;
    for (const byte of [(number >> 16) & 255, (number >> 8) & 255, number & 255]) {
      crc ^= byte;
      for (let bit = 0; bit < 8; bit += 1) crc = crc & 0x80 ? ((crc << 1) ^ 0x07) & 255 : crc << 1;
    }
    return crc;
  };

  // The band is the upper two of nine rows of cells.
  const read = (video) => {
    const { videoWidth: width, videoHeight: height } = video;
    context.drawImage(video, 0, 0, width, (height * 2) / 9, 0, 0, canvas.width, canvas.height);
    const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
    const levels = [];
    for (let cell = 0; cell < CELLS; cell += 1) {
      const left = (cell % COLUMNS) * SIDE, top = Math.floor(cell / COLUMNS) * SIDE;
      let sum = 0;
      for (let y = 2; y < 6; y += 1) {
        for (let x = 2; x < 6; x += 1) sum += pixels[((top + y) * canvas.width + left + x) * 4 + 1];
      }
      levels.push(sum / 16);
    }
    const white = (levels[0] + levels[CELLS - 1]) / 2, black = (levels[1] + levels[CELLS - 2]) / 2;
    if (white < black + 60) return null;
    const bits = levels.map((level) => (level > (white + black) / 2 ? 1 : 0));
    const number = bits.slice(2, 2 + BITS).reduce((sum, bit) => sum * 2 + bit, 0);
    const crc = bits.slice(2 + BITS, CELLS - 2).reduce((sum, bit) => sum * 2 + bit, 0);
    return crc === crc8(number) ? number : null;
  };

  const watch = (video) => {
    const note = (_now, about) => {
      const number = shown.readsNumbers ? read(video) : null;
      const { buffered } = video;
      const end = buffered.length > 0 ? buffered.end(buffered.length - 1) : 0;
      shown.pictures.push([
        performance.timeOrigin + about.expectedDisplayTime,
        about.mediaTime * 1000,
        about.presentedFrames,
        number,
        (end - about.mediaTime) * 1000,
      ]);
      video.requestVideoFrameCallback(note);
    };
    video.requestVideoFrameCallback(note);
    for (const name of ["waiting", "stalled", "error", "emptied", "ended"]) {
      video.addEventListener(name, () => {
        shown.events.push([performance.timeOrigin + performance.now(), name]);
      });
    }
  };
  const look = () => {
    const video = document.querySelector("video");
    if (video) watch(video);
    else setTimeout(look, 5);
  };
  look();
})();
