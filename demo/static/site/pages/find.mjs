// Find: draw, upload or pick an image of several digits; a box around each, and the number that they are.

import catalogue from "../catalogue.mjs";
import manifest from "../manifest.mjs";
import { answer, choice, figure, h, modelPanel, pngOf, trouble } from "../dom.mjs";
import { examplesOf } from "../examples.mjs";
import { batch, imageAt, painted, readUpload, withoutBackground } from "../images.mjs";
import { detect, lines, rgbaFromImage } from "../modules/tasks.mjs";
import { percent, say } from "../words.mjs";
import { drawingPad, gallery, upload } from "./recognise.mjs";

const MODEL = "digit-scenes";
const SOURCES = ["Draw", "Upload", "Examples"];
const SIDE = 160; // pixels of a drawing: digits that fill a third of the pad are as large as those that the network has learnt
const LEAST_SIDE = 480; // pixels of what is shown, so that labels can be read

export async function show(root, { given, note, current, known }) {
  const state = { source: SOURCES.includes(given.get("source")) ? given.get("source") : SOURCES[0], image: null, artifact: null };
  const input = h("div", { class: "input" });
  const said = h("div", { class: "said" });
  const details = h("div");
  const panel = modelPanel(() => ask());
  const size = `${(manifest.files[catalogue.models[MODEL]].bytes / 1e6).toFixed(1)} MB`;
  const sources = choice(say("input"), Object.fromEntries(SOURCES.map((each) => [each, say(`input.${each}`)])), state.source, (chosen) => {
    state.source = chosen;
    note({ source: chosen === SOURCES[0] ? "" : chosen, drawing: "" });
    source().catch((error) => details.replaceChildren(trouble(error)));
  });
  root.append(
    h("header", { class: "of-heading" }, h("h1", {}, say("find.title")), h("p", {}, say("find.lead", { size }))),
    h("div", { class: "controls" }, sources),
    h("div", { class: "recognise" }, h("div", { class: "answer-place" }, said), input, details),
    panel.element,
  );

  async function ask() {
    const { artifact, image } = state;
    if (!image) return invite();
    if (!artifact) return undefined; // it comes when the model is there
    const found = await detect(artifact, image);
    if (state.image !== image || !current()) return undefined;
    const read = lines(found);
    const number = read.map((line) => line.map(({ label }) => label).join("")).join(" / ");
    said.replaceChildren(answer(number || "–", found.length ? say("find.count", { count: found.length }) : say("find.nothing"), found.length > 0));
    const rows = read.flat().map(({ label, score }) => h("li", {}, h("span", { class: "of-name" }, label), track(score), h("span", { class: "of-number" }, percent(score))));
    details.replaceChildren(
      figure(boxed(image, found), say("find.alt", { number: number || "–" })),
      ...(rows.length ? [h("ul", { class: "of-bars of-wide", "aria-label": say("find.scores") }, ...rows)] : []),
      h("p", { class: "note took" }, say("find.took", { took: artifact.took.toFixed(1) })),
    );
    return undefined;
  }

  function invite() {
    said.replaceChildren(answer("?", say(`find.invite.${state.source}`), false));
    details.replaceChildren();
  }

  async function choose(image) {
    state.image = image;
    await ask();
  }

  async function source() {
    state.image = null;
    invite();
    if (state.source === "Draw") {
      input.replaceChildren(drawingPad(given.get("drawing") ?? "", async ({ strokes, rests }) => {
        if (rests) note({ drawing: strokes.length < 4000 ? strokes : "" });
        try {
          await choose(painted(strokes, SIDE));
        } catch (error) {
          details.replaceChildren(trouble(error));
        }
      }));
    } else if (state.source === "Upload") {
      input.replaceChildren(upload(async (file) => choose(withoutBackground(await readUpload(file, 1))), invite));
    } else {
      const { images } = await examplesOf(MODEL);
      if (state.source !== "Examples" || !current()) return;
      const places = Array.from({ length: images.shape[0] }, (_, i) => i);
      const take = (at) => choose(imageAt(images, at)).catch((error) => details.replaceChildren(trouble(error)));
      input.replaceChildren(gallery(say("find.examples"), places.map((i) => pngOf(images, i)), places.map((i) => say("find.example", { number: i + 1 })), take));
      take(0);
    }
  }

  const shown = source();
  const artifact = await panel.open(MODEL);
  if (!current()) return;
  state.artifact = artifact;
  known(artifact);
  await shown;
  await ask();
}

function track(share) {
  const fill = h("span", { class: "of-fill" });
  fill.style.width = `${(100 * share).toFixed(2)}%`;
  return h("span", { class: "of-track" }, fill);
}

/** The image with a frame and a label for each object, as a PNG in a data URL. */
function boxed(image, found) {
  const { rgba, width, height } = rgbaFromImage(batch(image));
  const scale = Math.max(1, Math.ceil(LEAST_SIDE / Math.max(width, height)));
  const source = h("canvas", { width, height });
  source.getContext("2d").putImageData(new ImageData(rgba, width, height), 0, 0);
  const canvas = h("canvas", { width: width * scale, height: height * scale });
  const pen = canvas.getContext("2d");
  pen.imageSmoothingEnabled = false;
  pen.drawImage(source, 0, 0, canvas.width, canvas.height);
  const line = Math.max(1, Math.round(Math.max(canvas.width, canvas.height) / 300));
  const size = 9 * line;
  Object.assign(pen, { lineWidth: line, font: `${size}px system-ui, sans-serif`, textBaseline: "top" });
  for (const { label, box } of found) {
    const [left, top, right, bottom] = [box.left, box.top, box.right, box.bottom].map((edge) => edge * scale);
    pen.strokeStyle = pen.fillStyle = `hsl(${(216 + 222.5 * Number(label)) % 360} 85% 42%)`; // as runtime/images/boxes.py
    pen.strokeRect(left, top, right - left, bottom - top);
    const above = top >= size + 4 ? top - size - 4 : top; // above the corner where there is room
    pen.fillRect(left, above, pen.measureText(label).width + 4, size + 4);
    pen.fillStyle = "#fff";
    pen.fillText(label, left + 2, above + 2);
  }
  return canvas.toDataURL();
}
