// Held-out examples of the models: images as batches, numbers as lists.

import { Told } from "./words.mjs";

const kept = new Map();

export function examplesOf(name) {
  if (!kept.has(name)) {
    const promise = read(`examples/${name}.json`);
    kept.set(name, promise);
    promise.catch(() => kept.delete(name));
  }
  return kept.get(name);
}

async function read(path) {
  let arrays;
  try {
    const response = await fetch(new URL(path, import.meta.url));
    if (!response.ok) throw new Error(`HTTP ${response.status}`);
    arrays = await response.json();
  } catch (error) {
    throw new Told("static.unreachable", { file: path, reason: error.message });
  }
  const images = ({ shape, data }) => ({ dtype: "uint8", shape, data: Uint8Array.from(atob(data), (character) => character.charCodeAt(0)) });
  return Object.fromEntries(Object.entries(arrays).map(([name, value]) => [name, Array.isArray(value) ? value : images(value)]));
}
