// Translate: a date in any of 27 languages goes in, the ISO date comes out, with what each of its letters was read from.

import { answer, h, modelPanel, trouble } from "../dom.mjs";
import { translations } from "../modules/tasks.mjs";
import { percent, say } from "../words.mjs";

const EXAMPLES = ["le 3 mars 2019", "Mar 3, '19", "2019年3月3日", "令和元年5月1日", "٣ مارس ٢٠١٩", "3 มีนาคม 2562", "3. III. 2019"];
const LONGEST = 60; // letters of a text: each is a column of the table
const BEAM = 3;

export async function show(root, { given, note, current, known }) {
  const text = h("input", { type: "text", maxlength: LONGEST, oninput: () => ask() });
  text.value = (given.get("text") ?? EXAMPLES[0]).slice(0, LONGEST);
  const said = h("div");
  const buttons = EXAMPLES.map((example) => h("button", { type: "button", onclick: () => { text.value = example; ask(); } }, example));
  const panel = modelPanel(() => ask());
  root.append(
    h("header", { class: "of-heading" }, h("h1", {}, say("translate.title")), h("p", {}, say("translate.lead"))),
    h("label", { class: "field" }, h("span", {}, say("translate.text")), text),
    h("div", { class: "examples" }, ...buttons), said, panel.element,
  );
  let asked = 0;

  async function ask() {
    const turn = ++asked;
    const content = text.value;
    note({ text: content === EXAMPLES[0] ? "" : content });
    if (!content.trim()) return said.replaceChildren(h("p", {}, say("translate.empty")));
    try {
      const artifact = await panel.open("dates");
      known(artifact);
      const found = await translations(artifact, content, BEAM);
      if (turn === asked && current()) said.replaceChildren(...shown(content, found));
    } catch (error) {
      if (turn === asked && current()) said.replaceChildren(trouble(error));
    }
    return undefined;
  }

  await ask();
}

function shown(content, [best, ...others]) {
  const considered = others.map((each) => `${each.text} (${percent(each.probability)})`).join(", ");
  const columns = [...content, say("translate.end")];
  const rows = byLetter(content, best);
  const head = columns.map((letter) => h("th", { scope: "col" }, letter));
  const body = rows.map(({ letter, shares }) => h("tr", {}, h("th", { scope: "row" }, letter), ...shares.map(cell)));
  return [
    answer(best.text || "?", say("translate.sure", { share: percent(best.probability) }), best.probability >= 0.5),
    h("p", { class: "note" }, say("translate.others", { others: considered })),
    h("h2", {}, say("translate.attention")),
    h("p", { class: "note" }, say("translate.attention.words")),
    h("div", { class: "of-scroll", tabindex: 0, role: "region", "aria-label": say("translate.attention") },
      h("table", { class: "of-heat" }, h("thead", {}, h("tr", {}, h("td"), ...head)), h("tbody", {}, ...body))),
  ];
}

function cell(share) {
  const made = h("td", {}, share >= 0.05 ? String(Math.round(100 * share)) : "");
  made.style.setProperty("--heat", Math.min(1, Math.max(0, share)).toFixed(2));
  return made;
}

/** The attention is between bytes: of a letter of the text its bytes are added up, of one of the translation they are averaged. */
function byLetter(content, { text, finished, attention }) {
  const length = (letter) => new TextEncoder().encode(letter).length;
  const columns = [...content].map(length).concat(1);
  const joined = attention.map((row) => {
    let at = 0;
    return columns.map((count) => {
      let sum = 0;
      for (const end = at + count; at < end; at++) sum += row[at];
      return sum;
    });
  });
  const letters = [...text];
  const counts = letters.map(length).concat(finished ? 1 : []);
  // Bytes that are no UTF-8 were replaced: the rows cannot be assigned to its letters.
  if (counts.reduce((sum, count) => sum + count, 0) !== joined.length) return joined.map((shares, i) => ({ letter: String(i + 1), shares }));
  let at = 0;
  return counts.map((count, i) => {
    const part = joined.slice(at, (at += count));
    return { letter: letters[i] ?? say("translate.end"), shares: columns.map((_, column) => part.reduce((sum, row) => sum + row[column], 0) / count) };
  });
}
