// {{NAME}} in the browser: verifies the model on this machine, then shows what it is for.

import * as ort from "./ort/ort.wasm.min.mjs";

import { fromJson, openArtifact, toJson } from "./artifact.mjs";
import * as tasks from "./tasks.mjs";

const BYTES = {{BYTES}};
const SHA256 = "{{SHA256}}";

const state = document.getElementById("state");
const form = document.getElementById("form");
const answer = document.getElementById("answer");

// Threads need a page that is isolated from other origins; serve.mjs sends the headers for it.
ort.env.wasm.numThreads = globalThis.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;

try {
  const artifact = await openArtifact(ort, await fetchModel(new URL("./{{FILE}}", import.meta.url)));
  const { rows, passed } = await artifact.check();
  const failed = rows.filter((row) => !row.passed);
  if (!passed) throw new Error(rows.length ? `${failed.length} of ${rows.length} outputs of the golden samples are wrong here: ${failed[0].problem}` : "the model has no golden samples");
  state.textContent = `Verified in this browser: ${rows.length} of ${rows.length} outputs of the golden samples are as expected.`;
  show(artifact);
} catch (error) {
  state.textContent = `Error: ${error.message}`;
  state.className = "error";
}

async function fetchModel(url) {
  if (typeof WebAssembly !== "object") throw new Error("this browser has no WebAssembly, or it is switched off, so no model can run here");
  // A module with one function, i8x16.popcnt of a splat.
  const simd = Uint8Array.of(0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11);
  if (!WebAssembly.validate(simd)) throw new Error("this browser or processor has no WebAssembly SIMD, so no model can run here");
  const response = await fetch(url);
  if (!response.ok) throw new Error(`the model cannot be loaded: ${response.status} ${response.statusText}`);
  const bytes = new Uint8Array(await response.arrayBuffer());
  if (bytes.length !== BYTES) throw new Error(`the model was cut off in transfer: ${bytes.length} of ${BYTES} bytes; load the page again`);
  if (globalThis.crypto?.subtle) {
    // Only where the page is secure: https, or this machine.
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
    const found = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
    if (found !== SHA256) throw new Error("the model is not the file that this page was made for; load the page again");
  }
  return bytes;
}

function show(artifact) {
  const { kind, labels, options } = artifact.contract;
  if (["recogniser", "encoder", "detector"].includes(kind)) showImageInput(artifact, kind, options.channels ?? 3);
  else if (kind === "text-classifier" && tasks.readsText(artifact)) showTextInput("Text", "Classify", (text) => classifyText(artifact, text));
  else if (kind === "translator" && tasks.readsText(artifact)) showTextInput("Text", "Translate", (text) => translate(artifact, text));
  else if (kind === "text-generator") showText(artifact);
  else if (kind === "image-generator") showSample(artifact, labels);
  else showArrays(artifact);
  form.hidden = false;
}

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

/** Runs `work` and shows what it throws; the form is disabled meanwhile. */
async function whileBusy(work) {
  for (const control of form.elements) control.disabled = true;
  try {
    await work();
  } catch (error) {
    answer.replaceChildren(element("p", { className: "error", textContent: `Error: ${error.message}` }));
  } finally {
    for (const control of form.elements) control.disabled = false;
  }
}

function showImageInput(artifact, kind, channels) {
  const canvas = element("canvas", { width: 280, height: 280, className: "draw" });
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  const clear = () => {
    pen.fillStyle = "#fff";
    pen.fillRect(0, 0, canvas.width, canvas.height);
  };
  clear();
  const run = () => {
    const { data } = pen.getImageData(0, 0, canvas.width, canvas.height);
    return runImage(artifact, kind, tasks.imageFromRgba(data, canvas.width, canvas.height, channels));
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    Object.assign(pen, { lineWidth: 20, lineCap: "round", lineJoin: "round", strokeStyle: "#000" });
    pen.beginPath();
    pen.moveTo(event.offsetX, event.offsetY);
    pen.lineTo(event.offsetX, event.offsetY);
    pen.stroke();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!event.buttons) return;
    pen.lineTo(event.offsetX, event.offsetY);
    pen.stroke();
  });
  canvas.addEventListener("pointerup", () => whileBusy(run));
  const file = element("input", { type: "file", accept: "image/*" });
  file.addEventListener("change", () => file.files[0] && whileBusy(() => runFile(file.files[0])));
  const again = element("button", { type: "button", textContent: "Clear" });
  again.addEventListener("click", () => {
    clear();
    answer.replaceChildren();
  });
  form.append(element("p", { textContent: "Draw, or choose an image:" }), canvas, again, element("label", {}, "Image: ", file));

  async function runFile(chosen) {
    let bitmap;
    try {
      bitmap = await createImageBitmap(chosen);
    } catch {
      throw new Error(`${chosen.name} is not an image that this browser can read`);
    }
    const { width, height } = bitmap;
    const whole = new OffscreenCanvas(width, height).getContext("2d");
    whole.drawImage(bitmap, 0, 0);
    await runImage(artifact, kind, tasks.imageFromRgba(whole.getImageData(0, 0, width, height).data, width, height, channels));
  }
}

async function runImage(artifact, kind, image) {
  const started = performance.now();
  if (kind === "encoder") {
    const { image: made, score, unusual } = await tasks.reconstruct(artifact, image);
    answer.replaceChildren(picture(made), element("p", { textContent: `anomaly score ${score.toFixed(5)}${unusual ? ", unusual" : ""}` }));
    return;
  }
  if (kind === "detector") {
    const found = await tasks.detect(artifact, image);
    const took = performance.now() - started;
    const lines = found.map(({ label, score, box }) => element("li", { textContent: `${label}: ${percent(score)}, ${place(box)}` }));
    answer.replaceChildren(
      boxed(image, found),
      found.length ? element("ol", {}, ...lines) : element("p", { textContent: "no object found" }),
      element("p", { textContent: `${took.toFixed(0)} ms` }),
    );
    return;
  }
  const { classes, known } = await tasks.classify(artifact, image);
  showClasses(known ? classes[0].label : "probably none of its classes", classes, performance.now() - started);
}

