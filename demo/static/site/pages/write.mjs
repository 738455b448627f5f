// Write: a prompt goes in, and text streams out as it is made.

import { field, h, modelPanel, trouble, whole } from "../dom.mjs";
import { write } from "../modules/tasks.mjs";
import { say } from "../words.mjs";

const MODEL = "shakespeare";
const LONGEST = 100000; // letters
const LONGEST_PROMPT = 4000; // letters that are kept of a prompt, its last ones
const USUAL = { prompt: "ROMEO:\n", temperature: 0.8, length: 500, seed: 0, top_k: 0, top_p: 1 };
const LATIN = /^[\0-\u024f\u2010-\u2030]*$/;

export async function show(root, { given, note, current, known }) {
  const number = (name, least, most) => {
    const value = given.has(name) ? Number(given.get(name)) : NaN;
    return value >= least && value <= most ? value : USUAL[name];
  };
  const prompt = h("textarea", { rows: 4, spellcheck: "false" });
  prompt.value = given.get("prompt") ?? USUAL.prompt;
  const boldness = field(say("write.boldness"), { type: "range", min: 0, max: 2, step: 0.05, value: number("temperature", 0, 2) });
  const length = field(say("write.length"), { type: "number", min: 1, max: LONGEST, step: 1, value: number("length", 1, LONGEST) });
  const seed = field(say("write.seed"), { type: "number", min: 0, max: 2 ** 31 - 1, step: 1, value: number("seed", 0, 2 ** 31 - 1) });
  const topK = field(say("write.top_k"), { type: "number", min: 0, max: 256, step: 1, value: number("top_k", 0, 256) });
  const topP = field(say("write.top_p"), { type: "number", min: 0.05, max: 1, step: 0.05, value: number("top_p", 0.05, 1) });
  const hints = h("p", { class: "note" });
  const buttons = h("div", { class: "buttons" });
  const sheet = h("div", { class: "of-sheet", tabindex: 0, role: "region", "aria-label": say("write.sheet"), "aria-busy": "false" });
  const mark = h("mark");
  const text = document.createTextNode("");
  const pen = h("span", { class: "of-pen", "aria-hidden": "true", hidden: true });
  sheet.append(h("div", {}, mark, text, pen));
  const said = h("p", { class: "note took", role: "status" });
  const copy = h("button", { type: "button", onclick: async () => {
    await navigator.clipboard.writeText(mark.textContent + text.data);
    copy.textContent = say("write.copied");
    setTimeout(() => { copy.textContent = say("write.copy"); }, 2000);
  } }, say("write.copy"));
  copy.hidden = !navigator.clipboard; // http from another machine
  const download = h("button", { type: "button", onclick: () => save(mark.textContent + text.data) }, say("write.download"));
  const panel = modelPanel(() => start());
  let stopping = new AbortController();
  let running = Promise.resolve();

  const form = h("form", { onsubmit: (event) => { event.preventDefault(); start(); } },
    h("label", { class: "field" }, h("span", {}, say("write.prompt")), prompt), h("p", { class: "note" }, say("write.prompt.help")), boldness.element,
    h("p", { class: "note" }, say("write.boldness.help")), length.element, seed.element,
    h("details", {}, h("summary", {}, say("write.more")), topK.element, h("p", { class: "note" }, say("write.top_k.help")), topP.element, h("p", { class: "note" }, say("write.top_p.help"))),
    hints, buttons);
  const go = h("button", { type: "submit", class: "main" }, say("write.write"));
  const another = h("button", { type: "button", onclick: () => { seed.input.value = (whole(seed.input) + 1) % 2 ** 31; start(); } }, say("write.another"));
  const stop = h("button", { type: "button", hidden: true, onclick: () => stopping.abort() }, say("write.stop"));
  buttons.append(go, another, stop);
  prompt.onkeydown = (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); start(); } };
  root.append(h("header", { class: "of-heading" }, h("h1", {}, say("write.title")), h("p", {}, say("write.lead"))),
    h("div", { class: "write" }, h("div", {}, sheet, h("div", { class: "under" }, said, copy, download)), form), panel.element);

  /** Ends the text that is being written, and begins another. */
  function start() {
    stopping.abort();
    stopping = new AbortController();
    const { signal } = stopping;
    running = running.then(() => (signal.aborted ? null : stream(signal))).catch((error) => {
      if (current()) said.replaceChildren(trouble(error));
    });
    return running;
  }

  async function stream(signal) {
    const settings = { prompt: prompt.value, temperature: Number(boldness.input.value), length: whole(length.input), seed: whole(seed.input), top_k: whole(topK.input), top_p: Math.min(1, Math.max(0.05, Number(topP.input.value) || 1)) };
    note(Object.fromEntries(Object.keys(USUAL).map((name) => [name, settings[name] === USUAL[name] ? "" : String(settings[name])])));
    const cut = settings.prompt.length > LONGEST_PROMPT ? say("write.cut", { kept: LONGEST_PROMPT, given: settings.prompt.length }) : "";
    const begin = settings.prompt.slice(-LONGEST_PROMPT);
    hints.textContent = [cut, LATIN.test(begin) ? "" : say("write.english only")].filter(Boolean).join(" ");
    mark.textContent = begin;
    text.data = "";
    const busy = (is) => {
      sheet.setAttribute("aria-busy", String(is));
      pen.hidden = !is;
      stop.hidden = !is;
    };
    const artifact = await panel.open(MODEL);
    known(artifact);
    if (signal.aborted || !current()) return;
    busy(true);
    const started = performance.now();
    const tell = (ended) => {
      const seconds = (performance.now() - started) / 1000;
      const count = text.data.length;
      const words = say(ended && signal.aborted ? "write.note.stopped" : "write.note", { count, seconds: seconds.toFixed(1) });
      said.textContent = seconds > 0.05 ? `${words} · ${say("static.speed", { speed: Math.round(count / seconds).toLocaleString("en") })}` : words;
    };
    try {
      const options = { maxBytes: settings.length, temperature: settings.temperature, seed: settings.seed, signal };
      if (settings.top_k) options.topK = settings.top_k;
      if (settings.top_p < 1) options.topP = settings.top_p;
      let shown = 0;
      for await (const piece of write(artifact, begin, options)) {
        const atEnd = sheet.scrollHeight - sheet.scrollTop - sheet.clientHeight < 40;
        text.appendData(piece);
        if (atEnd) sheet.scrollTop = sheet.scrollHeight;
        if (performance.now() - shown > 100) {
          shown = performance.now();
          tell(false);
        }
      }
      tell(true);
    } finally {
      busy(false);
    }
  }

  start();
  await panel.open(MODEL);
  return () => stopping.abort();
}

function save(text) {
  const link = h("a", { href: URL.createObjectURL(new Blob([text], { type: "text/plain" })), download: "onnxferry.txt" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
