/** From picture size to latent sizes, and which sizes the stages can make. */

import { UsageError } from "./errors.js";

/** @typedef {{stage_c: number[], stage_b: number[], picture: number[]}} Sizes heights and widths */

/**
 * Latent sizes of a picture asked for in pixels; what is made may differ a little, by two roundings.
 * UsageError where Stage B's down and up path does not close, with the nearest sizes that do.
 * @returns {Sizes}
 */
export function sizesFor(manifest, height, width) {
  const { sampling, host } = manifest;
  if (height === null && width === null) return host.sizes[0];
  const rows = side(height ?? sampling.height, "height", sampling);
  const columns = side(width ?? sampling.width, "width", sampling);
  const both = (name) => [rows[name], columns[name]];
  return { stage_c: both("cells"), stage_b: both("latent"), picture: both("pixels") };
}

function side(pixels, name, sampling) {
  if (!(pixels >= 1)) throw new UsageError(`--${name} is ${pixels}; it must be at least 1 pixel`);
  const cells = Math.ceil(pixels / sampling.resolution_multiple);
  const latent = latentSide(cells, sampling);
  if (!closes(cells, sampling)) {
    throw new UsageError(
      `--${name} ${pixels} gives Stage B a latent side of ${latent}, no multiple of ` +
        `${sampling.stage_b_multiple}; ${nearest(cells, name, sampling)}`,
    );
  }
  return { cells, latent, pixels: latent * sampling.stage_a_scale };
}

function latentSide(cells, sampling) {
  return Math.trunc(cells * sampling.latent_dim_scale);
}

function closes(cells, sampling) {
  const latent = latentSide(cells, sampling);
  return latent > 0 && latent % sampling.stage_b_multiple === 0;
}

function nearest(cells, name, sampling) {
  // A multiple of Stage B's side is met within this many cells, whatever the ratio.
  const reach = 64 * sampling.stage_b_multiple;
  const found = [];
  let below = cells - 1;
  while (below > 0 && !closes(below, sampling)) below -= 1;
  if (below > 0) found.push(below);
  let above = cells + 1;
  while (above < cells + reach && !closes(above, sampling)) above += 1;
  if (above < cells + reach) found.push(above);
  const sides = found.map((n) => Math.trunc(n * sampling.resolution_multiple));
  if (sides.length === 0) return `no ${name} is valid: this checkpoint's stages do not fit together`;
  return sides.length === 1
    ? `the nearest valid ${name} is ${sides[0]}`
    : `the nearest valid ${name}s are ${sides.join(" and ")}`;
}
