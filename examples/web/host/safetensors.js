/** The golden run: eight bytes of header length, a JSON header of offsets, then the values. */

import { RunError } from "./errors.js";

const TYPES = { F32: Float32Array, I64: BigInt64Array };

/**
 * @param {Uint8Array} bytes
 * @returns {{tensors: Map<string, import("./tensors.js").Tensor>, metadata: Record<string, string>}}
 */
export function readSafetensors(bytes, name) {
  try {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const start = 8 + Number(view.getBigUint64(0, true));
    const { __metadata__: metadata = {}, ...entries } = JSON.parse(
      new TextDecoder().decode(bytes.subarray(8, start)),
    );
    const tensors = new Map();
    for (const [key, entry] of Object.entries(entries))
      tensors.set(key, tensorOf(entry, bytes.subarray(start)));
    return { tensors, metadata };
  } catch {
    throw new RunError(`${name} is no safetensors file, or it is cut off; export the bundle again`);
  }
}

function tensorOf({ dtype, shape, data_offsets: [from, to] }, body) {
  // A copy: a view of 64-bit integers would have to start at a multiple of 8 bytes.
  const data = new TYPES[dtype](body.slice(from, to).buffer);
  return { dims: shape, data };
}
