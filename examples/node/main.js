/** A bundle and a prompt to a PNG file: node main.js BUNDLE PROMPT. */

import { access, constants, rename, stat, writeFile } from "node:fs/promises";
import path from "node:path";

import { failure, graphs, holds, ownRun, replay, tokens } from "../web/host/check.js";
import { Sessions } from "../web/host/engine.js";
import { asOurs, RunError, UsageError } from "../web/host/errors.js";
import { openBundle } from "../web/host/manifest.js";
import { toBytes } from "../web/host/picture.js";
import { makePlan } from "../web/host/plan.js";
import { readRecording } from "../web/host/recording.js";
import { Run } from "../web/host/run.js";
import { loadTokenizers } from "../web/host/tokenizer.js";
import { nodeEngine } from "./engine.js";
import { Folder } from "./files.js";
import { HELP, readOptions } from "./options.js";
import { encodePng } from "./png.js";

async function main(argv) {
  const options = readOptions(argv);
  if (options.help) {
    console.log(HELP);
    return;
  }
  if (!options.check && !options.replay) await checkWritable(options.output);
  const bundle = await openBundle(new Folder(options.bundle));
  await (options.check || options.replay ? check(bundle, options) : makePicture(bundle, options));
}

async function makePicture(bundle, options) {
  const start = performance.now();
  const plan = makePlan(bundle.manifest, options.picture);
  const engine = await nodeEngine(bundle, options);
  const sessions = new Sessions(engine, options.lowMemory);
  const run = new Run(bundle.manifest, sessions, await loadTokenizers(bundle), plan, watch(options));
  const picture = toBytes(await run.image(), bundle.manifest.host.picture);
  await sessions.close();
  await save(options.output, encodePng(picture, { wuerstchen: JSON.stringify(parameters(plan)) }));
  report(options, picture, run.seconds, (performance.now() - start) / 1000);
}

function watch({ quiet }) {
  const said = (text) => process.stderr.write(text);
  return {
    truncated: (prompt, lost) =>
      said(`warning: '${prompt.slice(0, 40)}'...: too long, cut off before '${lost}'\n`),
    step: (name, done, total) => {
      if (quiet) return;
      // On a terminal one line is written over, elsewhere a finished graph is a line.
      if (process.stderr.isTTY) said(`\r${name}: ${done} of ${total}\x1b[K${done === total ? "\n" : ""}`);
      else if (done === total) said(`${name}: ${done} of ${total}\n`);
    },
  };
}

/** What the picture says of itself. */
function parameters({ prompt, negative, seed, stages, sizes }) {
  const [height, width] = sizes.picture;
  return {
    prompt,
    negative_prompt: negative,
    seed: [Number(seed)],
    height,
    width,
    steps: stages.stage_c.rows.length,
    guidance: stages.stage_c.guidance,
    decoder_steps: stages.stage_b.rows.length,
    decoder_guidance: stages.stage_b.guidance,
  };
}

function report(options, { height, width }, seconds, total) {
  const peak = process.resourceUsage().maxRSS * 1024;
  if (options.json) {
    console.log(
      JSON.stringify(
        { picture: options.output, height, width, seconds: { total, graphs: seconds }, peak_bytes: peak },
        null,
        1,
      ),
    );
  } else if (!options.quiet) {
    console.log(
      `${options.output}: ${height} x ${width} in ${total.toFixed(1)} s, peak memory ${(peak / 1e6).toFixed(0)} MB`,
    );
  }
}

/** The checks in their order; RunError names the first tensor that differs. */
async function check(bundle, options) {
  const [tokenizers, recording] = [await loadTokenizers(bundle), await readRecording(bundle)];
  const checks = [() => replay(bundle, tokenizers, recording), () => tokens(bundle, tokenizers)];
  if (options.check) {
    const engine = await nodeEngine(bundle, options);
    checks.push(
      () => graphs(bundle, engine, tokenizers, recording),
      () => ownRun(bundle, engine, tokenizers, recording),
    );
  }
  const all = [];
  for (const one of checks) {
    const compared = await one();
    all.push(...compared);
    if (!options.json && !options.quiet) for (const line of summary(compared)) console.log(line);
    const differing = compared.find((comparison) => !holds(comparison));
    if (differing) throw failure(options.bundle, differing);
  }
  if (options.json) console.log(JSON.stringify(all, null, 1));
}

/** One line a kind of comparison: the worst of its tensors. */
function summary(compared) {
  const worst = new Map();
  const isWorse = (one, other) => (one.decibels ? one.error < other.error : one.error > other.error);
  for (const one of compared)
    if (!worst.has(one.what) || isWorse(one, worst.get(one.what))) worst.set(one.what, one);
  return [...worst.values()].map(({ what, error, limit, decibels }) =>
    decibels
      ? `${what}: ${error.toFixed(1)} dB (at least ${limit})`
      : `${what}: error ${Number(error.toPrecision(3))} (at most ${Number(limit.toPrecision(3))})`,
  );
}

async function checkWritable(file) {
  const folder = path.dirname(path.resolve(file));
  const isFolder = await stat(folder).then(
    (found) => found.isDirectory(),
    () => false,
  );
  if (!isFolder) throw new UsageError(`--output ${file}: the folder ${folder} does not exist`);
  if (
    await stat(file).then(
      (found) => found.isDirectory(),
      () => false,
    )
  ) {
    throw new UsageError(`--output ${file}: it is a folder; give another file name`);
  }
  await access(folder, constants.W_OK).catch(() => {
    throw new UsageError(`--output ${file}: the folder ${folder} cannot be written to`);
  });
}

/** All or nothing: an older picture stays where this one cannot be written. */
async function save(file, bytes) {
  try {
    await writeFile(`${file}.part`, bytes);
    await rename(`${file}.part`, file);
  } catch (error) {
    throw new RunError(`${file}: ${error.message}`);
  }
}

try {
  await main(process.argv.slice(2));
} catch (error) {
  const ours = asOurs(error, "the run failed");
  process.stderr.write(`error: ${ours.message}\n`);
  process.exitCode = ours.exitCode;
}
