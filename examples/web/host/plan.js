/** Options with every default filled in and checked, before anything is computed. */

import { UsageError } from "./errors.js";
import { TorchNoise } from "./noise.js";
import { rowsFor } from "./schedule.js";
import { sizesFor } from "./sizes.js";

/**
 * What a user may ask for; null takes the bundle's default, which is the checkpoint's.
 * @typedef {{prompt: string, negative: string, seed: bigint | number, steps: number | null, guidance: number | null,
 *            decoderSteps: number | null, decoderGuidance: number | null, height: number | null, width: number | null}} Options
 * @typedef {{name: string, rows: import("./schedule.js").Row[], guidance: number, guided: boolean, shape: number[]}} Stage
 * @typedef {{prompt: string, negative: string, seed: bigint | number, stages: Record<string, Stage>,
 *            sizes: import("./sizes.js").Sizes, noise: TorchNoise}} Plan
 */

/** @type {Options} */
export const DEFAULTS = {
  prompt: "",
  negative: "",
  seed: 0,
  steps: null,
  guidance: null,
  decoderSteps: null,
  decoderGuidance: null,
  height: null,
  width: null,
};

/** One picture at a time. */
const PICTURES = 1;

/** @param manifest @param {Partial<Options>} asked @returns {Plan} */
export function makePlan(manifest, asked) {
  const options = { ...DEFAULTS, ...asked };
  const sizes = sizesFor(manifest, options.height, options.width);
  const stages = {
    stage_c: stage("stage_c", options.steps, options.guidance, manifest, sizes),
    stage_b: stage("stage_b", options.decoderSteps, options.decoderGuidance, manifest, sizes),
  };
  const noise = new TorchNoise(manifest.host.noise, options.seed);
  const plan = {
    prompt: options.prompt,
    negative: options.negative,
    seed: options.seed,
    stages,
    sizes,
    noise,
  };
  checkFixedShapes(manifest, plan);
  return plan;
}

function stage(name, steps, scale, manifest, sizes) {
  const denoiser = manifest.sampling[name];
  const guidance = scale ?? denoiser.guidance;
  if (!Number.isFinite(guidance))
    throw new UsageError(`the guidance scale is ${guidance}; it must be a number`);
  return {
    name,
    rows: rowsFor(denoiser, manifest.host.schedule, steps),
    guidance,
    guided: guidance > manifest.host.guidance.off_at,
    shape: [PICTURES, denoiser.channels, ...sizes[name]],
  };
}

/** Rows of a call's batch. */
export function batchRows(call, plan) {
  if (call.rows === "prompts_and_negatives") return 2 * PICTURES;
  return call.rows === "guided" && plan.stages[call.stage].guided ? 2 * PICTURES : PICTURES;
}

/** UsageError where graphs of fixed shape cannot serve this size or guidance. */
function checkFixedShapes(manifest, plan) {
  const [height, width] = plan.sizes.picture;
  const possible = manifest.sizes;
  if (possible.length > 0 && !possible.some((size) => size[0] === height && size[1] === width)) {
    const all = possible.map((size) => size.join(" x ")).join(", ");
    throw new UsageError(
      `this bundle makes pictures of ${all} pixels (height x width) only, this run asks for ${height} x ${width}; export it for that size`,
    );
  }
  for (const call of manifest.host.run) {
    const fixed = manifest.graphs[call.graph].inputs[0].shape[0];
    const wanted = batchRows(call, plan);
    if (typeof fixed === "number" && fixed !== wanted) {
      throw new UsageError(
        `${call.graph} was exported for a batch of ${fixed}, this run needs ${wanted} (one picture, doubled under guidance); ` +
          "change guidance, or export without --static",
      );
    }
  }
}