function showClasses(title, classes, took) {
  const lines = classes.slice(0, 3).map(({ label, probability }) => element("li", { textContent: `${label}: ${percent(probability)}` }));
  answer.replaceChildren(
    element("h2", { textContent: title }),
    element("ol", {}, ...lines),
    element("p", { textContent: `${took.toFixed(0)} ms` }),
  );
}

const percent = (share) => `${(100 * share).toFixed(1)} %`;

const place = ({ left, top, right, bottom }) =>
  `from (${left.toFixed(0)}, ${top.toFixed(0)}) to (${right.toFixed(0)}, ${bottom.toFixed(0)})`;

/** The image with a box and a label for each object. */
function boxed(image, found) {
  const { rgba, width, height } = tasks.rgbaFromImage({ shape: [1, image.height, image.width, image.channels], data: image.data });
  const source = new OffscreenCanvas(width, height);
  source.getContext("2d").putImageData(new ImageData(rgba, width, height), 0, 0);
  const scale = Math.max(1, 640 / Math.max(width, height)); // so that lines and labels can be read on a small image
  const canvas = element("canvas", { width: Math.round(width * scale), height: Math.round(height * scale) });
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `the image with ${found.length} boxes: ${found.map(({ label }) => label).join(", ")}`);
  const pen = canvas.getContext("2d");
  pen.drawImage(source, 0, 0, canvas.width, canvas.height);
  const line = Math.max(2, canvas.width / 300);
  const size = 8 * line;
  Object.assign(pen, { lineWidth: line, font: `${size}px system-ui, sans-serif`, textBaseline: "top" });
  for (const { label, score, box } of found) {
    const [left, top, right, bottom] = [box.left, box.top, box.right, box.bottom].map((edge) => edge * scale);
    pen.strokeStyle = pen.fillStyle = "#c2410c";
    pen.strokeRect(left, top, right - left, bottom - top);
    const words = `${label} ${percent(score)}`;
    const above = Math.max(0, top - size - line); // at the upper edge of the image the label stands in the box
    pen.fillRect(left, above, pen.measureText(words).width + 2 * line, size + line);
    pen.fillStyle = "#fff";
    pen.fillText(words, left + line, above + line / 2);
  }
  return canvas;
}

async function classifyText(artifact, text) {
  const started = performance.now();
  const { classes } = await tasks.classifyText(artifact, text);
  showClasses(classes[0].label, classes, performance.now() - started);
}

async function translate(artifact, text) {
  const started = performance.now();
  const { text: translation, probability, finished } = await tasks.translate(artifact, text);
  const took = performance.now() - started;
  const note = finished ? "" : "; cut off at the longest that the model writes";
  answer.replaceChildren(
    element("h2", { textContent: translation }),
    element("p", { textContent: `${percent(probability)} sure${note}, ${took.toFixed(0)} ms` }),
  );
}

/** A field for a text, and a button that has `answered` of it. */
function showTextInput(label, words, answered) {
  const text = element("textarea", { ariaLabel: label });
  form.append(text, element("button", { type: "submit", textContent: words }));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    whileBusy(() => answered(text.value));
  });
}

function showText(artifact) {
  const prompt = element("textarea", { value: artifact.contract.options.follows ?? "", ariaLabel: "Prompt" });
  const seed = element("input", { type: "number", value: "0", min: "0" });
  const button = element("button", { type: "submit", textContent: "Write" });
  form.append(prompt, element("label", {}, "Seed: ", seed), button);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const text = element("pre");
    answer.replaceChildren(text);
    whileBusy(async () => {
      for await (const piece of tasks.write(artifact, prompt.value, { seed: Number(seed.value) })) text.append(piece);
    });
  });
}

function showSample(artifact, labels) {
  const label = element("select", {}, ...labels.map((name, i) => new Option(name, String(i))));
  const seed = element("input", { type: "number", value: "0", min: "0" });
  form.append(
    ...(labels.length ? [element("label", {}, "Class: ", label)] : []),
    element("label", {}, "Seed: ", seed),
    element("button", { type: "submit", textContent: "Make an image" }),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    whileBusy(async () => {
      answer.replaceChildren(picture(await tasks.sample(artifact, 1, [Number(label.value || 0)], Number(seed.value))));
    });
  });
}

function showArrays(artifact) {
  const example = {};
  for (const name of artifact.session.inputNames) {
    if (!artifact.contract.defaults[name]) example[name] = { dtype: "float32", shape: [1], data: [0] };
  }
  Object.assign(example, toJson(artifact.contract.goldens[0]?.inputs ?? {}));
  const text = element("textarea", { value: JSON.stringify(example), ariaLabel: "Inputs as JSON" });
  form.append(text, element("button", { type: "submit", textContent: "Run" }));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    whileBusy(async () => {
      const outputs = toJson(await artifact.run(fromJson(JSON.parse(text.value))));
      answer.replaceChildren(element("pre", { textContent: JSON.stringify(outputs, null, 1) }));
    });
  });
}

function picture(image) {
  const { rgba, width, height } = tasks.rgbaFromImage(image);
  const canvas = element("canvas", { width, height, style: `width: ${8 * width}px` });
  canvas.getContext("2d").putImageData(new ImageData(rgba, width, height), 0, 0);
  return canvas;
}
