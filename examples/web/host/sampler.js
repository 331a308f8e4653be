/** The arithmetic between graphs, in fp32, one operation after the other. */

const f = Math.fround;

/**
 * The latents after a step: a * x + b * epsilon + c * noise.
 * @param {import("./schedule.js").Row} row
 * @param {import("./tensors.js").Floats} latents (B,C,H,W), as is `noise`
 * @param {import("./tensors.js").Floats} epsilon as the graph gives it, both halves under guidance
 * @param {{guided: boolean, guidance: number}} stage
 * @returns {import("./tensors.js").Floats}
 */
export function advance(row, latents, epsilon, noise, stage) {
  const [a, b, c] = [f(row.a), f(row.b), f(row.c)];
  const guided = stage.guided ? guide(epsilon.data, f(stage.guidance)) : epsilon.data;
  const data = new Float32Array(latents.data.length);
  for (let i = 0; i < data.length; i += 1) {
    data[i] = f(f(a * latents.data[i]) + f(b * guided[i])) + f(c * noise.data[i]);
  }
  return { dims: latents.dims, data };
}

/** Classifier-free guidance: the conditional half comes first. */
function guide(epsilon, scale) {
  const half = epsilon.length / 2;
  const guided = new Float32Array(half);
  for (let i = 0; i < half; i += 1) {
    const unconditional = epsilon[half + i];
    guided[i] = unconditional + f(scale * f(epsilon[i] - unconditional));
  }
  return guided;
}

/** What Stage B is told of Stage C's latents. @returns {import("./tensors.js").Floats} */
export function imageEmbedding(latents, sampling) {
  const [mean, deviation] = [f(sampling.latent_mean), f(sampling.latent_std)];
  return { dims: latents.dims, data: latents.data.map((x) => f(x * mean) - deviation) };
}
