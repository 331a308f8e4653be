/**
 * The golden check, in the order in which a host goes wrong: a replay without an engine, the ids
 * of prompts, each graph on recorded inputs, a run of its own. Everything is one run loop with
 * another engine below it; every tensor is compared as the loop computes it.
 */

import { Sessions } from "./engine.js";
import { RunError } from "./errors.js";
import { makePlan } from "./plan.js";
import { largestError, psnr, relativeError, sqnr } from "./recording.js";
import { Run } from "./run.js";
import { computedRows } from "./schedule.js";

/**
 * One comparison: a tensor's error, or how many decibels it keeps, and the limit of that.
 * @typedef {{what: string, tensor: string, error: number, limit: number, decibels?: boolean}} Compared
 */

// Absolute. PyTorch computes its noise in single precision, a few units in the last place of values
// up to 5; steps magnify last bits up to 100 times; tables may come from another machine's cosine.
const NOISE = 2e-6;
const REPLAYED = 1e-3;
const TABLES = 1e-4;

/** Whether a comparison holds. @param {Pick<Compared, "error" | "limit" | "decibels">} compared */
export function holds({ error, limit, decibels }) {
  return decibels ? error >= limit : error <= limit;
}

/** RunError naming the tensor that differs. @param {string} name @param {Compared} compared */
export function failure(name, { what, tensor, error, limit, decibels }) {
  const [off, allowed] = [error, limit].map((value) => `${Number(value.toPrecision(3))}`);
  const said = decibels
    ? `keeps ${off} dB of the golden run, ${allowed} dB are wanted`
    : `is ${off} off the golden run, ${allowed} is allowed`;
  return new RunError(`${name}: ${what}: '${tensor}' is the first tensor that differs: it ${said}`);
}

/** Everything that is a host's own work, where the recorded outputs stand in for the graphs. */
export async function replay(bundle, tokenizers, recording) {
  const { manifest } = bundle;
  const compared = ["stage_c", "stage_b"].flatMap((name) => tables(manifest, name));
  const engine = { open: async (graph) => replayed(manifest, recording, graph), computes: () => "f32" };
  const watch = { tensor: (name, values) => compared.push(...replayedTensor(name, values, recording)) };
  await runOf(manifest, engine, tokenizers, recording, watch).image();
  return compared;
}

/** A session that gives a graph's recorded outputs, of a denoiser one step's a call. */
function replayed(manifest, recording, graph) {
  const call = manifest.host.run.find((one) => one.graph === graph);
  let step = 0;
  const run = async () => {
    const owner = call.when === "step" ? `${call.stage}/${step}` : graph;
    step += 1;
    const names = manifest.graphs[graph].outputs.map(({ name }) => name);
    return new Map(names.map((name) => [name, recorded(recording, `${owner}.${name}`)]));
  };
  return { run, close: async () => {} };
}

function recorded(recording, name) {
  const tensor = recording.tensors.get(name);
  if (!tensor) throw new RunError(`the golden run has no '${name}', which the manifest's host.run names`);
  return tensor;
}

/** @returns {Compared[]} none where the golden run does not hold the tensor */
function replayedTensor(name, values, recording) {
  const golden = recording.tensors.get(name);
  if (!golden || name.endsWith(".epsilon")) return []; // which was handed out by `replayed`
  const isNoise = /\/(start\.latents|\d+\.noise)$/.test(name);
  const isComputed = /latents$|image_embedding$/.test(name);
  const limit = isNoise ? NOISE : isComputed ? REPLAYED : 0;
  const stage = name.includes("/") ? name.split("/")[0] : "wiring";
  const kind = isNoise ? ": noise" : ": latents after every step";
  return [
    {
      what: `replay: ${stage}${stage === "wiring" ? "" : kind}`,
      tensor: name,
      error: largestError(values, golden),
      limit,
    },
  ];
}

/** The manifest's schedule and timestep embeddings, computed again from its constants. */
function tables(manifest, name) {
  const denoiser = manifest.sampling[name];
  const rows = computedRows(denoiser, manifest.host.schedule, denoiser.timesteps);
  const flat = (list) => ({
    dims: [list.length, 4],
    data: Float64Array.from(list.flatMap(({ t, a, b, c }) => [t, a, b, c])),
  });
  const embedded = (list) => ({
    dims: [list.length],
    data: Float64Array.from(list.flatMap((row) => [...row])),
  });
  const what = `replay: ${name}: schedule and timestep embeddings`;
  const embeddings = largestError(embedded(rows.map((row) => row.embedding)), embedded(denoiser.embeddings));
  return [
    {
      what,
      tensor: `sampling.${name}.schedule`,
      error: largestError(flat(rows), flat(denoiser.schedule)),
      limit: TABLES,
    },
    { what, tensor: `sampling.${name}.embeddings`, error: embeddings, limit: TABLES },
  ];
}

