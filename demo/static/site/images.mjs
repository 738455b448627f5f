// Images before a network is asked, as demo/images and runtime/images/photo.py have it in Python, from where each function comes.
// An image is { data, height, width, channels }, uint8; a plane is a Float64Array of height × width, rows one after another.

import { imageFromRgba } from "./modules/tasks.mjs";
import { Told } from "./words.mjs";

const DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const PAD = 336; // pixels of the pad's side
const PAINTED = 112; // pixels of the side of what is painted
const LONGEST_SIDE = 512; // pixels of an upload that the models are shown
const MOST_MEGAPIXELS = 50;
const LEAST_CONTRAST = 26; // levels: a tenth of the range, below which the graph takes an image as blank

const canvasOf = (width, height) => Object.assign(document.createElement("canvas"), { width, height });
const painters = new Map(); // by side

/** A drawing's strokes, as canvas.js writes them, dark on white: an image of side × side, grey. Null for an empty drawing. */
export function painted(text, side = PAINTED) {
  if (!text) return null;
  if (!painters.has(side)) painters.set(side, canvasOf(side, side).getContext("2d", { willReadFrequently: true }));
  const painter = painters.get(side);
  const scale = side / PAD;
  painter.fillStyle = "#fff";
  painter.fillRect(0, 0, side, side);
  painter.strokeStyle = "#111";
  painter.lineCap = painter.lineJoin = "round";
  for (const part of text.split(".")) {
    const at = (i) => ((DIGITS.indexOf(part[i]) * 64 + DIGITS.indexOf(part[i + 1])) / 4) * scale;
    painter.lineWidth = DIGITS.indexOf(part[0]) * scale;
    painter.beginPath();
    painter.moveTo(at(1), at(3));
    painter.lineTo(at(1) + 0.001, at(3));
    for (let i = 5; i + 3 < part.length; i += 4) painter.lineTo(at(i), at(i + 2));
    painter.stroke();
  }
  return imageFromRgba(painter.getImageData(0, 0, side, side).data, side, side, 1);
}

/** An image file, upright, at most LONGEST_SIDE on its longer side. Throws Told for what is no image or has too many pixels. */
export async function readUpload(file, channels) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { imageOrientation: "from-image" });
  } catch {
    throw new Told("static.no image", { name: file.name || "?" });
  }
  const { width, height } = bitmap;
  if (width * height > 1e6 * MOST_MEGAPIXELS) {
    bitmap.close();
    throw new Told("static.large image", { name: file.name, size: Math.round((width * height) / 1e6), most: MOST_MEGAPIXELS });
  }
  const scale = Math.min(1, LONGEST_SIDE / Math.max(width, height));
  const [across, down] = [width, height].map((side) => Math.max(1, Math.round(side * scale)));
  const context = canvasOf(across, down).getContext("2d");
  Object.assign(context, { imageSmoothingEnabled: scale < 1, imageSmoothingQuality: "high" });
  context.drawImage(bitmap, 0, 0, across, down);
  bitmap.close();
  return imageFromRgba(context.getImageData(0, 0, across, down).data, across, down, channels);
}

/** An image as a batch of one. */
export const batch = ({ data, height, width, channels }) => ({ dtype: "uint8", shape: [1, height, width, channels], data });

/** Image `index` of a batch. */
export function imageAt({ shape, data }, index) {
  const [, height, width, channels] = shape;
  const size = height * width * channels;
  return { data: data.slice(index * size, (index + 1) * size), height, width, channels };
}

function grey({ data, channels }) {
  return Float64Array.from({ length: data.length / channels }, (_, i) => {
    let sum = 0;
    for (let c = 0; c < channels; c++) sum += data[i * channels + c];
    return sum / channels;
  });
}

const ordered = (values) => Float64Array.from(values).sort();

