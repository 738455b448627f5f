// Imagine: images out of noise, by class and seed; and one that changes into another.

import playerPart from "../parts/player.mjs";
import { choice, field, figure, grid, h, linked, modelPanel, part, pngOf, strip, trouble, whole } from "../dom.mjs";
import { Pcg64 } from "../modules/random.mjs";
import { imagesFromNoise, sample } from "../modules/tasks.mjs";
import { percent, say } from "../words.mjs";

const READERS = { "digits-gan": "digits", "fashion-gan": "fashion" };
const STEPS = 25; // of the walk
const SHOWN = 9; // of them in a row
const MOST_SEED = 2 ** 31 - 1;

export async function show(root, { given, note, current, known }) {
  const state = { maker: given.get("maker") === "fashion-gan" ? "fashion-gan" : "digits-gan", view: given.get("view") === "walk" ? "walk" : "grid" };
  const place = h("div");
  const panel = modelPanel(() => view());
  const makers = choice(say("model"), { "digits-gan": say("model.digits-gan"), "fashion-gan": say("model.fashion-gan") }, state.maker, (maker) => {
    state.maker = maker;
    note({ maker: maker === "digits-gan" ? "" : maker, class: "" });
    view();
  });
  const views = choice(say("imagine.view"), { grid: say("imagine.view.grid"), walk: say("imagine.view.walk") }, state.view, (chosen) => {
    state.view = chosen;
    note({ view: chosen === "grid" ? "" : chosen });
    view();
  });
  root.append(h("header", { class: "of-heading" }, h("h1", {}, say("imagine.title")), h("p", {}, say("imagine.lead"))),
    h("div", { class: "controls" }, makers, views), place, panel.element);
  const whichever = (name, otherwise) => (/^\d{1,10}$/.test(given.get(name) ?? "") ? Math.min(MOST_SEED, Number(given.get(name))) : otherwise);
  const seeds = { from_seed: whichever("from_seed", 0), walk_from: whichever("walk_from", 1), walk_to: whichever("walk_to", 2), count: Math.min(100, Math.max(1, whichever("count", 16))) };

  async function view() {
    try {
      const { maker, view: chosen } = state;
      const artifact = await panel.open(maker);
      known(artifact);
      const reader = await panel.open(READERS[maker]);
      if (state.maker !== maker || state.view !== chosen || !current()) return;
      const made = chosen === "grid" ? gridView(artifact, reader) : walkView(artifact, reader);
      place.replaceChildren(made.element);
      await made.make();
    } catch (error) {
      place.replaceChildren(trouble(error));
    }
  }

  /** Runs `work` at every change, the newest last; what is older is not begun. */
  function latest(work) {
    let busy = false, again = false;
    return async () => {
      again = true;
      if (busy) return;
      busy = true;
      try {
        while (again) {
          again = false;
          await work();
        }
      } catch (error) {
        place.replaceChildren(trouble(error));
      } finally {
        busy = false;
      }
    };
  }

  async function read(reader, images) {
    const { probabilities } = await reader.run({ image: { dtype: "uint8", shape: images.shape, data: images.data } });
    const count = probabilities.shape[1];
    return Array.from({ length: images.shape[0] }, (_, i) => {
      const shares = probabilities.data.subarray(i * count, (i + 1) * count);
      const best = shares.indexOf(Math.max(...shares));
      return { label: reader.contract.labels[best], share: shares[best] };
    });
  }

  const classes = (artifact, first) => {
    const { labels } = artifact.contract;
    const select = h("select", {}, ...(first ? [h("option", { value: "" }, first)] : []), ...labels.map((label) => h("option", { value: label }, label)));
    if (labels.includes(given.get("class"))) select.value = given.get("class");
    return select;
  };

  function gridView(artifact, reader) {
    const { labels } = artifact.contract;
    const images = h("div", { class: "made" });
    const took = h("p", { class: "note took" });
    const make = latest(async () => {
      const count = (seeds.count = whole(many.input)), from = (seeds.from_seed = whole(seed.input));
      note({ from_seed: from ? String(from) : "", count: count === 16 ? "" : String(count), class: select.value });
      const wanted = select.value ? [labels.indexOf(select.value)] : labels.map((_, i) => i);
      const started = performance.now();
      const made = await sample(artifact, count, wanted, from);
      const network = artifact.took;
      const readings = await read(reader, made);
      const figures = readings.map(({ label: said }, i) => {
        const label = labels[wanted[i % wanted.length]];
        const right = said === label;
        return figure(pngOf(made, i), say("imagine.made.alt", { label }), right ? label : say("imagine.read as", { label, said }), right ? "plain" : "wrong");
      });
      images.replaceChildren(grid(figures, 96, say("imagine.made")));
      took.textContent = say("static.took.image", { took: (performance.now() - started).toFixed(0), network: network.toFixed(0) });
    });
    const select = classes(artifact, say("imagine.every"));
    select.onchange = make;
    const many = field(say("imagine.count"), { type: "number", min: 1, max: 100, step: 1, value: seeds.count }, make);
    const seed = field(say("imagine.seed"), { type: "number", min: 0, max: MOST_SEED, step: 1, value: seeds.from_seed }, make);
    const another = h("button", { type: "button", onclick: () => { seed.input.value = (whole(seed.input) + 1) % (MOST_SEED + 1); make(); } }, say("imagine.another"));
    const controls = h("div", { class: "fields" }, h("label", { class: "field" }, h("span", {}, say("imagine.class")), select), many.element, seed.element, another);
    return { element: h("div", {}, controls, images, took), make };
  }

  function walkView(artifact, reader) {
    const { labels, options } = artifact.contract;
    const player = part("player", playerPart, [h("div", { class: "player" }, h("img", { alt: "" }), h("p"),
      h("div", {}, h("button", { type: "button", "data-do": "play" }), h("input", { type: "range", min: 0, step: 1 })),
      h("div", {}, h("button", { type: "button", "data-do": "video" })))], () => {});
    const way = h("div");
    const took = h("p", { class: "note took" });
    const make = latest(async () => {
      const [first, last] = [whole(from.input), whole(to.input)];
      Object.assign(seeds, { walk_from: first, walk_to: last });
      note({ walk_from: first === 1 ? "" : String(first), walk_to: last === 2 ? "" : String(last), class: select.value === labels[0] ? "" : select.value });
      const label = select.value;
      const started = performance.now();
      const ends = [first, last].map((seed) => new Pcg64(seed).normal(options.noise));
      const made = await imagesFromNoise(artifact, greatCircle(ends[0], ends[1], STEPS), new Array(STEPS).fill(labels.indexOf(label)));
      const network = artifact.took;
      const readings = await read(reader, made);
      const frames = readings.map((_, i) => pngOf(made, i));
      const alts = frames.map((_, step) => say("imagine.step.alt", { label, step, last: STEPS - 1 }));
      const captions = readings.map(({ label: said, share }) => say("imagine.read", { said, share: percent(share) }));
      player.show({ key: frames.join(), frames, alts, captions, file: `${state.maker}-${label}-${first}-${last}`,
        words: { play: say("imagine.play"), pause: say("imagine.pause"), step: say("imagine.step"), video: say("imagine.video"), recording: say("imagine.recording") } });
      const stops = Array.from({ length: SHOWN }, (_, i) => Math.round((i * (STEPS - 1)) / (SHOWN - 1)));
      way.replaceChildren(strip(stops.map((step) => figure(frames[step], say("imagine.way.alt", { label, step }))), say("imagine.way")));
      took.textContent = say("static.took.image", { took: (performance.now() - started).toFixed(0), network: network.toFixed(0) });
    });
    const from = field(say("imagine.from"), { type: "number", min: 0, max: MOST_SEED, step: 1, value: seeds.walk_from }, make);
    const to = field(say("imagine.to"), { type: "number", min: 0, max: MOST_SEED, step: 1, value: seeds.walk_to }, make);
    const select = classes(artifact, "");
    select.onchange = make;
    const controls = h("div", { class: "fields" }, from.element, to.element, h("label", { class: "field" }, h("span", {}, say("imagine.walk class")), select));
    const words = h("p", { class: "note" }, linked(say("imagine.walk.words")));
    return { element: h("div", {}, controls, h("div", { class: "walk" }, player.host, h("div", {}, way, words, took))), make };
  }

  await view();
}

/** Points from one noise to another, both included, at equal angles: Float32Array (count × n). Source: White 2016, arXiv 1609.04468. */
export function greatCircle(first, last, count) {
  const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);
  const [a, b] = [Array.from(first), Array.from(last)];
  const angle = Math.acos(Math.min(1, Math.max(-1, dot(a, b) / Math.max(Math.sqrt(dot(a, a)) * Math.sqrt(dot(b, b)), 1e-12))));
  const straight = Math.sin(angle) < 1e-6; // nearly the same direction: the circle is a line
  const points = new Float32Array(count * a.length);
  for (let i = 0; i < count; i++) {
    const share = i / (count - 1);
    const [one, other] = straight ? [1 - share, share] : [Math.sin((1 - share) * angle), Math.sin(share * angle)].map((part) => part / Math.sin(angle));
    for (let j = 0; j < a.length; j++) points[i * a.length + j] = one * a[j] + other * b[j];
  }
  return points;
}
