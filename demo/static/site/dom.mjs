// Elements: made from values, so that no text is ever read as markup.

import catalogue from "./catalogue.mjs";
import { rgbaFromImage } from "./modules/tasks.mjs";
import { openModel } from "./models.mjs";
import { percent, say, Told } from "./words.mjs";

/** An element: h("p", { class: "of-note", onclick }, "text", child). */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element[name] = value;
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Text of the catalogue with Markdown links in it. */
export function linked(text) {
  const parts = text.split(/\[([^\]]+)\]\((https:[^)]+)\)/);
  return h("span", {}, ...parts.map((part, i) => (i % 3 === 0 ? part : i % 3 === 1 ? h("a", { href: parts[i + 1], rel: "noreferrer" }, part) : null)));
}

/** Radio buttons in a row: options by value, with their words. */
export function choice(label, options, chosen, changed) {
  const name = `choice-${++choice.count}`;
  const made = Object.entries(options).map(([value, words]) =>
    h("label", {}, h("input", { type: "radio", name, value, checked: value === chosen, onchange: () => changed(value) }), h("span", {}, words)),
  );
  return h("fieldset", { class: "choice" }, h("legend", {}, label), h("div", {}, ...made));
}
choice.count = 0;

/** A number to type, or a range: attributes of the input, value, and what happens when it is changed. */
export function field(label, attributes, changed = () => {}) {
  const input = h("input", { ...attributes, onchange: () => changed(input) });
  const shown = attributes.type === "range" ? h("output", {}, attributes.value) : null;
  if (shown) input.oninput = () => { shown.value = input.value; };
  return { element: h("label", { class: "field" }, h("span", {}, label, shown), input), input };
}

/** A whole number in an input, held to its bounds. */
export function whole(input) {
  const value = Math.min(Number(input.max), Math.max(Number(input.min), Math.round(Number(input.value) || 0)));
  input.value = value;
  return value;
}

/** One image of a batch, uint8 (n, height, width, channels), as a PNG in a data URL. */
export function pngOf(batch, index = 0) {
  const { rgba, width, height } = rgbaFromImage(batch, index);
  const canvas = h("canvas", { width, height });
  canvas.getContext("2d").putImageData(new ImageData(rgba, width, height), 0, 0);
  return canvas.toDataURL();
}

export function figure(source, alt, caption = "", badge = "plain") {
  return h("figure", { class: "of-image" }, h("img", { alt, src: source }), caption ? h("figcaption", { class: `of-${badge}` }, caption) : null);
}

export function grid(figures, smallest, name) {
  const element = h("div", { class: "of-grid", role: "group", "aria-label": name }, ...figures);
  element.style.setProperty("--smallest", `${smallest}px`);
  return element;
}

export const strip = (figures, name) => h("div", { class: "of-strip", role: "group", "aria-label": name }, ...figures);

/** The large answer. Announced to screen readers when it changes. */
export function answer(label, note, sure) {
  const strong = h("strong", {}, label);
  if (label.length > 2) strong.style.fontSize = `${Math.max(1.5, 9 / label.length).toFixed(2)}rem`;
  return h("div", { class: `of-answer${sure ? "" : " of-unsure"}`, role: "status", "aria-live": "polite", "data-reading": say("recognise.reading") }, strong, h("span", {}, note));
}

/** One bar for each class, in the order of the labels; the longest is marked. */
export function bars(labels, shares, title) {
  const best = shares.indexOf(Math.max(...shares));
  const rows = labels.map((label, i) => {
    const fill = h("span", { class: "of-fill" });
    fill.style.width = `${(100 * shares[i]).toFixed(2)}%`;
    return h("li", { class: i === best ? "of-best" : "" }, h("span", { class: "of-name" }, label), h("span", { class: "of-track" }, fill), h("span", { class: "of-number" }, percent(shares[i])));
  });
  const list = h("ul", { class: "of-bars", "aria-label": title }, ...rows);
  list.style.setProperty("--name", `${Math.min(8, Math.max(1.4, ...labels.map((label) => 0.56 * label.length))).toFixed(1)}em`);
  return list;
}

/** A value on a line from 0 to twice its threshold or to itself, with a mark at the threshold. */
export function meter(value, threshold, name, words) {
  const end = Math.max(2 * threshold, 1.05 * value, 1e-12);
  const fill = h("span", { class: "of-fill" });
  const mark = h("span", { class: "of-mark" });
  fill.style.width = `${(100 * value) / end}%`;
  mark.style.left = `${(100 * threshold) / end}%`;
  const label = `${name}: ${value.toFixed(4)}, ${threshold.toFixed(4)}`;
  return h("div", { class: `of-meter of-${value > threshold ? "over" : "under"}` }, h("div", { class: "of-track", role: "img", "aria-label": label }, fill, mark), h("p", {}, words));
}

