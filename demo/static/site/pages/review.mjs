// Review: a text goes in, and how it is meant comes out, with the words that decided. As demo/pages/review.py.

import { answer, h, modelPanel, trouble } from "../dom.mjs";
import { classifyText } from "../modules/tasks.mjs";
import { percent, say } from "../words.mjs";

const EXAMPLES = [
  "A wonderful film, though it starts slowly.",
  "The battery died after a week and no one answered my mail.",
  "房间很干净，服务员也热情，下次还住这里。",
  "看了一半就看不下去了，不值这个价钱。",
];
const LONGEST = 2000; // letters: each word is an element of the page
const STRONGEST = 6; // words that the table holds
const HAN = /[\u3400-\u9fff]/;

export async function show(root, { given, note, current, known }) {
  const first = EXAMPLES[document.documentElement.lang.startsWith("zh") ? 2 : 0];
  const text = h("textarea", { rows: 3, oninput: () => ask() });
  text.value = given.get("review") ?? first;
  const hint = h("p", { class: "note" });
  const said = h("div");
  const buttons = EXAMPLES.map((example) => h("button", { type: "button", onclick: () => { text.value = example; ask(); } }, example));
  const panel = modelPanel(() => ask());
  root.append(
    h("header", { class: "of-heading" }, h("h1", {}, say("review.title")), h("p", {}, say("review.lead"))),
    h("label", { class: "field" }, h("span", {}, say("review.text")), text), hint,
    h("div", { class: "examples" }, ...buttons), said, panel.element,
  );
  let asked = 0;

  async function ask() {
    const turn = ++asked;
    const whole = [...text.value];
    const content = whole.slice(0, LONGEST).join("");
    note({ review: content === first ? "" : content });
    hint.textContent = whole.length > LONGEST ? say("review.cut", { given: whole.length, kept: LONGEST }) : "";
    if (!content.trim()) return said.replaceChildren(h("p", {}, say("review.empty")));
    try {
      const artifact = await panel.open(HAN.test(content) ? "sentiment-zh" : "sentiment-en");
      known(artifact);
      const { classes, outputs } = await classifyText(artifact, content);
      if (turn === asked && current()) said.replaceChildren(...explained(artifact, content, classes, outputs));
    } catch (error) {
      if (turn === asked && current()) said.replaceChildren(trouble(error));
    }
    return undefined;
  }

  await ask();
}

function explained(artifact, content, [{ label, probability }], { starts, evidence, attention }) {
  const { labels } = artifact.contract;
  const positive = labels.indexOf("positive");
  const bytes = new TextEncoder().encode(content);
  const places = Array.from(starts.data, Number);
  const piece = (from, to) => new TextDecoder().decode(bytes.subarray(from, to));
  // The last token is the text's end, which is no word.
  const words = places.slice(0, -1).map((start, i) => {
    const row = Array.from(evidence.data.subarray(i * labels.length, (i + 1) * labels.length));
    const others = row.filter((_, at) => at !== positive);
    const margin = row[positive] - others.reduce((sum, value) => sum + value, 0) / Math.max(1, others.length);
    return { text: piece(start, places[i + 1]), margin, attention: attention.data[i] };
  });
  const most = Math.max(1e-6, ...words.map(({ margin }) => Math.abs(margin)));
  const leaning = words.map(({ text, margin }) => {
    const span = h("span", { class: margin > 0 ? "for" : "against" }, text);
    span.style.setProperty("--heat", (Math.abs(margin) / most).toFixed(2));
    return span;
  });
  const strongest = [...words].sort((one, other) => Math.abs(other.margin) - Math.abs(one.margin)).slice(0, STRONGEST);
  const rows = strongest.map(({ text, margin, attention: share }) => [text.trimEnd(), `${margin < 0 ? "-" : "+"}${Math.abs(margin).toFixed(2)}`, percent(share)]);
  const head = ["review.word", "review.evidence", "review.attention"].map((key) => h("th", { scope: "col" }, say(key)));
  const table = h("table", { class: "of-table" }, h("thead", {}, h("tr", {}, ...head)),
    h("tbody", {}, ...rows.map((row) => h("tr", {}, ...row.map((cell) => h("td", {}, cell))))));
  return [
    answer(say(`review.${label}`), say("review.sure", { share: percent(probability) }), probability >= 0.75),
    h("h2", {}, say("review.words")),
    h("p", { class: "note" }, say("review.words.how")),
    h("p", { class: "of-leaning", role: "group", "aria-label": say("review.words") }, piece(0, places[0]), ...leaning),
    h("div", { class: "of-scroll", tabindex: 0, role: "region", "aria-label": say("review.words") }, table),
  ];
}
