// The site's files as bytes: each is held to the size and the SHA-256 that the manifest has for it, and stored for use without a
// connection once it is. Used by the worker.

import manifest from "./manifest.mjs";
import { Told } from "./words.mjs";

const CACHE = `onnxferry-${manifest.version}`;
const BASE = new URL("./", import.meta.url);
const TYPES = { mjs: "text/javascript", js: "text/javascript", wasm: "application/wasm", json: "application/json", css: "text/css", svg: "image/svg+xml", html: "text/html" };

const storing = new Map(); // by path: a promise
let storage = typeof caches === "undefined" ? "insecure" : "open"; // or what closed it

/**
 * The bytes of a file of the site. progress(got, size): as they arrive. began(response): with a copy of each response that they are read
 * from. Throws Told for a file that cannot be reached, is cut off, or is not the one in the manifest; what the browser kept from before
 * is passed over then, once.
 */
export async function load(path, progress = () => {}, began = () => {}) {
  const kept = await fromStorage(path, began);
  if (kept && (await problem(path, kept)) === null) return kept;
  let bytes, wrong;
  for (const cache of ["default", "reload"]) {
    bytes = await download(path, cache, progress, began);
    wrong = await problem(path, bytes);
    if (wrong === null) break;
  }
  if (wrong !== null) throw wrong;
  storing.set(path, store(path, bytes).finally(() => storing.delete(path))); // the first answer does not wait for it
  return bytes;
}

/** WebAssembly of the site, compiled while it arrives. It is given once all of it is known to be what the manifest has. */
export async function loadCompiled(path, progress) {
  let compiling;
  await load(path, progress, (response) => {
    compiling = WebAssembly.compileStreaming(new Response(response.body, { headers: { "Content-Type": TYPES.wasm } }));
    compiling.catch(() => {}); // of a file that is cut off, load says more
  });
  return compiling;
}

async function download(path, cache, progress, began) {
  const { bytes: size } = manifest.files[path];
  try {
    const response = await fetch(new URL(path, BASE), { cache });
    if (!response.ok) throw new Error(`HTTP ${response.status}`);
    began(response.clone());
    const reader = response.body.getReader();
    const parts = [];
    let got = 0;
    for (;;) {
      const { done, value } = await reader.read().catch((error) => {
        if (got) throw new Told("static.cut", { file: path, got: got.toLocaleString("en"), size: size.toLocaleString("en") });
        throw error;
      });
      if (done) break;
      parts.push(value);
      got += value.length;
      progress(got, size);
    }
    const bytes = new Uint8Array(got);
    let at = 0;
    for (const part of parts) {
      bytes.set(part, at);
      at += part.length;
    }
    return bytes;
  } catch (error) {
    throw error instanceof Told ? error : new Told("static.unreachable", { file: path, reason: error.message });
  }
}

/** What is wrong with the bytes, null if nothing is. */
async function problem(path, bytes) {
  const { bytes: size, sha256: wanted } = manifest.files[path];
  if (bytes.length < size) return new Told("static.cut", { file: path, got: bytes.length.toLocaleString("en"), size: size.toLocaleString("en") });
  return bytes.length === size && (await sha256(bytes)) === wanted ? null : new Told("static.changed", { file: path });
}

async function fromStorage(path, began) {
  if (storage !== "open") return null;
  try {
    const kept = await (await caches.open(CACHE)).match(new URL(path, BASE));
    if (!kept) return null;
    began(kept.clone());
    return new Uint8Array(await kept.arrayBuffer());
  } catch (error) {
    storage = error.name;
    return null;
  }
}

async function store(path, bytes) {
  if (storage !== "open") return;
  try {
    const type = TYPES[path.slice(path.lastIndexOf(".") + 1)] ?? "application/octet-stream";
    const response = new Response(bytes, { headers: { "Content-Type": type, "Content-Length": String(bytes.length) } });
    await (await caches.open(CACHE)).put(new URL(path, BASE), response);
  } catch (error) {
    storage = error.name; // QuotaExceededError, or what a private window says: the pages work with a connection
  }
}

