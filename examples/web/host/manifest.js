/** Read bundle.json, refuse what this host does not know, and give out files that are its own. */

import { RunError } from "./errors.js";

export const MANIFEST = "bundle.json";
const FORMAT_VERSION = 2;

/**
 * Where a bundle's files lie: a folder on disk, files picked in a page, an address, a cache.
 * `read` gives null for a file that is not there.
 * @typedef {{name: string, read(path: string): Promise<Uint8Array | null>}} Files
 */

/** What this host has code for; anything else in these places is refused, not guessed at. */
const KNOWN = {
  backend: ["onnx"],
  "host.noise.algorithm": ["torch_cpu_randn"],
  "host.noise.generator": ["mt19937"],
  "host.noise.transform": ["box_muller"],
  "host.noise.tail": ["redraw"],
  "host.noise.one_generator": [true],
  "host.noise.in_last_step": [true],
  "host.noise.draws": [["stage_c/start", "stage_c/steps", "stage_b/start", "stage_b/steps"]],
  "host.schedule.kind": ["cosine"],
  "host.guidance.halves": [["conditional", "unconditional"]],
  "host.guidance.epsilon": ["unconditional + scale * (conditional - unconditional)"],
  "host.picture.rounding": ["nearest_even"],
  "host.picture.channels": [["red", "green", "blue"]],
};
const FEEDS = ["negative_prompts", "repeat", "zeros", "included", "none"];
const ROWS = ["prompts_and_negatives", "guided", "pictures"];
const WHEN = ["prompt", "step", "picture"];
const DTYPES = ["float32", "int64"];
const HOSTS_OWN = {
  tokenizer: ["input_ids", "attention_mask"],
  sampler: ["latents", "timestep_embedding", "image_embedding"],
};
const REQUIRED = [
  "graphs",
  "tokenizers",
  "files",
  "sizes",
  "sampling.stage_c.schedule",
  "sampling.stage_b.schedule",
  "host.run",
  "host.sizes",
  "host.tolerances",
  "host.sessions",
  "host.schedule.alpha_clamp",
  "host.guidance.off_at",
  "host.picture.clamp",
];

/** A bundle whose manifest is known and whose files are hashed as they are read. */
export class Bundle {
  /** @param {Files} files @param manifest @param {Uint8Array} bytes the manifest's own */
  constructor(files, manifest, bytes) {
    this.files = files;
    this.manifest = manifest;
    this.bytes = bytes;
  }

  get name() {
    return this.files.name;
  }

  /** A file of the bundle; RunError when it is missing or not the one the manifest names. */
  async read(path) {
    const bytes = await this.readIfThere(path);
    if (bytes === null) throw new RunError(`${this.name}: ${path} is missing; export the bundle again`);
    return bytes;
  }

  /** As `read`, but null for a file that is missing. */
  async readIfThere(path) {
    const { size, sha256: wanted } = this.entry(path);
    const bytes = await this.files.read(path);
    if (bytes === null) return null;
    if (bytes.length !== size) {
      throw new RunError(
        `${this.name}: ${path} has ${bytes.length} bytes, the manifest says ${size}; export the bundle again`,
      );
    }
    if ((await sha256(bytes)) !== wanted) throw this.changed(path);
    return bytes;
  }

  async readJson(path) {
    return parseJson(await this.read(path), `${this.name}: ${path}`);
  }

  /** What the manifest says of a file. */
  entry(path) {
    if (!Object.hasOwn(this.manifest.files, path))
      throw new RunError(`${this.name}: the manifest names no ${path}`);
    return this.manifest.files[path];
  }

  changed(path) {
    return new RunError(
      `${this.name}: ${path} is not the file the manifest names (SHA-256 differs); export the bundle again`,
    );
  }
}

/** Open a bundle: its manifest is read and checked, nothing else. @param {Files} files */
export async function openBundle(files) {
  const bytes = await files.read(MANIFEST);
  if (bytes === null) {
    throw new RunError(
      `${files.name} is no bundle: it has no ${MANIFEST}; make one with 'python -m exporter'`,
    );
  }
  const manifest = parseJson(bytes, `${files.name}: ${MANIFEST}`);
  checkManifest(manifest, `${files.name}: ${MANIFEST}`);
  return new Bundle(files, manifest, bytes);
}

