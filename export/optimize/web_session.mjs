// Runs models in onnxruntime-web, on one thread, for web.py: a request a line on stdin, an answer a line on stdout.

import { createInterface } from "node:readline";
import { readFile } from "node:fs/promises";
import { decode, openArtifact } from "./artifact.mjs";
import * as ort from "./ort.wasm.min.mjs";

ort.env.logLevel = "fatal";
ort.env.wasm.numThreads = 1;

const sides = {}; // artifacts, by "original" and "variant"

const CALLS = {
  /** Opens a file. Gives what is wrong with its golden samples, "" if nothing is. */
  async open({ side, path }) {
    await sides[side]?.session.release();
    sides[side] = await openArtifact(ort, await readFile(path));
    const { rows } = await sides[side].check();
    const wrong = rows.find((row) => !row.passed);
    return wrong ? `golden sample ${wrong.sample + 1}, ${wrong.output}: ${wrong.problem}` : "";
  },

  /** Milliseconds of rounds in which each side runs all feeds once, in turns. */
  async time({ feeds, seconds, rounds }) {
    const inputs = feeds.map((each) => Object.fromEntries(Object.entries(each).map(([name, array]) => [name, decode(array)])));
    const round = async (side) => {
      const start = performance.now();
      for (const each of inputs) await sides[side].run(each);
      return performance.now() - start;
    };
    const order = Object.keys(sides);
    for (const side of order) await round(side); // WebAssembly is compiled as it runs
    const times = Object.fromEntries(order.map((side) => [side, []]));
    const end = performance.now() + 1000 * seconds;
    for (let i = 0; i < rounds || performance.now() < end; i++) {
      for (const side of i % 2 ? order : order.toReversed()) times[side].push(await round(side));
    }
    return times;
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { call, ...rest } = JSON.parse(line);
  try {
    console.log(JSON.stringify({ result: await CALLS[call](rest) }));
  } catch (error) {
    console.log(JSON.stringify({ error: String(error?.message ?? error).split("\n")[0] }));
  }
}
process.exit(0); // onnxruntime-web keeps the process alive
