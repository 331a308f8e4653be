/** Parts of the JavaScript hosts by themselves: node js_units.mjs '{"noise": ..., ...}' prints what they make. */

import { checkFits as fitsNode } from "../examples/node/engine.js";
import { checkFits as fitsWeb } from "../examples/web/engine.js";
import { asOurs, oneLine } from "../examples/web/host/errors.js";
import { checkInside } from "../examples/web/host/manifest.js";
import { TorchNoise } from "../examples/web/host/noise.js";
import { toBytes } from "../examples/web/host/picture.js";
import { computedRows, evenTimesteps } from "../examples/web/host/schedule.js";
import { sizesFor } from "../examples/web/host/sizes.js";
import { Tokenizer } from "../examples/web/host/tokenizer.js";

/** What a call gives, or the error it throws. */
function result(call) {
  try {
    return call();
  } catch (error) {
    return { error: oneLine(error), exitCode: error.exitCode };
  }
}

const MAKE = {
  noise: ({ rules, seed, draws }) => {
    const source = new TorchNoise(rules, BigInt(seed));
    return draws.map((size) => [...source.draw([size]).data]);
  },
  schedule: ({ denoiser, rules, steps }) =>
    computedRows(denoiser, rules, evenTimesteps(steps)).map(({ embedding, ...row }) => ({
      ...row,
      embedding: [...embedding],
    })),
  sizes: ({ manifest, sizes }) =>
    sizes.map(([height, width]) => result(() => sizesFor(manifest, height, width))),
  ids: ({ spec, vocab, merges, prompts }) => {
    const tokenizer = new Tokenizer(spec, vocab, merges);
    return prompts.map((prompt) => tokenizer.tokens(prompt));
  },
  inside: ({ paths }) => paths.map((path) => result(() => checkInside(path, "here") ?? "inside")),
  bytes: ({ rules, values }) => [
    ...toBytes({ dims: [1, 3, 1, values.length / 3], data: Float32Array.from(values) }, rules).pixels,
  ],
};

Object.assign(MAKE, {
  fits: ({ manifest, graph, free }) => [
    result(() => fitsWeb(manifest, graph) ?? "fits"),
    result(() => fitsNode(manifest, graph, free) ?? "fits"),
  ],
  errors: ({ messages }) => messages.map((message) => asOurs(new Error(message), "it").message),
});

const asked = JSON.parse(process.argv[2]);
console.log(
  JSON.stringify(
    Object.fromEntries(Object.entries(asked).map(([name, values]) => [name, MAKE[name](values)])),
  ),
);
