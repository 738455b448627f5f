// A triangle with an image at each of its points. A dot is moved over it by mouse, touch or arrow keys, or moves by itself.
const FRAME = 50, EDGE = 26;  // milliseconds; pixels around the triangle

export default function (component) {
  const { parentElement, data, setStateValue } = component;
  const box = parentElement.querySelector(".plane");
  if (!box.plane) box.plane = start(box);
  box.plane.setStateValue = setStateValue;
  box.plane.take(data);
}

function start(box) {
  const field = box.querySelector(".field"), image = box.querySelector(".image"), caption = box.querySelector("p");
  const play = box.querySelector("[data-do=play]"), video = box.querySelector("[data-do=video]");
  const plane = { data: null, at: -1, timer: 0, sheet: null };
  const side = 320, height = side * Math.sqrt(3) / 2;
  field.width = side + 2 * EDGE;
  field.height = Math.round(height) + 2 * EDGE;
  image.width = image.height = 448;

  const position = (row, place) => row * (row + 1) / 2 + place;
  const grid = (at) => { const row = Math.floor((Math.sqrt(8 * at + 1) - 1) / 2); return [row, at - row * (row + 1) / 2]; };
  const point = (at) => {
    const [row, place] = grid(at), step = 1 / plane.data.steps;
    return [EDGE + side / 2 + (place - row / 2) * step * side, EDGE + row * step * height];
  };
  const nearest = (x, y) => {
    const row = Math.min(plane.data.steps, Math.max(0, Math.round((y - EDGE) / height * plane.data.steps)));
    const place = Math.round((x - EDGE - side / 2) / side * plane.data.steps + row / 2);
    return position(row, Math.min(row, Math.max(0, place)));
  };
  const tile = (pen, at, x, y, width) => {
    const { size, columns } = plane.data;
    pen.drawImage(plane.sheet, (at % columns) * size, Math.floor(at / columns) * size, size, size, x, y, width, width);
  };

  function show(at) {
    plane.at = at;
    const { steps, captions, words } = plane.data;
    const pen = image.getContext("2d");
    pen.imageSmoothingEnabled = false;
    tile(pen, at, 0, 0, image.width);
    caption.textContent = captions[at];
    image.setAttribute("aria-label", captions[at] || words.step.replace("{}", at + 1));
    field.setAttribute("aria-valuenow", at + 1);
    field.setAttribute("aria-valuetext", captions[at] || words.step.replace("{}", at + 1));
    const paint = field.getContext("2d");
    paint.clearRect(0, 0, field.width, field.height);
    paint.imageSmoothingEnabled = false;
    for (let each = 0; each < captions.length; each++) {
      const [row, place] = grid(each);
      if (row % 2 || place % 2) continue;
      const [x, y] = point(each), width = 2 * side / steps - 3;
      tile(paint, each, x - width / 2, y - width / 2, width);
    }
    const [x, y] = point(at);
    paint.lineWidth = 3;
    for (const [colour, radius] of [["#fff", 11], ["#c2410c", 8]]) {
      paint.beginPath();
      paint.arc(x, y, radius, 0, 2 * Math.PI);
      paint.fillStyle = colour;
      paint.fill();
    }
  }
  const outline = () => {
    const steps = plane.data.steps, way = [];
    for (let row = 0; row < steps; row++) way.push(position(row, 0));
    for (let place = 0; place < steps; place++) way.push(position(steps, place));
    for (let row = steps; row > 0; row--) way.push(position(row, row));
    return way;
  };
  const stop = () => { clearInterval(plane.timer); plane.timer = 0; if (plane.data) play.textContent = plane.data.words.play; };
  const left = () => plane.setStateValue("at", plane.at);

  plane.take = (data) => {
    const other = plane.data?.key !== data.key;
    plane.data = data;
    play.textContent = plane.timer ? data.words.pause : data.words.play;
    field.setAttribute("aria-label", data.words.field);
    field.setAttribute("aria-valuemin", 1);
    if (plane.at < 0) {  // until the images are decoded
      field.setAttribute("aria-valuenow", data.at + 1);
      image.setAttribute("aria-label", data.captions[data.at] || data.words.step.replace("{}", data.at + 1));
    }
    field.setAttribute("aria-valuemax", data.captions.length);
    videoButton(video, data.words, () => {
      const way = outline();
      return saveVideo(data.file, way.length, FRAME, (pen, width, index) => tile(pen, way[index], 0, 0, width));
    });
    if (!other) return;
    const sheet = new Image();
    sheet.onload = () => {
      if (plane.data.key !== data.key) return;
      plane.sheet = sheet;
      show(plane.at < 0 ? data.at : Math.min(plane.at, data.captions.length - 1));
      field.dataset.ready = "true";
    };
    sheet.src = data.sprite;
  };
  const follow = (event) => {
    const room = field.getBoundingClientRect();
    show(nearest((event.clientX - room.left) * field.width / room.width, (event.clientY - room.top) * field.height / room.height));
  };
  let held = false;
  field.addEventListener("pointerdown", (event) => { if (!plane.sheet) return; stop(); held = true; field.setPointerCapture(event.pointerId); follow(event); });
  field.addEventListener("pointermove", (event) => { if (held) follow(event); });
  for (const name of ["pointerup", "pointercancel"]) field.addEventListener(name, () => { if (held) left(); held = false; });
  field.addEventListener("keydown", (event) => {
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], Home: [-99, 0], End: [99, 0] };
    if (!(event.key in moves) || !plane.sheet) return;
    stop();
    const [row, place] = grid(plane.at), [down, across] = moves[event.key];
    const next = Math.min(plane.data.steps, Math.max(0, row + down));
    show(position(next, Math.min(next, Math.max(0, place + across))));
    event.preventDefault();
    event.stopPropagation();
  });
  field.addEventListener("keyup", (event) => { if (event.key.startsWith("Arrow")) left(); });
  play.addEventListener("click", () => {
    if (plane.timer) { stop(); left(); return; }
    if (!plane.sheet) return;
    const way = outline();
    let step = Math.max(0, way.indexOf(plane.at));
    play.textContent = plane.data.words.pause;
    plane.timer = setInterval(() => {
      if (!box.isConnected) { stop(); return; }
      show(way[step++ % way.length]);
    }, FRAME);
  });
  return plane;
}
