// The frame of the pages: menu, language, the page that the address names, and what is stored for use without a connection.

import catalogue from "./catalogue.mjs";
import manifest from "./manifest.mjs";
import * as compress from "./pages/compress.mjs";
import { h, trouble } from "./dom.mjs";
import * as find from "./pages/find.mjs";
import * as imagine from "./pages/imagine.mjs";
import { storeAll } from "./models.mjs";
import * as recognise from "./pages/recognise.mjs";
import * as review from "./pages/review.mjs";
import { obstacle } from "./start.mjs";
import * as translate from "./pages/translate.mjs";
import { chooseLanguage, NAMES, say, setLanguage, Told } from "./words.mjs";
import * as write from "./pages/write.mjs";

const PAGES = { recognise, find, write, review, translate, imagine, compress };

const menu = h("nav", { class: "menu" });
const main = h("main");
const footer = h("footer");
const stored = h("p", { class: "stored", role: "status" });
let state = () => ""; // the text of `stored`, in the current language
let leave = () => {}; // what the page that is shown stops when another one comes
let wanted = 0;

/** The page in the address, with what follows it: #write?seed=3. */
function asked() {
  const [name, search] = location.hash.slice(1).split("?");
  return { name: name in PAGES ? name : "recognise", given: new URLSearchParams(search ?? "") };
}

/** Writes what a page shows into the address, without another entry in the history. What is "" is left out. */
function note(values) {
  const { name, given } = asked();
  for (const [key, value] of Object.entries(values)) value === "" ? given.delete(key) : given.set(key, value);
  const search = given.toString();
  history.replaceState(null, "", `#${name}${search ? `?${search}` : ""}`);
}

async function show() {
  const turn = ++wanted;
  leave();
  leave = () => {};
  const { name, given } = asked();
  const page = PAGES[name];
  document.title = `${say(`menu.${name}`)} · onnxferry`;
  const links = Object.keys(PAGES).map((each) => h("a", { href: `#${each}`, "aria-current": each === name ? "page" : undefined }, say(`menu.${each}`)));
  const languages = Object.entries(NAMES).map(([language, words]) =>
    h("button", { type: "button", lang: language, "aria-pressed": String(document.documentElement.lang.startsWith(language)), onclick: () => { setLanguage(language); show(); } }, words),
  );
  menu.replaceChildren(...links, h("div", { class: "languages", role: "group", "aria-label": say("menu.language") }, ...languages));
  menu.querySelector("[aria-current]").scrollIntoView({ block: "nearest", inline: "nearest" });
  footer.replaceChildren(h("p", {}, threads()), stored);
  stored.textContent = state();
  main.replaceChildren();
  main.setAttribute("aria-label", say(`menu.${name}`));
  if (obstacle) {
    main.append(h("header", { class: "of-heading" }, h("h1", {}, say(`menu.${name}`))), trouble(new Told(obstacle)));
    return;
  }
  try {
    const stop = await page.show(main, { given, note, current: () => turn === wanted, known });
    if (turn === wanted) leave = stop ?? leave;
    else stop?.();
  } catch (error) {
    if (turn === wanted) main.append(trouble(error));
    return;
  }
  if (turn === wanted) keepForLater();
}

let count = 1;

/** Once a model runs, the number of threads is known. */
function known(artifact) {
  count = artifact.threads;
  footer.firstChild.textContent = threads();
}

const threads = () => say(count === 1 ? "static.runs on.one" : "static.runs on", { version: catalogue.ort, threads: count });

let keeping = false;

/** After the first page has come up, all the others are stored, so that they open without a connection. */
async function keepForLater() {
  if (keeping) return;
  keeping = true;
  const tell = (words) => {
    state = words;
    stored.textContent = words();
  };
  if (!("serviceWorker" in navigator) || typeof caches === "undefined") return tell(() => say("static.insecure"));
  await new Promise((resolve) => setTimeout(resolve, 1500)); // the visitor's first answer goes before
  try {
    await navigator.serviceWorker.register("sw.js");
    if (navigator.connection?.saveData) return tell(() => say("static.saving"));
    const closed = await storeAll(({ done, count: all }) => tell(() => say("static.storing", { done, count: all })));
    tell(() => (closed === "open" ? say("static.offline") : say("static.full", { reason: closed })));
  } catch (error) {
    tell(() => (error instanceof Told ? say(error.key, error.values) : say("static.full", { reason: error.name ?? String(error) })));
  }
}

/** The page is of another build than its files: what was stored before is thrown away, once, and the page loaded again. */
async function renew() {
  for (const name of await caches.keys()) if (name.startsWith("onnxferry-")) await caches.delete(name);
  await (await navigator.serviceWorker.getRegistration())?.unregister();
  location.reload();
}

chooseLanguage();
document.body.replaceChildren(menu, main, footer);
if (document.documentElement.dataset.version !== manifest.version && navigator.serviceWorker?.controller) renew();
else {
  addEventListener("hashchange", show);
  show();
}
