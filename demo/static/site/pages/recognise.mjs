// Recognise: draw, upload or pick an image; what the model says of it.

import catalogue from "../catalogue.mjs";
import manifest from "../manifest.mjs";
import canvasPart from "../parts/canvas.mjs";
import galleryPart from "../parts/gallery.mjs";
import { answer, bars, choice, figure, h, modelPanel, part, pngOf, trouble } from "../dom.mjs";
import { batch, figures, imageAt, painted, readUpload, withoutBackground } from "../images.mjs";
import { examplesOf } from "../examples.mjs";
import { classify } from "../modules/tasks.mjs";
import { percent, say } from "../words.mjs";

const SURE = 0.6; // below it the answer is shown as a guess
const SOURCES = { digits: ["Draw", "Upload", "Examples", "Mistakes"], fashion: ["Examples", "Upload", "Mistakes"] };

export async function show(root, { given, note, current, known }) {
  const state = { model: given.get("model") === "fashion" ? "fashion" : "digits", source: given.get("source"), image: null, artifact: null };
  const heading = h("p");
  const input = h("div", { class: "input" });
  const said = h("div", { class: "said" });
  const details = h("div");
  const panel = modelPanel(() => ask());
  const sources = h("div");
  const models = choice(say("model"), { digits: say("model.digits"), fashion: say("model.fashion") }, state.model, (model) => {
    Object.assign(state, { model, source: null });
    note({ model: model === "digits" ? "" : model, source: "", drawing: "" });
    start();
  });
  root.append(
    h("header", { class: "of-heading" }, h("h1", {}, say("recognise.title")), heading),
    h("div", { class: "controls" }, models, sources),
    h("div", { class: "recognise" }, h("div", { class: "answer-place" }, said), input, details),
    panel.element,
  );

  /** The answer to state.image. Milliseconds are counted from `since`, when the hand moved. */
  async function ask(since = performance.now()) {
    const { artifact, image, model, truth } = state;
    if (!image) return invite();
    const count = model === "digits" && !truth ? figures(image) : 1;
    if (count !== 1) {
      said.replaceChildren(answer("–", count ? say("recognise.several", { count }) : say("recognise.nothing"), false));
      return details.replaceChildren();
    }
    if (!artifact) return undefined; // it comes when the model is there
    const { classes, known: ofItsClasses, outputs } = await classify(artifact, image);
    if (state.artifact !== artifact || state.image !== image || !current()) return undefined;
    const [{ label, probability }] = classes;
    const strange = !ofItsClasses && !truth && state.rests; // half a figure is of no class yet
    const share = percent(probability);
    const words = strange ? say("recognise.none", { label })
      : truth ? say(truth === label ? "recognise.right" : "recognise.wrong", { share, truth })
      : say(probability >= SURE ? "recognise.sure" : "recognise.guess", { share });
    said.replaceChildren(answer(strange ? "?" : label, words, probability >= SURE && !strange));
    const took = { took: (performance.now() - since).toFixed(1), network: artifact.took.toFixed(1) };
    details.replaceChildren(
      bars(artifact.contract.labels, Array.from(outputs.probabilities.data), say("recognise.bars")),
      h("p", { class: "note took" }, say(state.source === "Draw" ? "static.took" : "static.took.image", took)),
      ...(state.shown ?? []),
    );
    return undefined;
  }

  function invite() {
    said.replaceChildren(answer("?", say(`recognise.invite.${state.source}`), false));
    details.replaceChildren();
  }

  function choose(image, { truth = "", rests = true, shown = [] } = {}) {
    Object.assign(state, { image, truth, rests, shown });
  }

  async function source() {
    choose(null);
    invite();
    if (state.source === "Draw") {
      const pad = drawingPad(given.get("drawing") ?? "", async ({ strokes, rests }) => {
        const since = performance.now();
        choose(painted(strokes), { rests });
        if (rests) note({ drawing: strokes.length < 4000 ? strokes : "" });
        try {
          await ask(since);
        } catch (error) {
          details.replaceChildren(trouble(error));
        }
      });
      input.replaceChildren(pad);
    } else if (state.source === "Upload") {
      input.replaceChildren(upload(async (file) => {
        const artifact = await panel.open(state.model);
        const before = await readUpload(file, artifact.contract.options.channels);
        const image = state.model === "digits" ? withoutBackground(before) : before;
        const pictures = [figure(pngOf(batch(before)), say("recognise.given.alt"), say("recognise.given"))];
        if (image !== before) pictures.push(figure(pngOf(batch(image)), say("recognise.cleaned.alt"), say("recognise.cleaned")));
        choose(image, { shown: [h("div", { class: "of-strip small" }, ...pictures)] });
        await ask();
      }, invite));
    } else {
      await pick();
    }
  }

  async function pick() {
    const { model, source: from } = state;
    const [examples, artifact] = await Promise.all([examplesOf(model), panel.open(model)]);
    if (state.source !== from || state.model !== model || !current()) return;
    const wrong = from === "Mistakes";
    const { labels } = artifact.contract;
    const places = examples.labels.flatMap((label, i) => ((examples.predicted[i] !== label) === wrong ? [i] : []));
    if (!places.length) return;
    const truths = places.map((i) => labels[examples.labels[i]]);
    const names = places.map((i, at) => (wrong ? say("recognise.read as", { truth: truths[at], said: labels[examples.predicted[i]] }) : truths[at]));
    const title = say(wrong ? "recognise.mistakes" : "recognise.examples");
    const take = (at) => {
      choose(imageAt(examples.images, places[at]), { truth: truths[at] });
      ask().catch((error) => details.replaceChildren(trouble(error)));
    };
    input.replaceChildren(h("p", {}, h("b", {}, title)), gallery(title, places.map((i) => pngOf(examples.images, i)), names, take));
    take(0);
  }

  async function start() {
    const { model } = state;
    if (!SOURCES[model].includes(state.source)) [state.source] = SOURCES[model];
    heading.textContent = model === "digits" ? say("recognise.lead", { size: `${(manifest.files[catalogue.models.digits].bytes / 1e6).toFixed(1)} MB` }) : say("recognise.lead.fashion");
    const names = Object.fromEntries(SOURCES[model].map((each) => [each, say(`input.${each}`)]));
    sources.replaceChildren(choice(say("input"), names, state.source, (chosen) => {
      state.source = chosen;
      note({ source: chosen === SOURCES[model][0] ? "" : chosen, drawing: "" });
      source().catch((error) => details.replaceChildren(trouble(error)));
    }));
    state.artifact = null;
    const shown = source();
    const artifact = await panel.open(model);
    if (state.model !== model || !current()) return;
    state.artifact = artifact;
    known(artifact);
    await shown;
    await ask();
  }

  await start();
}

