// Frames that play, or that a hand moves through.
const FRAME = 80;  // milliseconds

export default function (component) {
  const { parentElement, data } = component;
  const box = parentElement.querySelector(".player");
  const image = box.querySelector("img"), caption = box.querySelector("p"), range = box.querySelector("input");
  const button = box.querySelector("[data-do=play]"), video = box.querySelector("[data-do=video]");
  if (box.shown === data.key) return;
  box.shown = data.key;
  clearInterval(box.timer);
  range.max = data.frames.length - 1;
  range.setAttribute("aria-label", data.words.step);
  const show = (index) => {
    range.value = index;
    image.src = data.frames[index];
    image.alt = data.alts[index];
    caption.textContent = data.captions[index];
  };
  const stop = () => { clearInterval(box.timer); box.timer = 0; button.textContent = data.words.play; };
  let forward = 1;
  const step = () => {
    if (!box.isConnected) { stop(); return; }
    let next = Number(range.value) + forward;
    if (next < 0 || next >= data.frames.length) { forward = -forward; next += 2 * forward; }
    show(next);
  };
  button.onclick = () => {
    if (box.timer) { stop(); return; }
    button.textContent = data.words.pause;
    box.timer = setInterval(step, FRAME);
  };
  range.oninput = () => { stop(); show(Number(range.value)); };
  const last = data.frames.length - 1;
  videoButton(video, data.words, async () => {
    const images = await Promise.all(data.frames.map(async (source) => {
      const each = new Image();
      each.src = source;
      await each.decode();
      return each;
    }));
    await saveVideo(data.file, 2 * last, FRAME, (pen, side, index) => pen.drawImage(images[index <= last ? index : 2 * last - index], 0, 0, side, side));
  });
  stop();
  show(0);
}
