/** One picture: the graphs in the order of the manifest's `host.run`, fed as it says. */

import { RunError } from "./errors.js";
import { advance, imageEmbedding } from "./sampler.js";
import { checkFinite, concatRows, firstHalf, zerosLike } from "./tensors.js";

/** @typedef {import("./tensors.js").Tensor} Tensor */

// Pictures are made with scales up to 20 or so.
const EXTREME_GUIDANCE = 100;

/**
 * `step` is told of each finished step or graph, `tensor` sees everything that is computed, in
 * order, by the names of the golden run.
 * @typedef {{step?: (name: string, done: number, total: number, latents: Tensor | null) => void | Promise<void>,
 *            tensor?: (name: string, values: Tensor) => void,
 *            truncated?: (prompt: string, lost: string) => void}} Watch
 */

export class Run {
  #values = new Map(); // '<graph>.<output>' of the graphs that ran
  #latents = new Map(); // each stage's, from its start on
  #truncated = new Set(); // texts that were too long, said once for all encoders

  /**
   * @param manifest @param {import("./engine.js").Sessions} sessions
   * @param {Map<string, import("./tokenizer.js").Tokenizer>} tokenizers
   * @param {import("./plan.js").Plan} plan @param {Watch} watch
   */
  constructor(manifest, sessions, tokenizers, plan, watch = {}) {
    this.manifest = manifest;
    this.sessions = sessions;
    this.tokenizers = tokenizers;
    this.plan = plan;
    this.watch = watch;
    /** @type {Record<string, {load: number, run: number}>} seconds by graph */
    this.seconds = {};
  }

  /** The image (1,3,H,W), before it becomes bytes. @returns {Promise<import("./tensors.js").Floats>} */
  async image() {
    let outputs = new Map();
    for (const [index, call] of this.manifest.host.run.entries()) {
      outputs = call.when === "step" ? await this.#denoise(call) : await this.#once(call);
      this.#forget(index);
    }
    return outputs.get("image") ?? [...outputs.values()][0];
  }

  async #once(call) {
    const feeds = this.#feeds(call, call.feeds);
    const outputs = await this.#timed(call.graph, feeds);
    this.#see(call.graph, feeds);
    for (const [name, values] of outputs) checkFinite(values, `${call.graph} (${name})`, this.#advice(call));
    this.#see(call.graph, outputs);
    for (const [name, values] of outputs) this.#values.set(`${call.graph}.${name}`, values);
    await this.watch.step?.(call.graph, 1, 1, null);
    return outputs;
  }