/** The drawing pad. heard: what is drawn, at each change, as { strokes, rests }. */
export function drawingPad(drawing, heard) {
  const html = [h("div", { class: "pad" },
    h("canvas", { width: 336, height: 336, tabindex: 0, role: "application", "aria-describedby": "pad-help" }),
    h("div", { class: "tools" }, ...["undo", "clear", "pen"].map((each) => h("button", { type: "button", "data-do": each }, each === "pen" ? h("i") : null))),
    h("p", { id: "pad-help" }))];
  const words = Object.fromEntries(["label", "help", "undo", "clear", "pen", "pens"].map((name) => [name, say(`pad.${name}`)]));
  const pad = part("canvas", canvasPart, html, async (_, state) => {
    await heard(state);
    pad.show({ answered: state.number, words });
  });
  pad.show({ answered: 0, strokes: drawing, given: drawing, words });
  return pad.host;
}

/** Images as buttons, the first one pressed. taken: called with the position of the one that is chosen. */
export function gallery(label, sources, names, taken) {
  const images = sources.map((source, i) => ({ source, name: names[i] }));
  const made = part("gallery", galleryPart, [h("div", { class: "gallery", role: "group" })], (_, chosen) => {
    made.show({ label, key: "one", chosen, images });
    taken(chosen);
  });
  made.show({ label, key: "one", chosen: 0, images });
  return made.host;
}

/** A place for an image file: chosen, dropped or pasted. taken: called with it; what it throws is shown. cleared: called before. */
export function upload(taken, cleared) {
  const said = h("div");
  const take = async (file) => {
    if (!file) return;
    said.replaceChildren();
    try {
      await taken(file);
    } catch (error) {
      cleared();
      said.replaceChildren(trouble(error));
      if (error.key?.endsWith("image")) said.querySelector("button").remove(); // loading again would not help
    }
  };
  const input = h("input", { type: "file", accept: "image/*", onchange: () => take(input.files[0]) });
  const element = h("div", { class: "upload", tabindex: 0,
    ondragover: (event) => event.preventDefault(),
    ondrop: (event) => { event.preventDefault(); take(event.dataTransfer.files[0]); },
    onpaste: (event) => take(event.clipboardData.files[0]),
  }, h("label", { class: "button" }, input, say("static.choose")), h("span", {}, ` ${say("static.drop")}`), said);
  return element;
}