/** Stores what is not stored yet, the smallest first. Gives "open" where all of it is, else what closed the storage. */
export async function storeAll(progress = () => {}) {
  const paths = Object.keys(manifest.files).sort((a, b) => manifest.files[a].bytes - manifest.files[b].bytes);
  for (const [done, path] of paths.entries()) {
    if (storage !== "open") break;
    progress(done, paths.length);
    await storing.get(path);
    try {
      if (await (await caches.open(CACHE)).match(new URL(path, BASE))) continue;
    } catch (error) {
      storage = error.name;
      break;
    }
    await load(path);
    await storing.get(path);
  }
  for (const path of ["index.html", "manifest.mjs"]) {
    if (storage === "open") await store(path, new Uint8Array(await (await fetch(new URL(path, BASE), { cache: "no-cache" })).arrayBuffer()));
  }
  return storage;
}

async function sha256(bytes) {
  const digest = globalThis.crypto?.subtle ? new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)) : plainSha256(bytes);
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** For pages over http from another machine, where browsers have no crypto.subtle. Source: FIPS 180-4, section 6.2. */
export function plainSha256(bytes) {
  const words = new Uint32Array(64);
  const state = Uint32Array.of(0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19);
  const whole = bytes.length - (bytes.length % 64);
  const rest = new Uint8Array(bytes.length % 64 < 56 ? 64 : 128);
  rest.set(bytes.subarray(whole));
  rest[bytes.length % 64] = 0x80;
  const bits = new DataView(rest.buffer, rest.length - 8);
  bits.setUint32(0, Math.floor(bytes.length / 2 ** 29));
  bits.setUint32(4, (bytes.length * 8) >>> 0);
  const block = (data, at) => {
    for (let i = 0; i < 16; i++, at += 4) words[i] = (data[at] << 24) | (data[at + 1] << 16) | (data[at + 2] << 8) | data[at + 3];
    for (let i = 16; i < 64; i++) {
      const [x, y] = [words[i - 15], words[i - 2]];
      const before = ((x >>> 7) | (x << 25)) ^ ((x >>> 18) | (x << 14)) ^ (x >>> 3);
      const after = ((y >>> 17) | (y << 15)) ^ ((y >>> 19) | (y << 13)) ^ (y >>> 10);
      words[i] = words[i - 16] + before + words[i - 7] + after;
    }
    let [a, b, c, d, e, f, g, h] = state;
    for (let i = 0; i < 64; i++) {
      const turned = ((e >>> 6) | (e << 26)) ^ ((e >>> 11) | (e << 21)) ^ ((e >>> 25) | (e << 7));
      const first = (h + turned + ((e & f) ^ (~e & g)) + ROUNDS[i] + words[i]) | 0;
      const other = ((a >>> 2) | (a << 30)) ^ ((a >>> 13) | (a << 19)) ^ ((a >>> 22) | (a << 10));
      const second = (other + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      [h, g, f, e, d, c, b, a] = [g, f, e, (d + first) | 0, c, b, a, (first + second) | 0];
    }
    for (const [i, value] of [a, b, c, d, e, f, g, h].entries()) state[i] += value;
  };
  for (let at = 0; at < whole; at += 64) block(bytes, at);
  for (let at = 0; at < rest.length; at += 64) block(rest, at);
  const digest = new DataView(new ArrayBuffer(32));
  state.forEach((value, i) => digest.setUint32(4 * i, value));
  return new Uint8Array(digest.buffer);
}

/** The first 32 bits of the fractional parts of the cube roots of the first 64 primes. */
const ROUNDS = Uint32Array.from({ length: 64 }, (_, i) => {
  const prime = (n) => {
    for (let candidate = 2; ; candidate++) {
      let divisor = 2;
      while (divisor * divisor <= candidate && candidate % divisor) divisor++;
      if (divisor * divisor > candidate && n-- === 0) return candidate;
    }
  };
  const root = Math.cbrt(prime(i));
  return Math.floor((root - Math.floor(root)) * 2 ** 32);
});
