const SIDE = 336, PENS = [9, 24, 44], STEP = 10, LEAST = 2.5, RESTS = 300, MOST = 60000;
const DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

export default function (component) {
  const { parentElement, data, setStateValue } = component;
  const canvas = parentElement.querySelector("canvas");
  if (!canvas.pad) canvas.pad = start(parentElement, canvas, data);
  const pad = canvas.pad;
  pad.setStateValue = setStateValue;
  pad.words(data.words);
  pad.pace.answered(data.answered);
  if (data.given && data.given !== pad.given) pad.show(data.given);
  if (data.sheet !== pad.sheet) { pad.sheet = data.sheet; pad.show(""); }
}

function read(text) {
  return text.split(".").filter(Boolean).map((part) => {
    const at = (i) => (DIGITS.indexOf(part[i]) * 64 + DIGITS.indexOf(part[i + 1])) / 4;
    const points = [];
    for (let i = 1; i + 3 < part.length; i += 4) points.push([at(i), at(i + 2)]);
    return { width: DIGITS.indexOf(part[0]), points };
  }).filter((stroke) => stroke.points.length);
}

function write(strokes) {
  const digits = (value) => {
    const quarter = Math.min(Math.max(Math.round(value * 4), 0), 4 * SIDE);
    return DIGITS[Math.floor(quarter / 64)] + DIGITS[quarter % 64];
  };
  return strokes.map(({ width, points }) => DIGITS[width] + points.map(([x, y]) => digits(x) + digits(y)).join("")).join(".");
}

function start(root, canvas, data) {
  const pen = canvas.getContext("2d");
  let strokes = read(data.strokes || "");
  let current = null, pointer = null; // the stroke under the hand, and whose hand it is
  let cursor = null, down = false;    // the keyboard's pen
  let kept = null;                    // what was cleared, for Undo
  let width = strokes.length ? strokes[strokes.length - 1].width : PENS[1];
  let resting = true, timer = 0;
  const pad = { setStateValue: null, given: data.given, sheet: data.sheet };
  const dot = root.querySelector("i");

  pad.words = (words) => {
    canvas.setAttribute("aria-label", words.label);
    root.querySelector("#pad-help").textContent = words.help;
    for (const name of ["undo", "clear"]) root.querySelector(`[data-do=${name}]`).textContent = words[name];
    const names = words.pens.split(",");
    root.querySelector("[data-do=pen]").setAttribute("aria-label", `${words.pen}: ${names[Math.max(0, PENS.indexOf(width))]}`);
    pad.said = words;
  };

  function paint(withCursor) {
    pen.fillStyle = "#fff";
    pen.fillRect(0, 0, SIDE, SIDE);
    pen.strokeStyle = "#111";
    pen.lineCap = pen.lineJoin = "round";
    for (const { width, points } of strokes) {
      pen.lineWidth = width;
      pen.beginPath();
      pen.moveTo(...points[0]);
      if (points.length === 1) pen.lineTo(points[0][0] + .01, points[0][1]);
      for (const point of points.slice(1)) pen.lineTo(...point);
      pen.stroke();
    }
    if (withCursor && cursor) {
      pen.lineWidth = 3;
      pen.strokeStyle = down ? "#c2410c" : "#0f6e84";
      pen.beginPath();
      pen.arc(cursor[0], cursor[1], width / 2 + 3, 0, 2 * Math.PI);
      pen.stroke();
    }
    dot.style.width = dot.style.height = `${Math.max(5, width / 2)}px`;
  }

  pad.pace = pacer((number) => pad.setStateValue("drawing", { number, strokes: write(strokes), rests: resting, sheet: pad.sheet }));
  pad.pace.startAfter(data.answered);

  function changed(now = true) {
    paint(cursor !== null);
    resting = !strokes.length;
    pad.pace.changed(now);
    clearTimeout(timer);
    if (!resting) timer = setTimeout(rest, RESTS);
  }
  function rest() {
    if (current) { timer = setTimeout(rest, RESTS); return; }
    resting = true;
    pad.pace.changed(true);
  }
  pad.show = (text) => { pad.given = text; strokes = read(text); kept = current = null; changed(); };
  function undo() {
    if (!strokes.length && kept) { strokes = kept; kept = null; } else strokes.pop();
    current = null; down = false; changed();
  }
  function clear() {
    if (strokes.length) kept = strokes;
    strokes = []; current = null; down = false; changed();
  }

  function place(event) {
    const box = canvas.getBoundingClientRect();
    return [(event.clientX - box.left) * SIDE / box.width, (event.clientY - box.top) * SIDE / box.height];
  }
  function add(point, last) {
    const before = current[current.length - 1];
    if (Math.hypot(point[0] - before[0], point[1] - before[1]) >= (last ? .5 : LEAST)) current.push(point);
  }
  canvas.addEventListener("pointerdown", (event) => {
    // One hand draws: a palm or a second finger beside it is passed over, and a pen takes over from a palm that came first.
    const palm = current && event.pointerType === "pen" && pad.kind !== "pen";
    if (event.button || (current && !palm) || write(strokes).length > MOST - 2000) return;
    if (palm) strokes.pop();
    canvas.setPointerCapture(event.pointerId);
    pointer = event.pointerId;
    pad.kind = event.pointerType;
    cursor = null;
    current = [place(event)];
    strokes.push({ width, points: current });
    changed();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!current || event.pointerId !== pointer) return;
    const moves = event.getCoalescedEvents?.() ?? [];
    for (const each of moves.length ? moves : [event]) add(place(each), false);
    changed(false);
  });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => {
    if (!current || event.pointerId !== pointer) return;
    if (name === "pointerup") add(place(event), true);
    current = pointer = null;
    changed();
  });

  const moves = {
    ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1],
    Home: [-1, -1], PageUp: [1, -1], End: [-1, 1], PageDown: [1, 1], // the corners of a number pad
  };
  canvas.addEventListener("keydown", (event) => {
    const key = event.key;
    if (key in moves) {
      cursor = cursor || [SIDE / 2, SIDE / 2];
      cursor = cursor.map((value, axis) => Math.min(SIDE - 14, Math.max(14, value + STEP * moves[key][axis])));
      if (down) { strokes[strokes.length - 1].points.push([...cursor]); changed(false); } else paint(true);
    } else if (key === " ") {
      cursor = cursor || [SIDE / 2, SIDE / 2];
      down = !down;
      if (down) { strokes.push({ width, points: [[...cursor]] }); changed(); } else paint(true);
    } else if (key === "Backspace" || (key === "z" && (event.ctrlKey || event.metaKey))) undo();
    else if (key === "Delete") clear();
    else return;
    event.preventDefault();
    event.stopPropagation();  // Streamlit has shortcuts of its own
  });
  canvas.addEventListener("blur", () => { down = false; paint(false); });
  root.querySelector("[data-do=undo]").addEventListener("click", undo);
  root.querySelector("[data-do=clear]").addEventListener("click", clear);
  root.querySelector("[data-do=pen]").addEventListener("click", () => {
    width = PENS[(PENS.indexOf(width) + 1) % PENS.length];
    pad.words(pad.said);
    paint(false);
  });
  paint(false);
  if (data.given) setTimeout(rest, 0);  // a drawing that came in the address is read at once
  canvas.dataset.ready = "true";
  return pad;
}
