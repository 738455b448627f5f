const SIDE = 336, SENT = 56, PEN = 26, STEP = 10;

export default function (component) {
  const { parentElement, data, setStateValue } = component;
  const canvas = parentElement.querySelector("canvas");
  if (!canvas.pad) canvas.pad = start(parentElement, canvas, data);
  canvas.pad.setStateValue = setStateValue;
  canvas.pad.pace.answered(data.answered);
}

function start(root, canvas, data) {
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  const small = document.createElement("canvas");
  small.width = small.height = SENT;
  const smallPen = small.getContext("2d", { willReadFrequently: true });
  smallPen.imageSmoothingQuality = "high";
  const strokes = (data.strokes || []).map((stroke) => stroke.map(([x, y]) => [x, y]));
  let current = null;             // the stroke under the hand
  let cursor = null, down = false; // the keyboard's pen
  const pad = { setStateValue: null };

  function paint(withCursor) {
    pen.fillStyle = "#fff";
    pen.fillRect(0, 0, SIDE, SIDE);
    pen.strokeStyle = pen.fillStyle = "#111";
    pen.lineWidth = PEN;
    pen.lineCap = pen.lineJoin = "round";
    for (const stroke of strokes) {
      pen.beginPath();
      pen.moveTo(...stroke[0]);
      if (stroke.length === 1) pen.lineTo(stroke[0][0] + .01, stroke[0][1]);
      for (const point of stroke.slice(1)) pen.lineTo(...point);
      pen.stroke();
    }
    if (withCursor && cursor) {
      pen.lineWidth = 3;
      pen.strokeStyle = down ? "#c2410c" : "#0f6e84";
      pen.beginPath();
      pen.arc(cursor[0], cursor[1], PEN / 2 + 3, 0, 2 * Math.PI);
      pen.stroke();
    }
  }

  function pixels() {
    paint(false);
    smallPen.drawImage(canvas, 0, 0, SENT, SENT);
    const rgba = smallPen.getImageData(0, 0, SENT, SENT).data;
    let text = "";
    for (let i = 0; i < rgba.length; i += 4) text += String.fromCharCode(rgba[i]);
    paint(document.activeElement === canvas || root.activeElement === canvas);
    return btoa(text);
  }

  pad.pace = pacer((number) => {
    const rounded = strokes.map((stroke) => stroke.map(([x, y]) => [Math.round(x), Math.round(y)]));
    pad.setStateValue("drawing", { number, side: SENT, pixels: strokes.length ? pixels() : "", strokes: rounded });
  });
  pad.pace.startAfter(data.answered);

  function changed() { paint(cursor !== null); pad.pace.changed(); }
  function undo() { strokes.pop(); current = null; down = false; changed(); }
  function clear() { strokes.length = 0; current = null; down = false; changed(); }

  function place(event) {
    const box = canvas.getBoundingClientRect();
    return [(event.clientX - box.left) * SIDE / box.width, (event.clientY - box.top) * SIDE / box.height];
  }
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    canvas.setPointerCapture(event.pointerId);
    cursor = null;
    current = [place(event)];
    strokes.push(current);
    changed();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!current) return;
    for (const each of event.getCoalescedEvents?.() ?? [event]) current.push(place(each));
    current.push(place(event));
    changed();
  });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => { if (current) { current = null; changed(); } });

  const moves = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };
  canvas.addEventListener("keydown", (event) => {
    const key = event.key;
    if (key in moves) {
      cursor = cursor || [SIDE / 2, SIDE / 2];
      cursor = cursor.map((value, axis) => Math.min(SIDE - 14, Math.max(14, value + moves[key][axis])));
      if (down) { strokes[strokes.length - 1].push([...cursor]); changed(); } else paint(true);
    } else if (key === " ") {
      cursor = cursor || [SIDE / 2, SIDE / 2];
      down = !down;
      if (down) { strokes.push([[...cursor]]); changed(); } else paint(true);
    } else if (key === "Backspace" || (key === "z" && (event.ctrlKey || event.metaKey))) undo();
    else if (key === "Delete") clear();
    else return;
    event.preventDefault();
    event.stopPropagation();  // Streamlit has shortcuts of its own
  });
  canvas.addEventListener("blur", () => { down = false; paint(false); });
  root.querySelector("[data-do=undo]").addEventListener("click", undo);
  root.querySelector("[data-do=clear]").addEventListener("click", clear);
  paint(false);
  canvas.dataset.ready = "true";
  return pad;
}