/** RunError naming the first thing that this host does not know. */
export function checkManifest(manifest, where) {
  if (manifest?.format !== "wuerstchen-bundle")
    throw new RunError(`${where} is not a wuerstchen-bundle manifest`);
  if (manifest.format_version !== FORMAT_VERSION) {
    throw new RunError(
      `${where} has format version ${manifest.format_version}, this host reads ${FORMAT_VERSION}; export the bundle again with a matching version`,
    );
  }
  const missing = REQUIRED.find((place) => valueAt(manifest, place) === undefined);
  if (missing) throw new RunError(`${where}: ${missing} is missing; export the bundle again`);
  // Before anything else: no file outside the folder is opened, not even to be hashed.
  for (const path of Object.keys(manifest.files)) checkInside(path, where);
  for (const [place, known] of Object.entries(KNOWN)) checkKnown(manifest, place, known, where);
  for (const tokenizer of Object.values(manifest.tokenizers)) {
    checkKnown(tokenizer, "rules.algorithm", ["byte_level_bpe"], where);
  }
  checkReferences(manifest, where);
  checkRun(manifest, where);
}

/** Everything the manifest refers to is among the files it vouches for. */
function checkReferences({ graphs, tokenizers, files }, where) {
  const ofGraphs = Object.values(graphs).flatMap(({ file, data }) => [
    file,
    ...data.map((part) => part.file),
  ]);
  const ofTexts = Object.values(tokenizers).flatMap(({ folder }) => [
    `${folder}/vocab.json`,
    `${folder}/merges.txt`,
  ]);
  const missing = [...ofGraphs, ...ofTexts].find((path) => !Object.hasOwn(files, path));
  if (missing !== undefined) throw new RunError(`${where} names no ${missing} among its files`);
}

/** Parts joined by '/', none of them empty, '.' or '..'; no '\', which is a separator elsewhere. */
export function checkInside(path, where) {
  const outside = path.split("/").some((part) => ["", ".", ".."].includes(part)) || /[\\\0:]/.test(path);
  if (outside) throw new RunError(`${where} names '${path}', a path outside the bundle`);
}

function checkKnown(manifest, place, known, where) {
  const text = JSON.stringify(valueAt(manifest, place));
  if (known.some((one) => JSON.stringify(one) === text)) return;
  const all = known.map((one) => JSON.stringify(one)).join(", ");
  throw new RunError(`${where}: ${place} is ${text ?? "missing"}, this host knows ${all}`);
}

function valueAt(value, place) {
  return place.split(".").reduce((at, key) => at?.[key], value);
}

function checkRun(manifest, where) {
  const fault = (said) => new RunError(`${where}: host.run: ${said}`);
  const outputs = new Map(Object.entries(HOSTS_OWN));
  for (const call of manifest.host.run) {
    const graph = manifest.graphs[call.graph];
    if (!graph) throw fault(`there is no graph '${call.graph}'`);
    const known = WHEN.includes(call.when) && ROWS.includes(call.rows);
    if (!known)
      throw fault(
        `${call.graph} runs '${call.when}' with rows '${call.rows}', which this host does not know`,
      );
    for (const { source, output, unconditional } of call.feeds) {
      if (!outputs.get(source)?.includes(output))
        throw fault(`${call.graph} reads '${source}.${output}', which is not there before it runs`);
      if (!FEEDS.includes(unconditional))
        throw fault(`${call.graph} is fed '${unconditional}', which this host does not know`);
    }
    checkTypes(call.graph, graph, fault);
    outputs.set(
      call.graph,
      graph.outputs.map(({ name }) => name),
    );
  }
  if (manifest.host.run.length === 0 || manifest.host.sizes.length === 0)
    throw fault("there is no graph to run, or no size");
}

function checkTypes(name, graph, fault) {
  for (const tensor of [...graph.inputs, ...graph.outputs]) {
    if (!DTYPES.includes(tensor.dtype))
      throw fault(`'${tensor.name}' of ${name} is ${tensor.dtype}, this host knows ${DTYPES.join(" and ")}`);
  }
}

function parseJson(bytes, where) {
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (error) {
    throw new RunError(`${where} is not valid JSON (${error.message}); export the bundle again`);
  }
}

/** Hex SHA-256. */
export async function sha256(bytes) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
