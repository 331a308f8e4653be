/** onnxruntime-node: graphs from their paths, so that weights are mapped, not copied. */

import { freemem } from "node:os";

import { asOurs, RunError, UsageError } from "../web/host/errors.js";
import { ortSession, sessionOptions } from "../web/host/engine.js";
import { verifiedPath } from "./files.js";

/**
 * @param {import("../web/host/manifest.js").Bundle} bundle
 * @param {{threads: number | null}} options
 * @returns {Promise<import("../web/host/engine.js").Engine>}
 */
export async function nodeEngine(bundle, { threads }) {
  const ort = await load();
  const { graphs } = bundle.manifest;

  const open = async (graph) => {
    const spec = graphs[graph];
    checkFits(bundle.manifest, graph, process.availableMemory?.() ?? freemem());
    // ONNX Runtime finds the weights beside the graph by itself, under `location`.
    for (const { file } of spec.data) await verifiedPath(bundle, file);
    const options = {
      ...sessionOptions(bundle.manifest, graph),
      ...(threads && { intraOpNumThreads: threads }),
    };
    const file = await verifiedPath(bundle, spec.file);
    try {
      return ortSession(ort, await ort.InferenceSession.create(file, options), graph, spec);
    } catch (error) {
      throw asOurs(error, `ONNX Runtime cannot load ${spec.file}`);
    }
  };
  // Its CPU kernels widen fp16; integer products are what the bundle's own tolerances allow for.
  return { open, computes: () => "f32" };
}

/** RunError where the weights alone are more than what is free: the system would end the process. */
export function checkFits({ graphs, files }, graph, free) {
  const { file, data } = graphs[graph];
  const bytes = [file, ...data.map((part) => part.file)].reduce((sum, path) => sum + files[path].size, 0);
  if (bytes < free) return;
  const [wanted, there] = [bytes, free].map((count) => `${(count / 1e9).toFixed(1)} GB`);
  throw new RunError(
    `out of memory: ${graph} has ${wanted} of weights, ${there} are free; try --low-memory, or take an int8 or int4 bundle`,
  );
}

async function load() {
  try {
    process.env.ORT_DISABLE_TELEMETRY ??= "1"; // its own builds gather and send unless told so before they load
    return (await import("onnxruntime-node")).default;
  } catch (error) {
    if (error.code !== "ERR_MODULE_NOT_FOUND") throw asOurs(error, "onnxruntime-node does not load");
    throw new UsageError("onnxruntime-node is not installed: npm install, in the folder of this program");
  }
}
