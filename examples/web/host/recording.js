/** The golden run of a bundle, and how far values may be from it. */

import { RunError } from "./errors.js";
import { readSafetensors } from "./safetensors.js";
import { sameDims } from "./tensors.js";

const GOLDEN = "golden/run.safetensors";

/**
 * @typedef {{tensors: Map<string, import("./tensors.js").Tensor>, options: import("./plan.js").Options}} Recording
 * @param {import("./manifest.js").Bundle} bundle
 * @returns {Promise<Recording>}
 */
export async function readRecording(bundle) {
  if (!Object.hasOwn(bundle.manifest.files, GOLDEN)) {
    throw new RunError(`${bundle.name} has no golden run (${GOLDEN}): export without --no-golden`);
  }
  const { tensors, metadata } = readSafetensors(await bundle.read(GOLDEN), `${bundle.name}: ${GOLDEN}`);
  const steps = (text) => (text === "default" ? null : Number(text));
  const options = {
    prompt: metadata.prompt,
    negative: metadata.negative_prompt,
    seed: BigInt(metadata.seed),
    steps: steps(metadata.steps),
    decoderSteps: steps(metadata.decoder_steps),
    guidance: Number(metadata.guidance),
    decoderGuidance: Number(metadata.decoder_guidance),
    height: Number(metadata.height),
    width: Number(metadata.width),
  };
  return { tensors, options };
}

/** The largest absolute difference of any value; infinite for another shape. */
export function largestError(values, recorded) {
  if (!sameDims(values.dims, recorded.dims)) return Infinity;
  let largest = 0;
  for (let i = 0; i < values.data.length; i += 1) {
    const error = Math.abs(Number(values.data[i]) - Number(recorded.data[i]));
    if (!(error <= largest)) largest = error; // also where it is NaN
  }
  return largest;
}

/** L2 norm of the difference over that of the recorded values; infinite for another shape. */
export function relativeError(values, recorded) {
  return rootOfSquares(values, recorded) / norm(recorded);
}

/** Signal to noise in decibels. */
export function sqnr(values, recorded) {
  return -20 * Math.log10(relativeError(values, recorded));
}

/** Peak signal to noise in decibels, of values in 0..1. */
export function psnr(values, recorded) {
  return -20 * Math.log10(rootOfSquares(values, recorded) / Math.sqrt(recorded.data.length));
}

function rootOfSquares(values, recorded) {
  if (!sameDims(values.dims, recorded.dims)) return Infinity;
  return Math.sqrt(values.data.reduce((sum, value, i) => sum + (value - recorded.data[i]) ** 2, 0));
}

function norm({ data }) {
  return Math.sqrt(data.reduce((sum, value) => sum + value ** 2, 0)) || Number.MIN_VALUE;
}
