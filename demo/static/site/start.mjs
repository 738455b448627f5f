// Runs first, before the pages are read: whether models can run in this browser, and the worker that runs them, which begins at once to
// load onnxruntime-web.

/** Why no model can run in this browser, as a key of the catalogue; null where one can. */
export const obstacle = (() => {
  if (typeof WebAssembly !== "object" || typeof WebAssembly.validate !== "function") return "static.no wasm";
  // A module with one function, i8x16.popcnt of a splat (WebAssembly SIMD, "vector instructions").
  const simd = Uint8Array.of(0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11);
  return WebAssembly.validate(simd) ? null : "static.no simd";
})();

export const worker = obstacle === null ? new Worker(new URL("./worker.mjs", import.meta.url), { type: "module" }) : null;

/** What the worker died of, once it has. */
export const death = new Promise((resolve) => {
  worker?.addEventListener("error", (event) => {
    event.preventDefault();
    resolve(event.message || "worker.mjs");
  });
});
