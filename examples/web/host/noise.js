/** The noise of torch.randn on a CPU, by the rules of the manifest's `host.noise`. */

import { RunError } from "./errors.js";
import { count } from "./tensors.js";

const SIZE = 624;
const SHIFT = 397;

/** MT19937 seeded by init_genrand, as C++'s std::mt19937 and NumPy's RandomState are. */
export class Mt19937 {
  #state = new Uint32Array(SIZE);
  #next = SIZE;

  /** @param {number} seed 32 bits */
  constructor(seed) {
    const state = this.#state;
    state[0] = seed;
    for (let i = 1; i < SIZE; i += 1) {
      state[i] = Math.imul(1812433253, state[i - 1] ^ (state[i - 1] >>> 30)) + i;
    }
  }

  /** The next word, 32 bits. */
  word() {
    if (this.#next === SIZE) this.#twist();
    let y = this.#state[this.#next];
    this.#next += 1;
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }

  #twist() {
    const state = this.#state;
    for (let i = 0; i < SIZE; i += 1) {
      const y = (state[i] & 0x80000000) | (state[(i + 1) % SIZE] & 0x7fffffff);
      state[i] = state[(i + SHIFT) % SIZE] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
    }
    this.#next = 0;
  }
}

/** Draws standard normal tensors, one after the other. */
export class TorchNoise {
  #words;
  #rules;

  /** @param rules the manifest's `host.noise` @param {bigint | number} seed any whole number */
  constructor(rules, seed) {
    this.#rules = rules;
    this.#words = new Mt19937(Number(BigInt.asUintN(rules.seed_bits, BigInt(seed))));
  }

  /** @returns {import("./tensors.js").Tensor} */
  draw(dims) {
    const { block, minimum } = this.#rules;
    const size = count(dims);
    if (size < minimum) throw new RunError(`a draw of ${size} values is below the ${minimum} of host.noise`);
    const data = new Float32Array(size);
    const rest = size % block;
    for (let at = 0; at + block <= size; at += block) boxMuller(this.#uniforms(block), data, at);
    if (rest > 0) {
      // The last values are drawn, then drawn anew over the end of the last whole block, as in PyTorch.
      this.#uniforms(rest);
      boxMuller(this.#uniforms(block), data, size - block);
    }
    return { dims, data };
  }

  // No more bits than a single-precision mantissa has, so that every value is exact.
  #uniforms(size) {
    const bits = this.#rules.uniform_bits;
    const values = new Float64Array(size);
    for (let i = 0; i < size; i += 1) values[i] = (this.#words.word() & (2 ** bits - 1)) * 2 ** -bits;
    return values;
  }
}

/** One block: its first half makes radii, its second half angles. */
function boxMuller(uniform, into, at) {
  const half = uniform.length / 2;
  for (let i = 0; i < half; i += 1) {
    const radius = Math.sqrt(-2 * Math.log(1 - uniform[i])); // 1 - u: u may be 0
    const angle = 2 * Math.PI * uniform[i + half];
    into[at + i] = radius * Math.cos(angle);
    into[at + i + half] = radius * Math.sin(angle);
  }
}
