// The models, from the page's side: what the worker has opened and verified, as artifacts that modules/tasks.mjs can use.

import { death, worker } from "./start.mjs";
import { Told } from "./words.mjs";

let counter = 0;
let dead = null; // why nothing is answered any more
const waiting = new Map(); // by id: { resolve, reject, progress }
const opened = new Map(); // by name: a promise of an artifact

worker?.addEventListener("message", ({ data }) => {
  const asked = waiting.get(data.id);
  if (data.progress) return asked.progress(data.progress);
  waiting.delete(data.id);
  if (data.told) return asked.reject(new Told(data.told.key, data.told.values));
  return asked.resolve(data.result);
});

death.then((reason) => {
  dead = new Told("static.cannot run", { reason });
  for (const { reject } of waiting.values()) reject(dead);
  waiting.clear();
});

function call(request, progress = () => {}) {
  if (dead) return Promise.reject(dead);
  return new Promise((resolve, reject) => {
    const id = ++counter;
    waiting.set(id, { resolve, reject, progress });
    worker.postMessage({ id, ...request });
  });
}

/** An artifact that runs in the worker: contract and run() as those of modules/artifact.mjs, and the report of its golden samples. */
class Remote {
  constructor(name) {
    this.name = name;
    this.damaged = false;
    this.took = 0; // milliseconds of the last run, in the worker
  }

  async run(inputs) {
    const { outputs, took } = await call({ call: "run", name: this.name, inputs });
    this.took = took;
    return outputs;
  }

  /** Overwrites some of the weights, or repairs them, and replays the golden samples. */
  async damage(damaged, progress) {
    this.#know(await call({ call: "damage", name: this.name, damaged }, progress));
    this.damaged = damaged;
  }

  async open(progress) {
    this.#know(await call({ call: "open", name: this.name }, progress));
    return this;
  }

  #know({ contract, rows, passed, threads, seconds }) {
    Object.assign(this, { contract, rows, passed, threads, seconds });
  }
}

/** The model of that name, loaded once. Throws Told. */
export function openModel(name, progress) {
  if (!opened.has(name)) {
    const promise = new Remote(name).open(progress);
    opened.set(name, promise);
    promise.catch(() => opened.delete(name)); // the next try may find a better connection
  }
  return opened.get(name);
}

/** Stores the site for use without a connection: "open" where that is done, else what closed the storage. */
export const storeAll = (progress) => call({ call: "store" }, progress);
