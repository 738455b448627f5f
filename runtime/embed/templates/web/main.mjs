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
  if (kind === "recogniser" || kind === "encoder") showImageInput(artifact, kind, options.channels ?? 3);
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
  const { classes, known } = await tasks.classify(artifact, image);
  const took = performance.now() - started;
  const lines = classes.slice(0, 3).map(({ label, probability }) => element("li", { textContent: `${label}: ${(100 * probability).toFixed(1)} %` }));
  answer.replaceChildren(
    element("h2", { textContent: known ? classes[0].label : "probably none of its classes" }),
    element("ol", {}, ...lines),
    element("p", { textContent: `${took.toFixed(0)} ms` }),
  );
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
