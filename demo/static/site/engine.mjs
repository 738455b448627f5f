// What onnxruntime-web imports in place of its ort-wasm-simd-threaded.mjs: the same, with WebAssembly that was compiled while it arrived.
// Emscripten's documentation has the place for it: Module.instantiateWasm.

import { load, loadCompiled } from "./files.mjs";

let compiled = null;

/** Loads it. progress(got, size): as it arrives. */
export function loadEngine(progress) {
  compiled = loadCompiled("ort/ort-wasm-simd-threaded.wasm", progress);
  return Promise.all([compiled, load("ort/ort-wasm-simd-threaded.mjs")]);
}

export default async function engine(config) {
  const { default: factory } = await import("./ort/ort-wasm-simd-threaded.mjs");
  const module = await compiled;
  return new Promise((resolve, reject) => {
    const instantiateWasm = (imports, done) => {
      WebAssembly.instantiate(module, imports).then((instance) => done(instance, module)).catch(reject);
      return {};
    };
    factory({ ...config, instantiateWasm }).then(resolve, reject);
  });
}
