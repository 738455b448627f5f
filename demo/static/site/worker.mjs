// Runs the models, beside the page, so that the page never waits: loads and verifies a file, replays its golden samples, answers.

import catalogue from "./catalogue.mjs";
import { loadEngine } from "./engine.mjs";
import { load, storeAll } from "./files.mjs";
import { fields, openArtifact } from "./modules/artifact.mjs";
import { Told } from "./words.mjs";

const OVERWRITTEN = 2000; // bytes
const LEAST_WEIGHTS = 2048; // bytes

const open = new Map(); // by name: { artifact, bytes }
let before = Promise.resolve(); // models run one after another
let telling = () => {}; // hears how onnxruntime-web arrives, once a model is asked for

const web = start(); // a promise
web.catch(() => {}); // reported to whoever opens a model

addEventListener("message", ({ data }) => {
  const { id, call, ...rest } = data;
  const progress = (made) => postMessage({ id, progress: made });
  const bytes = call === "open" ? arrival(rest.name, progress) : null; // beside the others
  const work = async () => {
    try {
      postMessage({ id, result: await CALLS[call]({ ...rest, bytes, progress }) });
    } catch (error) {
      const { key, values } = error instanceof Told ? error : new Told("static.cannot run", { reason: error?.message ?? String(error) });
      postMessage({ id, told: { key, values } });
    }
  };
  if (call === "store") work();
  else before = before.then(work);
});

const CALLS = {
  async open({ name, bytes, progress }) {
    telling = progress;
    const [ort, file] = await Promise.all([web, bytes]);
    return verified(ort, name, file, file, progress);
  },

  /** The same model with some of its weights overwritten, or as it was. */
  async damage({ name, damaged, progress }) {
    const { artifact, bytes } = open.get(name);
    await artifact.session.release();
    return verified(await web, name, bytes, damaged ? overwritten(bytes) : bytes, progress);
  },

  async run({ name, inputs }) {
    const started = performance.now();
    const outputs = await open.get(name).artifact.run(inputs);
    return { outputs, took: performance.now() - started };
  },

  store: ({ progress }) => storeAll((done, count) => progress({ stage: "storing", done, count })),
};

async function start() {
  const threads = globalThis.crossOriginIsolated ? Math.min(2, navigator.hardwareConcurrency || 1) : 1;
  const [ort] = await Promise.all([
    module("ort/ort.wasm.min.mjs"),
    loadEngine((got, size) => telling({ stage: "loading", file: "onnxruntime-web", got, size })),
  ]);
  ort.env.logLevel = "error";
  Object.assign(ort.env.wasm, { numThreads: threads, wasmPaths: { mjs: new URL("./engine.mjs", import.meta.url).href } });
  return ort;
}

/** The bytes of a model's file, a promise. */
function arrival(name, progress) {
  const path = catalogue.models[name];
  const bytes = load(path, (got, size) => progress({ stage: "loading", file: path, got, size }));
  bytes.catch(() => {}); // reported once it is this model's turn
  return bytes;
}

/** Imports a module of the site. One that is cut off would say no more than that it cannot be read. */
async function module(path) {
  await load(path);
  return import(`./${path}`);
}

async function verified(ort, name, bytes, opened, progress) {
  progress({ stage: "starting" });
  const started = performance.now();
  const artifact = await openArtifact(ort, opened, { executionProviders: ["wasm"] });
  open.set(name, { artifact, bytes });
  progress({ stage: "testing" });
  const checked = performance.now();
  const { rows, passed } = await artifact.check();
  const { goldens, ...contract } = artifact.contract;
  return { contract, rows, passed, threads: ort.env.wasm.numThreads, seconds: { open: (checked - started) / 1000, check: (performance.now() - checked) / 1000 } };
}

/** A copy in which bytes all over its weights are others. Its contract and the graph stay as they are. */
function overwritten(bytes) {
  const made = bytes.slice();
  const graph = [...fields(made)].find(([field]) => field === 7)[1]; // onnx.proto: ModelProto.graph
  const initializers = [...fields(graph)].filter(([field]) => field === 5).map(([, tensor]) => tensor); // GraphProto.initializer
  const raw = initializers.flatMap((tensor) => [...fields(tensor)].filter(([field]) => field === 9).map(([, data]) => data)); // TensorProto.raw_data
  // All of them and not the largest alone, which may be a table of words that no golden sample has; shapes and other constants are small.
  const weights = raw.filter((data) => data.length >= LEAST_WEIGHTS);
  const count = weights.reduce((sum, data) => sum + data.length, 0);
  let start = 0;
  for (const data of weights) {
    const first = Math.ceil((start * OVERWRITTEN) / count);
    start += data.length;
    for (let i = first; (i * count) / OVERWRITTEN < start; i++) {
      const at = Math.floor((i * count) / OVERWRITTEN) - (start - data.length);
      data[at] = (data[at] * 167 + 89 * i + 13) & 255;
    }
  }
  return made;
}
