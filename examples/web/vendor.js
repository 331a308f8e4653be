/** Copies what the page loads of onnxruntime-web into vendor/: npm run vendor. */

import { copyFileSync, mkdirSync, rmSync } from "node:fs";

const FROM = new URL("node_modules/onnxruntime-web/", import.meta.url);
const TO = new URL("vendor/", import.meta.url);
// WebAssembly alone, and WebGPU with WebAssembly: a module and its binary each.
const FILES = [
  "dist/ort.wasm.bundle.min.mjs",
  "dist/ort-wasm-simd-threaded.wasm",
  "dist/ort.webgpu.bundle.min.mjs",
  "dist/ort-wasm-simd-threaded.asyncify.wasm",
  "LICENSE",
];

rmSync(TO, { recursive: true, force: true });
mkdirSync(TO);
for (const file of FILES) {
  try {
    copyFileSync(new URL(file, FROM), new URL(file.split("/").at(-1), TO));
  } catch (error) {
    if (file === "LICENSE") continue; // not in every release's package
    console.error(`error: ${error.message}; run 'npm install' first`);
    process.exit(1);
  }
}