/** The ids of every prompt of golden/tokens.json. @returns {Promise<Compared[]>} */
export async function tokens(bundle, tokenizers) {
  const { tokens: file } = bundle.manifest.host;
  const entries = file ? await bundle.readJson(file) : [];
  return entries.flatMap(({ prompt, input_ids: ids, length }) =>
    Object.keys(ids).map((graph) => {
      const encoding = tokenizers.get(graph).encode(prompt);
      const ones = encoding.mask.reduce((sum, value) => sum + value, 0);
      const differing = ids[graph].filter((id, i) => id !== encoding.inputIds[i]).length;
      const error = differing + Math.abs(ones - length[graph]);
      return {
        what: "tokens",
        tensor: `${graph}.input_ids of ${JSON.stringify(prompt.slice(0, 40))}`,
        error,
        limit: 0,
      };
    }),
  );
}

/**
 * Each graph on its recorded inputs: its own outputs are compared, then the recorded ones go on.
 * `steps` says which steps of a denoiser the engine computes; the others are only replayed.
 * @param {import("./engine.js").Engine} engine
 */
export async function graphs(bundle, engine, tokenizers, recording, steps = () => true) {
  const { manifest } = bundle;
  const compared = [];
  const open = async (graph) => forced(manifest, engine, recording, graph, steps, compared);
  await runOf(manifest, { ...engine, open }, tokenizers, recording, {}).image();
  return compared;
}

async function forced(manifest, engine, recording, graph, steps, compared) {
  const session = await engine.open(graph);
  const golden = replayed(manifest, recording, graph);
  const call = manifest.host.run.find((one) => one.graph === graph);
  const total = call.when === "step" ? denoiserSteps(recording, call.stage) : 1;
  let step = -1;
  const run = async (feeds) => {
    step += 1;
    const wanted = await golden.run();
    if (!steps(step, total)) return wanted;
    const owner = call.when === "step" ? `${call.stage}/${step}` : graph;
    const outputs = await session.run(exact(feeds, graph, recording));
    for (const [name, values] of outputs) {
      const limit = tolerance(manifest, engine, graph).graph_error;
      compared.push({
        what: `graph ${graph}`,
        tensor: `${owner}.${name}`,
        error: relativeError(values, wanted.get(name)),
        limit,
      });
    }
    return wanted;
  };
  return { run, close: () => session.close() };
}

/** The recorded inputs in place of those that only agree to the last bits. */
function exact(feeds, graph, recording) {
  return new Map(
    [...feeds].map(([name, values]) => [name, recording.tensors.get(`${graph}.${name}`) ?? values]),
  );
}

function denoiserSteps(recording, stage) {
  return [...recording.tensors.keys()].filter(
    (name) => name.startsWith(`${stage}/`) && name.endsWith(".epsilon"),
  ).length;
}

function tolerance(manifest, engine, graph) {
  const all = manifest.host.tolerances[graph];
  const found =
    all.find(({ compute }) => compute === engine.computes(graph)) ??
    all.find(({ compute }) => compute === "f32");
  if (!found) throw new RunError(`host.tolerances has none for ${graph} in ${engine.computes(graph)}`);
  return found;
}

/** A run of its own from the golden prompt and seed, by the loosest tolerance of all its graphs. */
export async function ownRun(bundle, engine, tokenizers, recording) {
  const { manifest } = bundle;
  const all = manifest.host.run.map(({ graph }) => tolerance(manifest, engine, graph));
  const latents = Math.min(...all.map(({ latent_db: decibels }) => decibels));
  const picture = Math.min(...all.map(({ picture_db: decibels }) => decibels));
  const compared = [];
  const tensor = (name, values) => {
    const golden = recording.tensors.get(name);
    if (golden && /\/\d+\.latents$/.test(name)) {
      compared.push({
        what: "own run: latents after every step",
        tensor: name,
        error: sqnr(values, golden),
        limit: latents,
        decibels: true,
      });
    } else if (golden && name.endsWith(".image")) {
      compared.push({
        what: "own run: picture",
        tensor: name,
        error: psnr(values, golden),
        limit: picture,
        decibels: true,
      });
    }
  };
  await runOf(manifest, engine, tokenizers, recording, { tensor }).image();
  return compared;
}

function runOf(manifest, engine, tokenizers, recording, watch) {
  return new Run(
    manifest,
    new Sessions(engine, true),
    tokenizers,
    makePlan(manifest, recording.options),
    watch,
  );
}
