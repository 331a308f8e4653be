/** onnxruntime-web: WebAssembly with as many threads as the page may have, WebGPU where there is one. */

import { ortSession, sessionOptions } from "./host/engine.js";
import { asOurs, RunError, UsageError } from "./host/errors.js";

const VENDOR = new URL("vendor/", import.meta.url).href;
const MODULES = {
  wasm: ["ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"],
  webgpu: ["ort.webgpu.bundle.min.mjs", "ort-wasm-simd-threaded.asyncify.wasm"],
};
const WASM_MEMORY = 2 ** 32;
// Of ONNX Runtime's own operators, WebGPU's attention gives other values than the CPU's.
const WRONG_ON_WEBGPU = "MultiHeadAttention";

/**
 * @param {import("./host/manifest.js").Bundle} bundle
 * @param {"auto" | "wasm" | "webgpu"} wanted
 * @param {(note: string) => void} say told where a graph runs elsewhere than asked for
 * @returns {Promise<import("./host/engine.js").Engine & {about: string}>}
 */
export async function webEngine(bundle, wanted, say) {
  const provider = await chosen(wanted);
  const ort = await load(provider);
  const { graphs } = bundle.manifest;

  const open = async (graph) => {
    const spec = graphs[graph];
    if (provider === "wasm") checkFits(bundle.manifest, graph);
    const model = await bundle.read(spec.file);
    const onGpu = provider === "webgpu" && !holdsText(model, WRONG_ON_WEBGPU);
    if (provider === "webgpu" && !onGpu)
      say(`${graph} runs on WebAssembly: ${WRONG_ON_WEBGPU} is wrong on WebGPU`);
    const externalData = [];
    for (const { file, location } of spec.data)
      externalData.push({ path: location, data: await bundle.read(file) });
    const options = {
      ...sessionOptions(bundle.manifest, graph),
      externalData,
      executionProviders: [onGpu ? "webgpu" : "wasm"],
    };
    try {
      return ortSession(ort, await ort.InferenceSession.create(model, options), graph, spec);
    } catch (error) {
      throw asOurs(error, `ONNX Runtime cannot load ${spec.file}`);
    }
  };

  // WebAssembly widens fp16, WebGPU computes in it.
  const computes = (graph) => (provider === "webgpu" && graphs[graph].precision === "fp16" ? "f16" : "f32");
  const threads = ort.env.wasm.numThreads;
  const about =
    provider === "webgpu" ? "WebGPU" : `WebAssembly, ${threads} ${threads === 1 ? "thread" : "threads"}`;
  return { open, computes, about };
}

/** WebGPU where there is a GPU for it, WebAssembly everywhere. */
async function chosen(wanted) {
  if (wanted === "wasm") return "wasm";
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  // One that is computed by the CPU is far slower than WebAssembly; it is taken where asked for.
  if (adapter && (wanted === "webgpu" || !adapter.info?.isFallbackAdapter)) return "webgpu";
  if (wanted === "webgpu") throw new UsageError("this browser has no WebGPU; choose WebAssembly");
  return "wasm";
}

async function load(provider) {
  const [module, binary] = MODULES[provider];
  const ort = await import(`${VENDOR}${module}`).catch((error) => {
    throw asOurs(error, "onnxruntime-web is not in vendor/: run 'npm install' and 'npm run vendor'");
  });
  ort.env.wasm.wasmPaths = { wasm: `${VENDOR}${binary}` };
  // Without cross-origin isolation there is no memory that threads could share.
  ort.env.wasm.numThreads = self.crossOriginIsolated ? navigator.hardwareConcurrency : 1;
  ort.env.logLevel = "error";
  return ort;
}

/** RunError where a graph's weights alone are more than a WebAssembly memory holds. */
export function checkFits({ graphs, files }, graph) {
  const { file, data } = graphs[graph];
  const bytes = [file, ...data.map((part) => part.file)].reduce((sum, path) => sum + files[path].size, 0);
  if (bytes < WASM_MEMORY) return;
  const said = `${graph} has ${(bytes / 1e9).toFixed(1)} GB of weights, and a WebAssembly memory ends at 4 GiB`;
  throw new RunError(`out of memory: ${said}; take an int8 or int4 bundle`);
}

/** Whether bytes hold an ASCII text: a graph names its operators in the clear. */
function holdsText(bytes, text) {
  const wanted = new TextEncoder().encode(text);
  for (let at = bytes.indexOf(wanted[0]); at >= 0; at = bytes.indexOf(wanted[0], at + 1)) {
    if (wanted.every((byte, i) => bytes[at + i] === byte)) return true;
  }
  return false;
}
