/**
 * Timesteps, the steps between them and their embeddings, for numbers of steps that the manifest
 * does not tabulate. In fp32 at every operation, hence `f` (Math.fround) around each: a timestep
 * that differs in its last bit moves the embedding's angles, up to 10000, by 6e-4.
 */

import { UsageError } from "./errors.js";

const f = Math.fround;

/** @typedef {{t: number, a: number, b: number, c: number, embedding: Float32Array}} Row */

/**
 * The steps of a denoiser: the manifest's own, or `steps` even ones.
 * @param denoiser the manifest's `sampling.stage_c` or `.stage_b`
 * @param rules the manifest's `host.schedule`
 * @param {number | null} steps
 * @returns {Row[]}
 */
export function rowsFor(denoiser, rules, steps) {
  if (steps !== null) return computedRows(denoiser, rules, evenTimesteps(steps));
  return denoiser.schedule.map((row, i) => ({
    ...row,
    embedding: Float32Array.from(denoiser.embeddings[i]),
  }));
}

/** Rows of any timesteps, from the manifest's constants. @returns {Row[]} */
export function computedRows(denoiser, rules, timesteps) {
  const share = timesteps.map((t) => alphaCumprod(t, denoiser, rules));
  return timesteps.slice(0, -1).map((t, i) => ({
    t,
    ...coefficients(share[i], share[i + 1], timesteps[i + 1] === 0),
    embedding: timestepEmbedding(t, denoiser, rules),
  }));
}

/** `steps` even steps from 1 to 0, bit-equal to torch.linspace(1, 0, steps + 1). */
export function evenTimesteps(steps) {
  if (!Number.isInteger(steps) || steps < 1) {
    throw new UsageError(`the number of steps is ${steps}; it must be at least 1`);
  }
  const step = f(-1 / steps);
  // PyTorch computes the first half from the start and the second from the end.
  const rising = (i) => f(1 + step * i);
  const falling = (i) => f(0 - step * (steps - i));
  return Array.from({ length: steps + 1 }, (_, i) =>
    i < Math.floor((steps + 1) / 2) ? rising(i) : falling(i),
  );
}

/** The cosine schedule's share of signal at t, clamped. */
function alphaCumprod(t, { s, scaler }, rules) {
  const halfPi = f(f(Math.PI) * 0.5);
  const offset = f(s);
  const squaredCosine = (at) => {
    const cosine = f(Math.cos(f(f(f(at + offset) / f(1 + offset)) * halfPi)));
    return f(cosine * cosine);
  };
  const [least, most] = rules.alpha_clamp.map(f);
  const share = f(squaredCosine(bent(t, scaler)) / squaredCosine(0));
  return Math.min(Math.max(share, least), most);
}

function bent(t, scaler) {
  if (scaler > 1) return f(1 - f(f(1 - t) ** f(scaler)));
  return scaler < 1 ? f(t ** f(scaler)) : t;
}

/** x' = a * x + b * epsilon + c * noise, from one share of signal to the next. */
function coefficients(now, then, last) {
  const alpha = f(now / then);
  const a = f(Math.sqrt(f(1 / alpha)));
  const b = f(f(-a * f(1 - alpha)) / f(Math.sqrt(f(1 - now))));
  const variance = f(f(f(1 - alpha) * f(1 - then)) / f(1 - now));
  return { a, b, c: last ? 0 : f(Math.sqrt(variance)) };
}

/** Sines, cosines, padding: one row of the timestep embedding. */
function timestepEmbedding(t, denoiser, rules) {
  const scaled = f(f(t) * f(rules.timestep_scale));
  const angles = denoiser.timestep_frequencies.map((frequency) => f(scaled * f(frequency)));
  const padding = new Array(denoiser.timestep_padding).fill(0);
  return Float32Array.from([...angles.map(Math.sin), ...angles.map(Math.cos), ...padding]);
}
