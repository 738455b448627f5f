// Copies what the page needs of onnxruntime-web (MIT licence) to ort/: npm run build

import { copyFile, mkdir } from "node:fs/promises";

const from = new URL("./node_modules/onnxruntime-web/", import.meta.url);
const to = new URL("./ort/", import.meta.url);
await mkdir(to, { recursive: true });
for (const name of ["ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"]) {
  await copyFile(new URL(`dist/${name}`, from), new URL(name, to));
}
