// The words of the pages, from the catalogue that the pages which Python serves use too.

import catalogue from "./catalogue.mjs";

export const NAMES = catalogue.names;

let language = "en";

/** The language that was asked for in the address, else the one chosen before, else the browser's. */
export function chooseLanguage() {
  let before = null;
  try {
    before = localStorage.getItem("onnxferry-lang");
  } catch {
    before = null; // storage is closed to this page: the choice lasts as long as the page
  }
  const asked = new URLSearchParams(location.search).get("lang");
  const here = navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en";
  language = [asked, before, here].find((each) => each in catalogue.words);
  document.documentElement.lang = language === "zh" ? "zh-CN" : language;
  return language;
}

export function setLanguage(chosen) {
  language = chosen;
  document.documentElement.lang = chosen === "zh" ? "zh-CN" : chosen;
  try {
    localStorage.setItem("onnxferry-lang", chosen);
  } catch {
    return; // as above
  }
}

/** The words of a key, with values in their places: {name} as it is, {name:,} with commas between thousands. */
export function say(key, values = {}) {
  const words = catalogue.words[language][key];
  if (words === undefined) throw new Error(`no words for ${key}`);
  return words.replace(/\{(\w+)(:,)?\}/g, (_, name, commas) => (commas ? Number(values[name]).toLocaleString("en") : String(values[name])));
}

/** 0.9965 as 99.65 %, never rounded to a certainty, or to an impossibility, that it is not. */
export function percent(share) {
  const value = 100 * share;
  if (value > 0 && value < 0.05) return "< 0.1 %";
  if (value >= 99.995 && share < 1) return "> 99.99 %";
  return `${value.toFixed(value >= 99 ? 2 : 1)} %`;
}

/** An error that the reader can understand: a key of the catalogue and its values. */
export class Told extends Error {
  constructor(key, values = {}) {
    super(key);
    Object.assign(this, { key, values });
  }
}
