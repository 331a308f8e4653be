/** From the last graph's image to bytes. */

/**
 * Rows of red, green and blue bytes of one picture.
 * @param {import("./tensors.js").Floats} image (1,3,H,W)
 * @param rules the manifest's `host.picture`
 * @returns {{height: number, width: number, pixels: Uint8Array}}
 */
export function toBytes(image, rules) {
  const [, channels, height, width] = image.dims;
  const [least, most] = rules.clamp;
  const area = height * width;
  const pixels = new Uint8Array(area * channels);
  for (let channel = 0; channel < channels; channel += 1) {
    for (let i = 0; i < area; i += 1) {
      const value = Math.min(Math.max(image.data[channel * area + i], least), most);
      pixels[i * channels + channel] = nearestEven(Math.fround(value * rules.scale));
    }
  }
  return { height, width, pixels };
}

function nearestEven(value) {
  const below = Math.floor(value);
  const rest = value - below;
  if (rest !== 0.5) return Math.round(value);
  return below % 2 === 0 ? below : below + 1;
}

/** Red, green and blue to what a canvas takes. */
export function withAlpha(pixels) {
  const area = pixels.length / 3;
  const rgba = new Uint8ClampedArray(area * 4).fill(255);
  for (let i = 0; i < area; i += 1) rgba.set(pixels.subarray(i * 3, i * 3 + 3), i * 4);
  return rgba;
}

/**
 * A look at latents: their first three channels, each stretched to its own range. No more than that
 * is in a bundle; of Stage B, whose latents Stage A only refines, it shows the picture's shapes.
 */
export function preview(latents) {
  const [, channels, height, width] = latents.dims;
  const area = height * width;
  const rgba = new Uint8ClampedArray(area * 4).fill(255);
  for (let shown = 0; shown < 3; shown += 1) {
    const channel = Math.min(shown, channels - 1);
    const values = latents.data.subarray(channel * area, (channel + 1) * area);
    const least = values.reduce((x, y) => Math.min(x, y), Infinity);
    const range = values.reduce((x, y) => Math.max(x, y), -Infinity) - least || 1;
    for (let i = 0; i < area; i += 1) rgba[i * 4 + shown] = ((values[i] - least) / range) * 255;
  }
  return { height, width, rgba };
}
