// The ways of one drawing, of which this browser is one: it runs the same file on onnxruntime-web in a worker. Python makes the HTML of
// all cards, that of this one with places for what comes out: {answer}, {share}, {milliseconds}, {apart}, {passed}, {count}, {reason}.
const SIMD = /* a module with one function, i8x16.popcnt of a splat */ [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11];

export default function ({ parentElement, data }) {
  const place = parentElement.querySelector(".of-patched");
  place.way ??= browserWay(() => match(place, crossed(place.data, place.way)));
  place.data = data;
  if (data.browser) place.way.ask(data.browser);
  match(place, crossed(data, place.way));
  return () => setTimeout(() => { if (!place.isConnected) place.way.stop(); }, 3000);
}

function crossed(data, way) {
  const made = parsed(data.html), { browser } = data, { result } = way;
  if (!browser || result?.asked.model !== browser.model) return made;
  const put = (place, html) => place.replaceWith(...parsed(html).childNodes);
  const card = made.querySelector("[data-way=browser]");
  const { reason, probabilities, passed, count } = result;
  if (reason !== undefined) {
    put(card, filled(browser.trouble[reason] ?? browser.trouble.reason, { reason }));
    return made;
  }
  const current = result.asked.image === browser.image; // else the answer to the image before, for a moment
  const { expected } = current ? browser : result.asked;
  const likeliest = (shares) => shares.indexOf(Math.max(...shares));
  const answer = likeliest(probabilities), finite = probabilities.every(Number.isFinite);
  const apart = short(Math.max(...probabilities.map((value, i) => Math.abs(value - expected[i]))));
  const values = { answer, share: percent(probabilities[answer]), apart, milliseconds: result.milliseconds.toFixed(1), passed, count };
  put(card, filled((finite ? browser.answered : browser.strange)[Number(passed === count)], values));
  if (answer !== likeliest(expected)) {
    made.querySelector("[data-way=browser] strong").className = "of-other";
    if (current && passed === count) put(made.querySelector(".of-stamp"), browser.differs);
  }
  return made;
}

const filled = (html, values) => html.replace(/\{(\w+)\}/g, (_, name) => {
  const text = document.createElement("i");
  text.textContent = String(values[name]);
  return text.innerHTML;
});

/** As demo/widgets/html.py has it. */
function percent(share) {
  const value = 100 * share;
  if (value > 0 && value < 0.05) return "< 0.1 %";
  if (value >= 99.995 && share < 1) return "> 99.99 %";
  return `${value.toFixed(value >= 99 ? 2 : 1)} %`;
}

/** One digit, as Python's format .1g. */
const short = (value) => value && value < 1e-4 ? value.toExponential(0).replace(/e-(\d)$/, "e-0$1") : String(Number(value.toPrecision(1)));

/** The worker: one image at a time, and of those that come meanwhile the newest. */
function browserWay(changed) {
  let worker = null, busy = null, next = null, newest = null, begun = false, ended = false;
  const way = { result: null };
  const tell = (asked, said) => { way.result = { asked, ...said }; changed(); };

  way.ask = (browser) => {
    if (ended || (newest?.image === browser.image && newest.model === browser.model)) return;
    next = newest = browser;
    if (begun) send(); else begin(browser);
  };
  way.stop = () => { ended = true; worker?.terminate(); };

  function begin(browser) {
    begun = true;
    const lacks = typeof WebAssembly !== "object" || typeof WebAssembly.validate !== "function" ? "no wasm"
      : WebAssembly.validate(Uint8Array.from(SIMD)) ? "" : "no simd";
    if (lacks) { way.stop(); tell(browser, { reason: lacks }); return; }
    const start = () => {
      if (ended) return;
      worker = new Worker(new URL(`${browser.files}worker.mjs`, location.href), { type: "module" });
      worker.addEventListener("message", ({ data }) => {
        const asked = busy;
        busy = null;
        tell(asked, data);
        send();
      });
      worker.addEventListener("error", (event) => {
        event.preventDefault();
        way.stop();
        tell(newest, { reason: event.message || "worker.mjs" });
      });
      send();
    };
    // What the page itself needs goes before 14 MB of WebAssembly.
    if (globalThis.requestIdleCallback) requestIdleCallback(start, { timeout: 3000 }); else setTimeout(start, 500);
  }

  function send() {
    if (busy || !next || !worker || ended) return;
    [busy, next] = [next, null];
    const data = Uint8Array.from(atob(busy.image), (character) => character.charCodeAt(0));
    worker.postMessage({ model: busy.model, image: { shape: busy.shape, data } });
  }
  return way;
}
