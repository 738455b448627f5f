// What an artifact is for, by the kind of its contract: images or a text to classes, an image to objects, a text to its translation, a
// prompt to text, noise to images, an image to its reconstruction. An image is { data, height, width, channels }: a Uint8Array in C order.

import { Pcg64 } from "./random.mjs";

const READ = 4096; // bytes of a prompt in one run
const FIRST_WRITE = 8; // bytes written by the first run, so that something shows soon
const WRITE = 24; // by each run after it

/**
 * An image from rows of red, green, blue, alpha (canvas, sharp). Transparency is laid over white; channels: 1 for grey (ITU-R BT.601
 * luma, rounded as Pillow rounds it), 3 for colour.
 */
export function imageFromRgba(rgba, width, height, channels) {
  const data = new Uint8Array(width * height * channels);
  for (let i = 0; i < width * height; i++) {
    const alpha = rgba[4 * i + 3];
    const [red, green, blue] = [0, 1, 2].map((c) => Math.round((rgba[4 * i + c] * alpha + 255 * (255 - alpha)) / 255));
    if (channels === 1) data[i] = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16;
    else data.set([red, green, blue], 3 * i);
  }
  return { data, height, width, channels };
}

/** Rows of red, green, blue, alpha of image `index` of a batch (n, height, width, channels), for a canvas. */
export function rgbaFromImage({ shape, data }, index = 0) {
  const [, height, width, channels] = shape;
  const rgba = new Uint8ClampedArray(4 * height * width);
  const start = index * height * width * channels;
  for (let i = 0; i < height * width; i++) {
    for (let c = 0; c < 3; c++) rgba[4 * i + c] = data[start + i * channels + (channels === 3 ? c : 0)];
    rgba[4 * i + 3] = 255;
  }
  return { rgba, width, height };
}

const imageInput = ({ data, height, width, channels }) => ({ image: { dtype: "uint8", shape: [1, height, width, channels], data } });

/**
 * The classes of an image, the likeliest first: { classes: [{ label, probability }], known }. known is false where the model was
 * trained to say that an image is of none of its classes, and says so.
 */
export async function classify(artifact, image) {
  const { labels, options } = artifact.contract;
  const outputs = await artifact.run(imageInput(image));
  const classes = likeliestFirst(labels, outputs);
  const unknown = outputs.unknown?.data[0];
  return { classes, unknown, known: !(unknown > options.unknown_threshold), outputs };
}

function likeliestFirst(labels, { probabilities }) {
  const classes = Array.from(probabilities.data, (probability, i) => ({ label: labels[i] ?? String(i), probability }));
  return classes.sort((a, b) => b.probability - a.probability);
}

/** Whether an artifact takes a text's bytes, as those of `onnxferry train` do, and not ids that a tokenizer makes. */
export const readsText = ({ session }) => session.inputNames.includes("text");

function textInput(text) {
  const data = new TextEncoder().encode(text);
  if (!text.trim()) throw new Error("the text is empty: give at least one word");
  return { text: { dtype: "uint8", shape: [1, data.length], data } };
}

/** The classes of a text, the likeliest first: { classes: [{ label, probability }], outputs }. */
export async function classifyText(artifact, text) {
  const outputs = await artifact.run(textInput(text));
  return { classes: likeliestFirst(artifact.contract.labels, outputs), outputs };
}

/** { text, probability, finished }: the translation, how likely it is as a whole, and false where it was cut off at its longest. */
export const translate = async (artifact, text) => (await translations(artifact, text))[0];

/**
 * The `beam` translations that were followed, the best first, as of translate, each with its attention: for each byte that was written,
 * and the end, a Float32Array of the share of each byte of the text, and its end.
 */
export async function translations(artifact, text, beam = 1) {
  const options = beam === 1 ? {} : { beam: { dtype: "int64", shape: [], data: BigInt64Array.of(BigInt(beam)) } };
  const { bytes, log_probability: logProbability, attention } = await artifact.run({ ...textInput(text), ...options });
  const [, beams, steps] = bytes.shape;
  const places = attention.shape[3];
  return Array.from({ length: beams }, (_, at) => {
    const written = bytes.data.subarray(at * steps, (at + 1) * steps);
    const end = written.indexOf(artifact.contract.options.end ?? 0);
    const rows = Array.from({ length: end < 0 ? steps : end + 1 }, (__, row) => {
      const start = (at * steps + row) * places;
      return attention.data.subarray(start, start + places);
    });
    const decoded = new TextDecoder("utf-8").decode(end < 0 ? written : written.subarray(0, end));
    return { text: decoded, probability: Math.exp(logProbability.data[at]), finished: end >= 0, attention: rows };
  });
}

/**
 * The objects in an image, the likeliest first: [{ label, score, box: { left, top, right, bottom } }], edges in pixels of the image.
 * scoreThreshold: objects with a lower score are left out; undefined for the model's own.
 */
