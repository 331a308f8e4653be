/**
 * All work, off the page's own thread: bundles, graphs, checks. A message is {kind, ...}; what comes
 * back is {kind, ...} too, and {kind: "error", message} where the work failed.
 */

import { webEngine } from "./engine.js";
import { failure, graphs, holds, ownRun, replay, tokens } from "./host/check.js";
import { Sessions } from "./host/engine.js";
import { asOurs, UsageError } from "./host/errors.js";
import { openBundle } from "./host/manifest.js";
import { preview, toBytes, withAlpha } from "./host/picture.js";
import { makePlan } from "./host/plan.js";
import { readRecording } from "./host/recording.js";
import { Run } from "./host/run.js";
import { loadTokenizers } from "./host/tokenizer.js";
import { fetchedFiles, forget, keep, keptBundles, keptFiles, pickedFiles } from "./storage.js";

// Graphs stay open from picture to picture up to so many bytes: a WebAssembly memory ends at 4 GiB.
const HELD_AT_MOST = 2 ** 30;

/** @type {{bundle: import("./host/manifest.js").Bundle, tokenizers: Map<string, import("./host/tokenizer.js").Tokenizer>} | null} */
let current = null;
/** @type {{wanted: string, engine: import("./host/engine.js").Engine, sessions: Sessions, about: string} | null} */
let computing = null;

const tell = (kind, values = {}) => postMessage({ kind, ...values });
const say = (text) => tell("note", { text });

const DO = {
  async list() {
    tell("kept", { bundles: await keptBundles() });
  },

  async pick({ name, files }) {
    await open(await openBundle(pickedFiles(name, new Map(files))));
  },

  async fetch({ address }) {
    await open(await openBundle(fetchedFiles(address)));
  },

  async reopen({ key, name }) {
    await use(await openBundle(keptFiles(key, name)), key);
  },

  async forget({ key }) {
    await forget(key);
    await DO.list();
  },

  async run({ options, engine }) {
    const { bundle, tokenizers } = needed();
    const plan = makePlan(bundle.manifest, options);
    const start = performance.now();
    const { sessions, about } = await engineFor(bundle, engine);
    const run = new Run(bundle.manifest, sessions, tokenizers, plan, watch);
    const picture = toBytes(await run.image(), bundle.manifest.host.picture);
    const total = (performance.now() - start) / 1000;
    const { height, width, pixels } = picture;
    tell("picture", {
      height,
      width,
      rgba: withAlpha(pixels),
      seconds: { total, graphs: run.seconds },
      about,
    });
  },

  /** `parts`: of the golden check; `steps`: "ends" computes each denoiser's first and last only. */
  async check({ engine, parts = ["replay", "tokens", "graphs", "run"], steps = "all" }) {
    const { bundle, tokenizers } = needed();
    const recording = await readRecording(bundle);
    const onGraphs = async () => (await engineFor(bundle, engine)).engine;
    const wanted = steps === "ends" ? (step, total) => step === 0 || step === total - 1 : () => true;
    const checks = {
      replay: () => replay(bundle, tokenizers, recording),
      tokens: () => tokens(bundle, tokenizers),
      graphs: async () => graphs(bundle, await onGraphs(), tokenizers, recording, wanted),
      run: async () => ownRun(bundle, await onGraphs(), tokenizers, recording),
    };
    for (const part of parts) {
      const compared = await checks[part]();
      tell("compared", { part, compared });
      const differing = compared.find((comparison) => !holds(comparison));
      if (differing) throw failure(bundle.name, differing);
    }
    tell("checked");
  },
};

const watch = {
  step: (name, done, total, latents) =>
    tell("step", { name, done, total, preview: latents && preview(latents) }),
  truncated: (prompt, lost) => say(`The prompt is too long: it was cut off before '${lost}'.`),
};

function needed() {
  if (current === null) throw new UsageError("there is no bundle yet; choose a folder or fetch one");
  return current;
}

/** Keep a bundle that came from outside, then work from what was kept. */
async function open(bundle) {
  const key = await keep(bundle, (done, total) => tell("keeping", { done, total }));
  await use(await openBundle(keptFiles(key, bundle.name)), key);
  await DO.list();
}

async function use(bundle, key) {
  await computing?.sessions.close();
  [current, computing] = [null, null];
  current = { bundle, tokenizers: await loadTokenizers(bundle) };
  const { model, precision, host, sampling } = bundle.manifest;
  const [height, width] = host.sizes[0].picture;
  const steps = [sampling.stage_c, sampling.stage_b].map(({ schedule }) => schedule.length);
  const guidance = [sampling.stage_c, sampling.stage_b].map((denoiser) => denoiser.guidance);
  tell("opened", { key, name: model.id, precision, height, width, steps, guidance });
}

async function engineFor(bundle, wanted) {
  if (computing?.wanted !== wanted) {
    await computing?.sessions.close();
    const engine = await webEngine(bundle, wanted, say);
    const bytes = Object.values(bundle.manifest.files).reduce((sum, { size }) => sum + size, 0);
    computing = { wanted, engine, sessions: new Sessions(engine, bytes > HELD_AT_MOST), about: engine.about };
  }
  return computing;
}

// One after the other, in the order of the messages.
let last = Promise.resolve();
addEventListener("message", ({ data: { kind, ...values } }) => {
  last = last
    .then(() => DO[kind](values))
    .catch((error) => {
      const ours = asOurs(error, "the run failed");
      tell("error", { message: ours.message, exitCode: ours.exitCode });
    });
});