/** A component of the pages that Python serves, in a shadow root with its own style: give it data, hear what it says. */
export function part(name, component, html, heard) {
  const host = h("div", { class: `part part-${name}` });
  const root = host.attachShadow({ mode: "open" });
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(catalogue.styles[name]);
  root.adoptedStyleSheets = [sheet];
  root.append(...html);
  const show = (data) => component({ parentElement: root, data, setStateValue: heard });
  return { host, show, root };
}

/** What went wrong, in one line, with a button that tries again. */
export function trouble(error) {
  const told = error instanceof Told ? error : new Told("static.cannot run", { reason: error?.message ?? String(error) });
  if (!(error instanceof Told)) console.error(error);
  return h("p", { class: "trouble", role: "alert" }, h("span", {}, say(told.key, told.values)), " ", h("button", { type: "button", onclick: () => location.reload() }, say("static.again")));
}

/**
 * Where a page's models say how they come in and what their golden samples gave. open(name): an artifact, once it is verified.
 * changed: called after the visitor has damaged or repaired one.
 */
export function modelPanel(changed) {
  const element = h("div", { class: "models" });
  const rows = new Map();
  const open = async (name) => {
    if (!rows.has(name)) rows.set(name, element.appendChild(h("div", { class: "model", "data-model": name })));
    const row = rows.get(name);
    const artifact = await openModel(name, (progress) => row.replaceChildren(...arriving(name, progress)));
    report(row, artifact, changed);
    return artifact;
  };
  return { element, open };
}

function arriving(name, { stage, file, got, size }) {
  if (stage !== "loading") return [h("p", {}, say(`static.${stage}`, { name }))];
  const megabytes = (count) => (count / 1e6).toFixed(1);
  return [h("p", {}, say("static.loading", { name: fileName(file), got: megabytes(got), size: megabytes(size) })), h("progress", { value: got, max: size, "aria-label": name })];
}

function report(row, artifact, changed) {
  const { name, rows, passed, damaged, seconds } = artifact;
  Object.assign(row.dataset, { open: seconds.open.toFixed(3), check: seconds.check.toFixed(3) });
  const right = rows.filter((each) => each.passed).length;
  const largest = Math.max(...rows.map((each) => each.difference).filter((each) => !Number.isNaN(each)));
  const words = passed
    ? say("static.passed", { passed: right, count: rows.length, difference: small(largest) })
    : say("static.failed", { failed: rows.length - right, count: rows.length });
  const columns = say("static.test.columns").split("|");
  const cells = rows.map(({ sample, output, difference, passed: fine, problem }) =>
    h("tr", {}, ...[sample + 1, output, small(difference), fine ? say("static.test.ok") : say("yours.test.failed", { problem })].map((cell) => h("td", {}, String(cell)))),
  );
  const table = h("table", { class: "of-table" }, h("thead", {}, h("tr", {}, ...columns.map((each) => h("th", { scope: "col" }, each)))), h("tbody", {}, ...cells));
  const button = h("button", { type: "button", onclick: async () => {
    button.disabled = true;
    try {
      await artifact.damage(!damaged, (progress) => { summary.textContent = say(`static.${progress.stage}`, { name }); });
    } catch (error) {
      row.replaceChildren(trouble(error));
      return;
    }
    const wasOpen = row.querySelector("details").open;
    report(row, artifact, changed);
    row.querySelector("details").open = wasOpen;
    changed?.(artifact);
  } }, say(damaged ? "static.mend" : "static.break"));
  const summary = h("summary", { class: passed ? "passed" : "failed" }, h("code", {}, fileName(catalogue.models[name])), ` ${words}`);
  row.replaceChildren(h("details", { class: "test" }, summary, h("p", {}, say("static.test.words")),
    h("div", { class: "of-scroll", tabindex: 0, role: "region", "aria-label": `${say("static.test")} ${name}` }, table),
    h("p", { class: "break" }, button, " ", h("span", {}, say(damaged ? "static.broken" : "static.break.words")))));
}

const fileName = (path) => path.replace(/^.*\//, "");

/** A difference in few characters. */
function small(value) {
  if (Number.isNaN(value)) return "NaN";
  if (Number.isInteger(value)) return String(value);
  return value >= 0.001 ? value.toPrecision(2) : value.toExponential(1).replace("e-", "e−");
}