export async function detect(artifact, image, { scoreThreshold } = {}) {
  const threshold = { dtype: "float32", shape: [], data: Float32Array.of(scoreThreshold) };
  const outputs = await artifact.run({ ...imageInput(image), ...(scoreThreshold === undefined ? {} : { score_threshold: threshold }) });
  const { labels } = artifact.contract;
  return Array.from(outputs.scores.data, (score, i) => {
    const [left, top, right, bottom] = outputs.boxes.data.subarray(4 * i, 4 * i + 4);
    const index = Number(outputs.class_index.data[i]);
    return { label: labels[index] ?? String(index), score, box: { left, top, right, bottom } };
  });
}

/** Objects of `detect` in lines, from top to bottom, each from left to right. */
export function lines(objects) {
  const across = ({ box }) => (box.left + box.right) / 2;
  const down = ({ box }) => (box.top + box.bottom) / 2;
  const within = (one, other) => one.box.top < down(other) && down(other) < one.box.bottom;
  const made = [];
  for (const object of [...objects].sort((one, other) => across(one) - across(other))) {
    const apart = (line) => Math.abs(down(line.at(-1)) - down(object));
    const near = made.filter((line) => within(line.at(-1), object) || within(object, line.at(-1)));
    if (near.length) near.reduce((best, line) => (apart(line) < apart(best) ? line : best)).push(object);
    else made.push([object]);
  }
  const middle = (line) => line.reduce((sum, object) => sum + down(object), 0) / line.length;
  return made.sort((one, other) => middle(one) - middle(other));
}

/** { image, score, unusual }: the reconstruction (a batch of one), how far it is from the image, and whether that is more than usual. */
export async function reconstruct(artifact, image) {
  const outputs = await artifact.run(imageInput(image));
  const score = outputs.anomaly_score.data[0];
  return { image: outputs.reconstruction, latent: outputs.latent, score, unusual: score > artifact.contract.options.anomaly_threshold };
}

/** Images of the decoder, from one latent or several: Float32Array of n × the contract's `latent`. */
export async function decode(artifact, latents) {
  const length = artifact.contract.options.latent;
  const outputs = await artifact.run({ latent: { dtype: "float32", shape: [latents.length / length, length], data: latents } });
  return outputs.image;
}

/** `count` images of the classes `labels` (indices, used again from the start), from a seed: the same as onnxferry's `sample` makes. */
export async function sample(artifact, count, labels, seed = 0) {
  const noise = new Pcg64(seed).normal(count * artifact.contract.options.noise);
  return imagesFromNoise(artifact, noise, Array.from({ length: count }, (_, i) => labels[i % labels.length]));
}

/** Images from noise, Float32Array of n × the contract's `noise`, one class index for each. */
export async function imagesFromNoise(artifact, noise, labels) {
  const outputs = await artifact.run({
    noise: { dtype: "float32", shape: [labels.length, noise.length / labels.length], data: noise },
    label: { dtype: "int64", shape: [labels.length], data: BigInt64Array.from(labels, BigInt) },
  });
  return outputs.image;
}

/**
 * The text after a prompt, piece by piece, each of whole characters: the same bytes as onnxferry's `generate` writes.
 *
 *     for await (const piece of write(artifact, "To be", { maxBytes: 200, seed: 0 })) show(piece);
 *
 * temperature: 0 always takes the likeliest byte. topK, topP: only the likeliest bytes. signal: an AbortSignal that stops it.
 */
export async function* write(artifact, prompt = "", { maxBytes = 200, temperature = 0.8, topK, topP, seed = 0, signal } = {}) {
  const random = new Pcg64(seed);
  const decoder = new TextDecoder("utf-8");
  const scalar = (dtype, data) => ({ dtype, shape: [], data });
  const chosen = { temperature: scalar("float32", Float32Array.of(temperature)) };
  if (topK !== undefined) chosen.top_k = scalar("int64", BigInt64Array.of(BigInt(Math.min(topK, 256))));
  if (topP !== undefined) chosen.top_p = scalar("float32", Float32Array.of(topP));
  let left = new TextEncoder().encode(prompt);
  let state = {};
  const run = async (count) => {
    const part = left.slice(0, READ);
    left = left.slice(READ);
    const outputs = await artifact.run({
      ...chosen,
      ...state,
      prompt: { dtype: "uint8", shape: [1, part.length], data: part },
      uniforms: { dtype: "float32", shape: [1, count], data: count ? random.uniform(count) : new Float32Array(0) },
    });
    state = { state: outputs.state_after };
    return outputs.bytes.data;
  };
  while (left.length > READ) await run(0);
  for (let done = 0; done < maxBytes && !signal?.aborted; ) {
    const count = Math.min(maxBytes - done, done ? WRITE : FIRST_WRITE);
    const piece = decoder.decode(await run(count), { stream: true });
    done += count;
    if (piece) yield piece;
  }
}
