/** The one interface between the run loop and what computes graphs, and ONNX Runtime's half of it. */

import { asOurs, RunError } from "./errors.js";
import { count } from "./tensors.js";

/**
 * `run` takes and gives tensors by name. `computes` is what a graph's products are computed in:
 * f32, f16 or bf16, by which the golden run's tolerances go.
 * @typedef {{run(feeds: Map<string, import("./tensors.js").Tensor>): Promise<Map<string, import("./tensors.js").Tensor>>,
 *            close(): Promise<void>}} Session
 * @typedef {{open(graph: string): Promise<Session>, computes(graph: string): string}} Engine
 */

const TYPES = { float32: Float32Array, int64: BigInt64Array };

/** Session options that all of ONNX Runtime's builds take, from the manifest's `host.sessions`. */
export function sessionOptions(manifest, graph) {
  const rules = manifest.host.sessions.onnxruntime;
  if (!rules) return {};
  const held = manifest.graphs[graph].compute === "f32" ? rules.config_f32 : {};
  const config = { ...rules.config, ...held };
  return {
    // With open shapes the memory pattern doubles memory on a CPU, and saves no time.
    enableMemPattern: rules.memory_pattern ?? true,
    ...(Object.keys(config).length > 0 && { extra: nested(config) }),
    logSeverityLevel: 4, // errors are raised; nothing but a crash is printed as well
  };
}

/** 'session.key' as onnxruntime-common takes it: {session: {key: value}}. */
function nested(config) {
  const extra = {};
  for (const [key, value] of Object.entries(config)) {
    const parts = key.split(".");
    const last = parts.pop();
    parts.reduce((at, part) => (at[part] ??= {}), extra)[last] = value;
  }
  return extra;
}

/**
 * A graph in an InferenceSession. onnxruntime-web and onnxruntime-node share this interface.
 * @param ort the module @param session @param spec the manifest's of the graph
 * @returns {Session}
 */
export function ortSession(ort, session, graph, spec) {
  const types = new Map(spec.inputs.map(({ name, dtype }) => [name, dtype]));
  const run = async (feeds) => {
    const inputs = {};
    for (const [name, { dims, data }] of feeds) inputs[name] = new ort.Tensor(types.get(name), data, dims);
    try {
      return await outputsOf(await session.run(inputs), spec);
    } catch (error) {
      throw asOurs(error, `ONNX Runtime failed in ${graph}`);
    }
  };
  return { run, close: () => session.release() };
}

async function outputsOf(results, spec) {
  const outputs = new Map();
  for (const { name, dtype } of spec.outputs) {
    const result = results[name];
    const data = await result.getData(); // waits for a GPU
    if (!(data instanceof TYPES[dtype]) || data.length !== count(result.dims)) {
      throw new RunError(`'${name}' is not ${dtype}, as the manifest says`);
    }
    outputs.set(name, { dims: [...result.dims], data });
  }
  return outputs;
}

/** Open sessions: all that were used, or one at a time. */
export class Sessions {
  #engine;
  #oneAtATime;
  #open = new Map();

  /** @param {Engine} engine */
  constructor(engine, oneAtATime) {
    this.#engine = engine;
    this.#oneAtATime = oneAtATime;
  }

  /** @returns {Promise<Session>} */
  async get(graph) {
    if (!this.#open.has(graph)) {
      if (this.#oneAtATime) await this.close();
      this.#open.set(graph, await this.#engine.open(graph));
    }
    return this.#open.get(graph);
  }

  async close() {
    const sessions = [...this.#open.values()];
    this.#open.clear();
    for (const session of sessions) await session.close();
  }
}