  /** A denoiser along its stage's schedule. Noise is drawn in the last step, too. */
  async #denoise(call) {
    const stage = this.plan.stages[call.stage];
    // What stays for all steps is fetched once.
    const changing = (feed) => feed.source === "sampler";
    const constants = this.#feeds(
      call,
      call.feeds.filter((feed) => !changing(feed)),
    );
    let latents = this.#latentsOf(call.stage);
    for (const [index, row] of stage.rows.entries()) {
      const feeds = this.#feeds(call, call.feeds.filter(changing), row);
      const outputs = await this.#timed(call.graph, new Map([...constants, ...feeds]));
      latents = this.#step(call, index, outputs.get("epsilon"), latents);
      this.#latents.set(call.stage, latents);
      await this.watch.step?.(call.graph, index + 1, stage.rows.length, latents);
    }
    return new Map([["latents", latents]]);
  }

  #step(call, index, epsilon, latents) {
    const stage = this.plan.stages[call.stage];
    const row = stage.rows[index];
    const where = `${call.graph}, step ${index + 1} of ${stage.rows.length} (t = ${row.t.toFixed(4)})`;
    checkFinite(epsilon, where, this.#advice(call));
    const noise = this.plan.noise.draw(stage.shape);
    const next = advance(row, latents, epsilon, noise, stage);
    checkFinite(next, where, this.#advice(call));
    this.#see(`${call.stage}/${index}`, new Map(Object.entries({ epsilon, noise, latents: next })));
    return next;
  }

  /** The stage's latents; its start is drawn when they are first asked for. */
  #latentsOf(stage) {
    if (!this.#latents.has(stage)) {
      const start = this.plan.noise.draw(this.plan.stages[stage].shape);
      this.#latents.set(stage, start);
      this.watch.tensor?.(`${stage}/start.latents`, start);
    }
    return this.#latents.get(stage);
  }

  #feeds(call, feeds, row = null) {
    return new Map(feeds.map((feed) => [feed.input, this.#rows(call, feed, this.#source(call, feed, row))]));
  }

  /** What a feed reads, before its rows fit the call. @returns {Tensor} */
  #source(call, { source, output }, row) {
    if (source === "tokenizer") return this.#encoded(call.graph, output);
    if (source !== "sampler") return this.#values.get(`${source}.${output}`);
    if (output === "latents") return this.#latentsOf(call.stage);
    if (output === "timestep_embedding") return { dims: [1, row.embedding.length], data: row.embedding };
    if (output === "image_embedding")
      return imageEmbedding(this.#latents.get("stage_c"), this.manifest.sampling);
    throw new RunError(`host.run: this host's sampler has no '${output}'`);
  }

  /** A source's rows as the call takes them: both halves, or the conditional one alone. */
  #rows(call, feed, values) {
    if (call.rows !== "guided") return values;
    if (!this.plan.stages[call.stage].guided)
      return feed.unconditional === "negative_prompts" ? firstHalf(values) : values;
    if (feed.unconditional === "repeat") return concatRows(values, values);
    return feed.unconditional === "zeros" ? concatRows(values, zerosLike(values)) : values;
  }

  /** Ids or mask of the prompt, then of the negative prompt. */
  #encoded(graph, output) {
    const rows = [this.plan.prompt, this.plan.negative].map((text) => {
      const encoding = this.tokenizers.get(graph).encode(text);
      if (encoding.truncated && !this.#truncated.has(text)) this.watch.truncated?.(text, encoding.truncated);
      if (encoding.truncated) this.#truncated.add(text);
      return output === "input_ids" ? encoding.inputIds : encoding.mask;
    });
    return { dims: [rows.length, rows[0].length], data: BigInt64Array.from(rows.flat(), BigInt) };
  }

  async #timed(graph, feeds) {
    const start = performance.now();
    const session = await this.sessions.get(graph);
    const loaded = performance.now();
    const outputs = await session.run(feeds);
    const spent = (this.seconds[graph] ??= { load: 0, run: 0 });
    spent.load += (loaded - start) / 1000;
    spent.run += (performance.now() - loaded) / 1000;
    return outputs;
  }

  #see(owner, tensors) {
    for (const [name, values] of tensors) this.watch.tensor?.(`${owner}.${name}`, values);
  }

  /** Let go of what no later graph reads. */
  #forget(index) {
    const later = this.manifest.host.run.slice(index + 1).flatMap((call) => call.feeds);
    const read = new Set(later.map((feed) => `${feed.source}.${feed.output}`));
    for (const name of this.#values.keys()) if (!read.has(name)) this.#values.delete(name);
  }

  /** What to do about values that are not finite. */
  #advice(call) {
    const { stage_c: prior, stage_b: decoder } = this.plan.stages;
    if (prior.guidance > EXTREME_GUIDANCE) return `lower --guidance, which is ${prior.guidance}`;
    if (decoder.guidance > EXTREME_GUIDANCE) return `lower --decoder-guidance, which is ${decoder.guidance}`;
    if (this.manifest.graphs[call.graph].precision !== "fp32") {
      return "run a bundle of higher precision, and check this one with 'python -m validation'";
    }
    return "the weights hold such values, or the engine fails: run the golden check";
  }
}
