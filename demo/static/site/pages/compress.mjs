// Compress: an image to a few numbers and back; move a number and watch; how strange is it?

import latentsPart from "../parts/latents.mjs";
import { choice, figure, h, meter, modelPanel, part, pngOf, strip, trouble } from "../dom.mjs";
import { examplesOf } from "../examples.mjs";
import { batch, framedLikeMnist, imageAt, painted, readUpload, withoutBackground } from "../images.mjs";
import { drawingPad, gallery, upload } from "./recognise.mjs";
import { classify, decode, reconstruct } from "../modules/tasks.mjs";
import { percent, say } from "../words.mjs";

const MODEL = "digits-ae", DECODER = "digits-ae.decoder", READER = "digits";
const SOURCES = ["Examples", "Strange things", "Draw", "Upload"];

export async function show(root, { given, note, current, known }) {
  const state = { source: SOURCES.includes(given.get("from")) ? given.get("from") : "Examples", turn: 0 };
  const lead = h("p", {}, say("compress.lead", { count: 32 }));
  const input = h("div", { class: "input" });
  const figures = h("div", { class: "figures" });
  const verdict = h("div");
  const ratio = h("p", { class: "note" });
  const bank = h("div");
  const panel = modelPanel(() => state.image && encode(state.image));
  const sources = choice(say("input"), Object.fromEntries(SOURCES.map((each) => [each, say(`input.${each}`)])), state.source, (source) => {
    state.source = source;
    note({ from: source === "Examples" ? "" : source });
    fill().catch(complain);
  });
  const complain = (error) => verdict.replaceChildren(trouble(error));
  root.append(h("header", { class: "of-heading" }, h("h1", {}, say("compress.title")), lead), h("div", { class: "controls" }, sources),
    h("div", { class: "compress" }, input, h("div", { class: "result" }, figures, verdict, ratio, bank)), panel.element);

  const [model, decoder, examples] = await Promise.all([panel.open(MODEL), panel.open(DECODER), examplesOf(MODEL)]);
  if (!current()) return;
  known(model);
  const count = model.contract.options.latent;
  const threshold = model.contract.options.anomaly_threshold;
  lead.textContent = say("compress.lead", { count });
  const { order, average } = await shape(model, decoder, examples);
  const words = { group: say("compress.numbers", { count }), back: say("compress.back"), average: say("compress.average"), slider: say("compress.slider", { number: "{}" }) };
  const sliders = part("latents", latentsPart, [h("div", { class: "bank" }, h("button", { type: "button", "data-do": "back" }), h("button", { type: "button", "data-do": "average" }), h("div", { class: "sliders", role: "group" }))],
    async (_, { number, image, values }) => {
      try {
        if (image === String(state.turn)) await moved(values);
      } catch (error) {
        complain(error);
      }
      sliders.show({ ...state.bank, answered: number });
    });

  /** Another image: its numbers, and what they make. */
  async function encode(image) {
    const turn = ++state.turn;
    const { image: rebuilt, latent, score } = await reconstruct(model, image);
    if (turn !== state.turn || !current()) return;
    const encoded = Array.from(latent.data, (value) => Number(value.toFixed(4)));
    const reach = Math.max(3, 1.2 * Math.max(...encoded.map(Math.abs)));
    Object.assign(state, { image, rebuilt, latent, score, reach });
    state.bank = { answered: 0, image: String(turn), encoded, values: encoded, average, order, reach, words };
    if (!sliders.host.isConnected) bank.replaceChildren(h("p", {}, h("b", {}, `${words.group}. `), say("compress.numbers.help")), sliders.host);
    sliders.show(state.bank);
    ratio.textContent = say("compress.ratio", { pixels: image.data.length, count, ratio: Number((image.data.length / (4 * count)).toPrecision(3)) });
    asEncoded();
  }

  function asEncoded() {
    const { image, rebuilt, score } = state;
    const pictures = [figure(pngOf(batch(image)), say("compress.image"), say("compress.image")), figure(pngOf(rebuilt), say("compress.rebuilt", { count }), say("compress.rebuilt", { count }))];
    if (String(rebuilt.shape) === `1,${image.height},${image.width},${image.channels}`) {
      const apart = batch({ ...image, data: image.data.map((value, i) => 255 - Math.abs(value - rebuilt.data[i])) });
      pictures.push(figure(pngOf(apart), say("compress.apart"), say("compress.apart")));
    }
    figures.replaceChildren(strip(pictures, say("compress.title")));
    const key = score > threshold ? "compress.odd" : "compress.ordinary";
    verdict.replaceChildren(meter(score, threshold, say("compress.score"), say(key, { score: score.toFixed(4), threshold: threshold.toFixed(4) })));
  }

  /** What the visitor's own numbers make. A slider that was not moved keeps the number that it had. */
  async function moved(values) {
    const { latent, reach, image, rebuilt, turn } = state;
    const clipped = (value) => Math.min(reach, Math.max(-reach, value));
    const mine = Float32Array.from(values, (value, i) => (Math.abs(value - clipped(latent.data[i])) <= (1.01 * reach) / 100 ? latent.data[i] : value));
    if (mine.every((value, i) => value === latent.data[i])) return asEncoded();
    const made = await decode(decoder, mine);
    const own = imageAt(made, 0);
    const { score } = await reconstruct(model, own);
    const reader = await panel.open(READER);
    const { classes } = await classify(reader, own);
    if (turn !== state.turn || !current()) return undefined;
    figures.replaceChildren(strip([figure(pngOf(batch(image)), say("compress.image"), say("compress.image")),
      figure(pngOf(rebuilt), say("compress.rebuilt", { count }), say("compress.rebuilt", { count })), figure(pngOf(made), say("compress.yours"), say("compress.yours"))], say("compress.title")));
    const said = [say(score > threshold ? "compress.yours.odd" : "compress.yours.ordinary", { score: score.toFixed(4) }), say("compress.yours.read", { said: classes[0].label, share: percent(classes[0].probability) })];
    verdict.replaceChildren(meter(score, threshold, say("compress.score"), said.join(" ")));
    return undefined;
  }

  function nothing() {
    state.turn += 1;
    state.image = null;
    figures.replaceChildren();
    bank.replaceChildren();
    ratio.textContent = "";
    verdict.replaceChildren(h("p", { class: "note" }, say("compress.wait")));
  }

  async function fill() {
    nothing();
    if (state.source === "Draw") {
      input.replaceChildren(drawingPad("", async ({ strokes }) => {
        const image = painted(strokes);
        if (image) await encode(framedLikeMnist(image)).catch(complain);
        else nothing();
      }));
    } else if (state.source === "Upload") {
      input.replaceChildren(upload(async (file) => encode(framedLikeMnist(withoutBackground(await readUpload(file, 1)))), nothing));
    } else {
      const strange = state.source === "Strange things";
      const images = strange ? examples.strange : examples.images;
      const names = Array.from({ length: images.shape[0] }, (_, i) => (strange ? say("compress.strange.alt", { number: i + 1 }) : say("compress.digit.alt", { label: examples.labels[i] })));
      const take = (i) => encode(imageAt(images, i)).catch(complain);
      input.replaceChildren(h("p", {}, h("b", {}, say(strange ? "compress.clothes" : "compress.digits"))), gallery(say("compress.gallery"), names.map((_, i) => pngOf(images, i)), names, take));
      await encode(imageAt(images, 0));
    }
  }

  await fill();
}

/** Which numbers change an image most, best first; and those of the average example. */
async function shape(model, decoder, examples) {
  const { latent } = await model.run({ image: examples.images });
  const [rows, count] = latent.shape;
  const column = (j) => Array.from({ length: rows }, (_, i) => latent.data[i * count + j]);
  const means = Array.from({ length: count }, (_, j) => column(j).reduce((a, b) => a + b, 0) / rows);
  const steps = means.map((mean, j) => Math.sqrt(column(j).reduce((sum, value) => sum + (value - mean) ** 2, 0) / rows) + 1e-3);
  const moves = new Float32Array(2 * count * count);
  for (let i = 0; i < 2 * count; i++) for (let j = 0; j < count; j++) moves[i * count + j] = means[j] + (i % count === j ? steps[j] * (i < count ? 1 : -1) : 0);
  const { data } = await decode(decoder, moves);
  const size = data.length / (2 * count);
  const change = means.map((_, j) => {
    let sum = 0;
    for (let i = 0; i < size; i++) sum += Math.abs(data[j * size + i] - data[(count + j) * size + i]);
    return sum;
  });
  return { order: means.map((_, j) => j).sort((a, b) => change[b] - change[a]), average: means.map((value) => Number(value.toFixed(4))) };
}