function median(values) {
  const sorted = ordered(values);
  const half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

/** As numpy.quantile, interpolated linearly. */
function quantile(values, share) {
  const sorted = ordered(values);
  const at = share * (sorted.length - 1);
  const below = Math.floor(at);
  return sorted[below] + (at - below) * ((sorted[below + 1] ?? sorted[below]) - sorted[below]);
}

/** The pixels of the border: all channels. */
function edge({ data, height, width, channels }) {
  const found = [];
  const take = (y, x) => { for (let c = 0; c < channels; c++) found.push(data[(y * width + x) * channels + c]); };
  for (let x = 0; x < width; x++) { take(0, x); take(height - 1, x); }
  for (let y = 0; y < height; y++) { take(y, 0); take(y, width - 1); }
  return found;
}

/** True for dark on light, decided by the border. */
export const hasLightGround = (image) => median(edge(image)) > 127;

/** One channel in another size, area-averaged as Pillow's BOX does it: the pixels whose centre is in a window count, and are rounded. */
function boxResized({ data, height, width, channels }, across, down) {
  const windows = (from, to) => {
    const scale = Math.max(1, from / to);
    return Array.from({ length: to }, (_, i) => {
      const centre = ((i + 0.5) * from) / to;
      const first = Math.max(0, Math.trunc(centre - scale / 2 + 0.5));
      const last = Math.min(from, Math.trunc(centre + scale / 2 + 0.5));
      const inside = [];
      for (let x = first; x < last; x++) {
        const off = (x - centre + 0.5) / scale;
        if (off > -0.5 && off <= 0.5) inside.push(x);
      }
      return inside;
    });
  };
  const mean = (count, value) => {
    let sum = 0;
    for (let i = 0; i < count.length; i++) sum += value(count[i]);
    return Math.floor(sum / count.length + 0.5);
  };
  const rows = new Uint8Array(height * across * channels);
  for (const [x, columns] of windows(width, across).entries()) {
    for (let y = 0; y < height; y++) {
      for (let c = 0; c < channels; c++) rows[(y * across + x) * channels + c] = mean(columns, (i) => data[(y * width + i) * channels + c]);
    }
  }
  const made = new Uint8Array(down * across * channels);
  for (const [y, lines] of windows(height, down).entries()) {
    for (let x = 0; x < across * channels; x++) made[y * across * channels + x] = mean(lines, (i) => rows[i * across * channels + x]);
  }
  return { data: made, height: down, width: across, channels };
}

function shrunk(image, side) {
  const longest = Math.max(image.height, image.width);
  if (longest <= side) return image;
  return boxResized(image, Math.max(1, roundEven((image.width * side) / longest)), Math.max(1, roundEven((image.height * side) / longest)));
}

/** Connected parts of a mask by all eight neighbours: Int32Array, 0 outside and 1, 2, … in them, with their count. */
function components(mask, height, width) {
  const labels = new Int32Array(mask.length);
  let count = 0;
  const next = [];
  for (let start = 0; start < mask.length; start++) {
    if (!mask[start] || labels[start]) continue;
    labels[start] = ++count;
    next.push(start);
    while (next.length) {
      const at = next.pop();
      const [y, x] = [Math.floor(at / width), at % width];
      for (let j = Math.max(0, y - 1); j <= Math.min(height - 1, y + 1); j++) {
        for (let i = Math.max(0, x - 1); i <= Math.min(width - 1, x + 1); i++) {
          const other = j * width + i;
          if (mask[other] && !labels[other]) { labels[other] = count; next.push(other); }
        }
      }
    }
  }
  return { labels, count };
}

/** How many figures stand side by side: 0 for a blank image. As demo/images/content.py. */
export function figures(image) {
  const small = shrunk(image, 64);
  const { height, width } = small;
  let ink = grey(small);
  let [lowest, highest] = [255, 0];
  for (const value of ink) { lowest = Math.min(lowest, value); highest = Math.max(highest, value); }
  if (highest - lowest < LEAST_CONTRAST) return 0;
  if (hasLightGround(small)) ink = ink.map((value) => 255 - value);
  const ground = median(ink);
  ink = ink.map((value) => value - ground);
  const strongest = ink.reduce((most, value) => Math.max(most, value), -Infinity);
  const { labels, count } = components(ink.map((value) => value > 0.4 * strongest), height, width);
  const parts = Array.from({ length: count }, () => ({ left: width, right: 0, top: height, bottom: 0, pixels: 0 }));
  labels.forEach((label, at) => {
    if (!label) return;
    const part = parts[label - 1];
    const [y, x] = [Math.floor(at / width), at % width];
    Object.assign(part, { left: Math.min(part.left, x), right: Math.max(part.right, x + 1), top: Math.min(part.top, y), bottom: Math.max(part.bottom, y + 1), pixels: part.pixels + 1 });
  });
  const largest = Math.max(0, ...parts.map((part) => part.pixels));
  const boxes = parts.filter((part) => part.pixels >= Math.max(3, 0.03 * largest));
  const mergeOne = () => {
    for (let i = 0; i < boxes.length; i++) {
      for (let j = i + 1; j < boxes.length; j++) {
        const [one, other] = [boxes[i], boxes[j]];
        const shared = Math.min(one.right, other.right) - Math.max(one.left, other.left);
        if (shared <= 0.2 * Math.min(one.right - one.left, other.right - other.left)) continue;
        boxes[i] = { left: Math.min(one.left, other.left), right: Math.max(one.right, other.right), top: Math.min(one.top, other.top), bottom: Math.max(one.bottom, other.bottom) };
        boxes.splice(j, 1);
        return true;
      }
    }
    return false;
  };
  while (mergeOne());
  const tallest = Math.max(0, ...boxes.map((box) => box.bottom - box.top));
  return boxes.filter((box) => box.bottom - box.top >= 0.4 * tallest).length;
}

/** A figure as MNIST lays it out: light on dark, 20 pixels long, its mass in the middle of 28 × 28. As demo/images/uploads.py. */
export function framedLikeMnist(image, size = 28, figure = 20) {
  const { height, width } = image;
  const light = hasLightGround(image);
  const ink = grey(image).map((value) => (light ? 255 - value : value));
  const made = { data: new Uint8Array(size * size), height: size, width: size, channels: 1 };
  let [left, right, top, bottom] = [width, 0, height, 0];
  ink.forEach((value, at) => {
    if (value <= 40) return;
    const [y, x] = [Math.floor(at / width), at % width];
    [left, right, top, bottom] = [Math.min(left, x), Math.max(right, x + 1), Math.min(top, y), Math.max(bottom, y + 1)];
  });
  if (right <= left) return made;
  const cut = { data: new Uint8Array((bottom - top) * (right - left)), height: bottom - top, width: right - left, channels: 1 };
  for (let y = top; y < bottom; y++) for (let x = left; x < right; x++) cut.data[(y - top) * cut.width + x - left] = roundEven(ink[y * width + x]);
  const scale = figure / Math.max(cut.height, cut.width);
  const small = boxResized(cut, Math.max(1, roundEven(cut.width * scale)), Math.max(1, roundEven(cut.height * scale)));
  let [weight, down, across] = [0, 0, 0];
  small.data.forEach((value, at) => {
    weight += value;
    down += value * Math.floor(at / small.width);
    across += value * (at % small.width);
  });
  weight = Math.max(weight, 1);
  const place = (middle, length) => Math.min(Math.max(roundEven(size / 2 - middle), 0), size - length);
  const [y, x] = [place(down / weight, small.height), place(across / weight, small.width)];
  for (let row = 0; row < small.height; row++) made.data.set(small.data.subarray(row * small.width, (row + 1) * small.width), (y + row) * size + x);
  return made;
}

/** Halves go to the even number, as in Python. */
function roundEven(value) {
  const below = Math.floor(value);
  return value - below === 0.5 ? below + (below % 2 === 0 ? 0 : 1) : Math.round(value);
}

/** A photograph of writing as dark writing on white; what is evenly lit already is given back as it is. As runtime/images/photo.py. */
export function withoutBackground(image) {
  const { height, width } = image;
  if (Math.max(height, width) < 64 || evenlyLit(image)) return image;
  let full = grey(image);
  let [small, factor] = smaller(full, height, width);
  if (median(small.plane) < 90 && !paper(small).some(Boolean)) { // chalk on a board
    full = full.map((value) => 255 - value);
    [small, factor] = smaller(full, height, width);
  }
  let sheet = paper(small);
  if (!sheet.some(Boolean)) sheet = new Uint8Array(sheet.length).fill(1);
  const wide = larger({ ...small, plane: background(small, sheet) }, factor, height, width);
  const inside = larger({ ...small, plane: Float64Array.from(sheet) }, factor, height, width);
  const ink = full.map((value, i) => 1 - (inside[i] > 0.999 ? Math.min(1, Math.max(0, value / Math.max(wide[i], 1))) : 1));
  const strongest = Math.max(smaller(ink, height, width)[0].plane.reduce((most, value) => Math.max(most, value), 0), 0.1);
  const data = Uint8Array.from(ink, (value) => roundEven(255 * (1 - Math.min(1, Math.max(0, (value / strongest - 0.35) / 0.65)))));
  return { data, height, width, channels: 1 };
}

function evenlyLit(image) {
  const { height, width } = image;
  const plane = grey(image);
  const ring = edge({ data: plane, height, width, channels: 1 });
  const ground = median(ring);
  const near = (values) => values.reduce((count, value) => count + (Math.abs(value - ground) <= 3 ? 1 : 0), 0) / values.length;
  return near(ring) > 0.98 && near(plane) > 0.5;
}

/** Area-averaged by a whole number to at most 96 pixels: [{ plane, height, width }, that number]. The edge is repeated. */
function smaller(plane, height, width) {
  const factor = Math.max(1, Math.ceil(Math.max(height, width) / 96));
  const [rows, columns] = [Math.ceil(height / factor), Math.ceil(width / factor)];
  const made = new Float64Array(rows * columns);
  for (let y = 0; y < rows * factor; y++) {
    for (let x = 0; x < columns * factor; x++) {
      made[Math.floor(y / factor) * columns + Math.floor(x / factor)] += plane[Math.min(y, height - 1) * width + Math.min(x, width - 1)] / factor ** 2;
    }
  }
  return [{ plane: made, height: rows, width: columns }, factor];
}

/** The way back, interpolated linearly. */
function larger({ plane, height, width }, factor, down, across) {
  const places = (count, most) => Array.from({ length: count }, (_, i) => {
    const at = Math.min(Math.max((i + 0.5) / factor - 0.5, 0), most - 1);
    const first = Math.floor(at);
    return [first, Math.min(first + 1, most - 1), at - first];
  });
  const columns = places(across, width);
  const made = new Float64Array(down * across);
  for (const [y, [top, bottom, low]] of places(down, height).entries()) {
    for (const [x, [left, right, far]] of columns.entries()) {
      const upper = plane[top * width + left] * (1 - far) + plane[top * width + right] * far;
      const lower = plane[bottom * width + left] * (1 - far) + plane[bottom * width + right] * far;
      made[y * across + x] = upper * (1 - low) + lower * low;
    }
  }
  return made;
}

/** What `take` makes of every window of size × size, one axis after the other; outside the image is `beyond`. */
function slid({ plane, height, width }, size, beyond, take, first) {
  const half = size >> 1;
  const pass = (from, across) => Float64Array.from(from, (_, at) => {
    const [y, x] = [Math.floor(at / width), at % width];
    let found = first;
    for (let step = -half; step <= half; step++) {
      const [j, i] = across ? [y, x + step] : [y + step, x];
      found = take(found, j < 0 || i < 0 || j >= height || i >= width ? beyond : from[j * width + i]);
    }
    return found;
  });
  return pass(pass(plane, false), true);
}

const largestOf = (image, size, beyond) => slid(image, size, beyond, Math.max, -Infinity);
const smallestOf = (image, size, beyond) => slid(image, size, beyond, Math.min, Infinity);
const blurred = (image, size) => slid(image, size, 0, (sum, value) => sum + value, 0).map((sum) => sum / size ** 2);

/** The light of the paper where no ink is. Source: Soille, "Morphological Image Analysis", section 4.5.1. */
function background(small, sheet) {
  const { height, width } = small;
  const size = 2 * Math.floor(Math.floor(Math.max(height, width) / 6) / 2) + 1;
  const image = (plane) => ({ plane, height, width });
  const filled = largestOf(image(small.plane.map((value, i) => (sheet[i] ? value : 0))), size, 0);
  const closed = smallestOf(image(filled.map((value, i) => (sheet[i] ? value : 255))), size, 255).map((value, i) => (sheet[i] ? value : 0));
  const smooth = 2 * (size >> 1) + 1;
  const weight = blurred(image(Float64Array.from(sheet)), smooth);
  return blurred(image(closed), smooth).map((value, i) => value / Math.max(weight[i], 1e-6));
}

/** Where a sheet of paper lies on something darker, a mask; empty where the image is all paper. */
function paper(small) {
  const { plane, height, width } = small;
  const image = (values) => ({ plane: Float64Array.from(values), height, width });
  const nothing = new Uint8Array(plane.length);
  const level = otsu(plane);
  const bright = largestPart(plane.map((value) => (value > level ? 1 : 0)), height, width);
  const sheet = withoutHoles(bright, height, width);
  let [left, right, top, bottom, area, solid] = [width, 0, height, 0, 0, 0];
  sheet.forEach((value, at) => {
    solid += bright[at];
    if (!value) return;
    area += 1;
    const [y, x] = [Math.floor(at / width), at % width];
    [left, right, top, bottom] = [Math.min(left, x), Math.max(right, x + 1), Math.min(top, y), Math.max(bottom, y + 1)];
  });
  const share = area / plane.length;
  if (!(share > 0.1 && share < 0.97) || solid < 0.5 * (right - left) * (bottom - top)) return nothing;
  const core = smallestOf(image(sheet), 5, 1).map((value) => (value > 0 ? 1 : 0));
  const inner = smallestOf(image(sheet), 3, 1);
  const around = smallestOf(image(plane.map((value, i) => (sheet[i] ? 255 : value))), 5, 255);
  const steps = [];
  sheet.forEach((value, i) => { if (value && inner[i] === 0) steps.push(plane[i] - around[i]); });
  if (!steps.length || !core.some(Boolean)) return nothing;
  return quantile(steps, 0.2) >= 28 ? Uint8Array.from(core) : nothing; // a shadow has no edge, paper has
}

/** The level that parts values best into two classes. Source: Otsu, IEEE Transactions SMC 9, 1979. */
function otsu(plane) {
  const counts = new Float64Array(256);
  for (const value of plane) counts[Math.trunc(Math.min(255, Math.max(0, value)))] += 1;
  let [all, sum] = [0, 0];
  counts.forEach((count, level) => { all += count; sum += count * level; });
  let [below, total] = [0, 0];
  const between = Array.from(counts, (count, level) => {
    below += count;
    total += count * level;
    const above = all - below;
    return below && above ? below * above * (total / below - (sum - total) / above) ** 2 : 0;
  });
  const most = Math.max(...between);
  const best = between.flatMap((value, level) => (value === most ? [level] : []));
  return best.reduce((a, b) => a + b, 0) / best.length + 0.5;
}

function largestPart(mask, height, width) {
  const { labels, count } = components(mask, height, width);
  const sizes = new Int32Array(count + 1);
  labels.forEach((label) => { if (label) sizes[label] += 1; });
  const largest = sizes.indexOf(Math.max(...sizes));
  return Uint8Array.from(labels, (label) => (label && label === largest ? 1 : 0));
}

/** A mask with its holes: what is not in it and does not reach the border. */
function withoutHoles(mask, height, width) {
  const [rows, columns] = [height + 2, width + 2];
  const outside = new Uint8Array(rows * columns).fill(1);
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) outside[(y + 1) * columns + x + 1] = mask[y * width + x] ? 0 : 1;
  const { labels } = components(outside, rows, columns);
  return Uint8Array.from(mask, (_, at) => (labels[(Math.floor(at / width) + 1) * columns + (at % width) + 1] === labels[0] ? 0 : 1));
}
