// Runs the shipped model on onnxruntime-web, beside the page, which so never waits. A message { model, image: { shape, data } } is
// answered by { probabilities, milliseconds, passed, count } or { reason }.

import { openArtifact } from "./artifact.mjs";
import * as ort from "./ort.wasm.min.mjs";

const TIMED = 9; // answers, of which the median is shown, as the server does it

ort.env.logLevel = "error";
ort.env.wasm.numThreads = 1; // more need a page that is isolated from other origins, which Streamlit's is not

const opened = new Map(); // by file: a promise of the artifact and what its self-test said
let before = Promise.resolve(); // one after another

addEventListener("message", ({ data: { model, image } }) => {
  before = before.then(async () => {
    try {
      if (!opened.has(model)) opened.set(model, open(model));
      postMessage(await answer(await opened.get(model), image));
    } catch (error) {
      opened.delete(model); // the next try may find a better connection
      postMessage({ reason: error?.message ?? String(error) });
    }
  });
});

async function open(model) {
  const response = await fetch(new URL(model, import.meta.url));
  if (!response.ok) throw new Error(`${model}: HTTP ${response.status}`);
  const artifact = await openArtifact(ort, new Uint8Array(await response.arrayBuffer()), { executionProviders: ["wasm"] });
  const { rows } = await artifact.check();
  return { artifact, passed: rows.filter((row) => row.passed).length, count: rows.length };
}

async function answer({ artifact, passed, count }, { shape, data }) {
  const image = { dtype: "uint8", shape, data };
  const taken = [];
  let outputs;
  for (let i = 0; i < TIMED; i++) {
    const begun = performance.now();
    outputs = await artifact.run({ image });
    taken.push(performance.now() - begun);
  }
  taken.sort((one, other) => one - other);
  return { probabilities: Array.from(outputs.probabilities.data), milliseconds: taken[TIMED >> 1], passed, count };
}
