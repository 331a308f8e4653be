/** The command line, named as that of `python -m runtimes` is. */

import { parseArgs } from "node:util";

import { oneLine, UsageError } from "../web/host/errors.js";

export const HELP = `usage: node main.js [options] BUNDLE PROMPT
       node main.js BUNDLE --replay | --check

Make a picture from a prompt with an ONNX bundle.

  -o, --output FILE          PNG file (default: out.png)
  --negative-prompt TEXT     what the picture should not show
  --seed N                   whole number (default: 0)
  --steps N                  even Stage C steps (default: the bundle's schedule)
  --guidance X               Stage C guidance scale; up to 1 is off (default: the bundle's)
  --decoder-steps N          even Stage B steps (default: the bundle's schedule)
  --decoder-guidance X       Stage B guidance scale (default: the bundle's)
  --height N, --width N      size in pixels (default: the bundle's)
  --size HEIGHTxWIDTH        both at once, such as 512x768
  --threads N                CPU threads a graph runs on (default: one a core)
  --low-memory               hold one graph in memory at a time
  --replay                   check noise, schedules, wiring and ids by the golden run, without an engine
  --check                    that, then each graph, then a whole run, each within the bundle's tolerances
  --json                     print the result, or every comparison, as JSON
  --quiet                    no progress
  --help                     print this and exit`;

/** @type {{type: "string"}} */
const text = { type: "string" };
/** @type {{type: "boolean", default: boolean}} */
const flag = { type: "boolean", default: false };
/** @type {import("node:util").ParseArgsConfig["options"]} */
const FLAGS = {
  output: { ...text, short: "o", default: "out.png" },
  "negative-prompt": { ...text, default: "" },
  seed: { ...text, default: "0" },
  steps: text,
  guidance: text,
  "decoder-steps": text,
  "decoder-guidance": text,
  height: text,
  width: text,
  size: text,
  threads: text,
  "low-memory": flag,
  replay: flag,
  check: flag,
  json: flag,
  quiet: flag,
  help: flag,
};

/** UsageError names the option that is wrong, before any work. @returns {Record<string, any>} */
export function readOptions(argv) {
  const { values, positionals } = parsed(argv);
  const [bundle, prompt, ...more] = positionals;
  if (values.help) return { help: true };
  if (!bundle) throw new UsageError("there is no bundle; give its folder (see --help)");
  const checks = values.check || values.replay;
  if (checks && prompt !== undefined)
    throw new UsageError("--check and --replay make no picture: leave the prompt out");
  if (!checks && prompt === undefined)
    throw new UsageError('there is no prompt; give one (it may be empty: "")');
  if (more.length > 0)
    throw new UsageError(
      `one prompt makes one picture; '${more[0]}' is one too many (put a prompt in quotes)`,
    );
  if (!/\.png$/i.test(values.output))
    throw new UsageError(`--output ${values.output}: pictures are PNG files, end the name in .png`);
  return {
    ...values,
    bundle,
    lowMemory: values["low-memory"],
    threads: whole(values, "threads", 1),
    picture: {
      prompt: prompt ?? "",
      negative: values["negative-prompt"],
      seed: seed(values.seed),
      steps: whole(values, "steps", 1),
      guidance: number(values, "guidance"),
      decoderSteps: whole(values, "decoder-steps", 1),
      decoderGuidance: number(values, "decoder-guidance"),
      ...size(values),
    },
  };
}

/** @returns {{values: Record<string, any>, positionals: string[]}} */
function parsed(argv) {
  // A negative number is a value, not a flag: parseArgs wants it behind '='.
  const joined = argv.reduce((words, word) => {
    const before = words.at(-1);
    if (/^-\d/.test(word) && /^--[a-z-]+$/.test(before ?? ""))
      return [...words.slice(0, -1), `${before}=${word}`];
    return [...words, word];
  }, []);
  try {
    return parseArgs({ args: joined, options: FLAGS, allowPositionals: true });
  } catch (error) {
    throw new UsageError(`${oneLine(error).replace(/\. To specify.*$/, "")} (see --help)`);
  }
}

function whole(values, name, least) {
  const value = values[name];
  if (value === undefined) return null;
  if (!/^[+-]?\d+$/.test(value)) throw new UsageError(`--${name} is '${value}'; it must be a whole number`);
  if (Number(value) < least) throw new UsageError(`--${name} is ${value}; it must be at least ${least}`);
  return Number(value);
}

function number(values, name) {
  const value = values[name];
  if (value === undefined) return null;
  if (value.trim() === "" || !Number.isFinite(Number(value)))
    throw new UsageError(`--${name} is '${value}'; it must be a number`);
  return Number(value);
}

function seed(value) {
  if (!/^[+-]?\d+$/.test(value))
    throw new UsageError(`--seed is '${value}'; it must be a whole number such as 7`);
  return BigInt(value.replace(/^\+/, ""));
}

function size(values) {
  if (values.size === undefined)
    return { height: whole(values, "height", 1), width: whole(values, "width", 1) };
  for (const name of ["height", "width"]) {
    if (values[name] !== undefined) throw new UsageError(`--size and --${name} exclude each other`);
  }
  const match = /^([1-9]\d*)x([1-9]\d*)$/i.exec(values.size);
  if (!match) throw new UsageError(`--size is '${values.size}'; it must be height x width, such as 512x768`);
  return { height: Number(match[1]), width: Number(match[2]) };
}
