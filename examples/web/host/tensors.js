/** Tensors as plain data, and the few operations on their rows that a host needs. */

import { RunError } from "./errors.js";

/**
 * Sides and values; ids and masks are 64-bit integers, all else is fp32.
 * @typedef {{dims: number[], data: Float32Array}} Floats
 * @typedef {{dims: number[], data: Float32Array | BigInt64Array}} Tensor
 */

/** How many values a tensor of these dimensions has. */
export function count(dims) {
  return dims.reduce((product, side) => product * side, 1);
}

/** The rows of `first`, then those of `second`. @returns {Tensor} */
export function concatRows(first, second) {
  const data = new first.data.constructor(first.data.length + second.data.length);
  data.set(first.data);
  data.set(second.data, first.data.length);
  return { dims: [first.dims[0] + second.dims[0], ...first.dims.slice(1)], data };
}

/** The first half of the rows. @returns {Tensor} */
export function firstHalf(tensor) {
  const rows = tensor.dims[0] / 2;
  return { dims: [rows, ...tensor.dims.slice(1)], data: tensor.data.slice(0, tensor.data.length / 2) };
}

/** As many zeros. @returns {Tensor} */
export function zerosLike(tensor) {
  return { dims: tensor.dims, data: new tensor.data.constructor(tensor.data.length) };
}

export function sameDims(first, second) {
  return first.length === second.length && first.every((side, axis) => side === second[axis]);
}

/** RunError when a tensor has a NaN or an infinity; `where` names graph and step. */
export function checkFinite(tensor, where, advice) {
  if (!(tensor.data instanceof Float32Array)) return;
  let bad = 0;
  for (const value of tensor.data) if (!Number.isFinite(value)) bad += 1;
  if (bad > 0) {
    const said = `${where} gave ${bad} of ${tensor.data.length} values that are NaN or infinite`;
    throw new RunError(`${said}; ${advice}`);
  }
}
