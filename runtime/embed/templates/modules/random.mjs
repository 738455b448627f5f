// numpy.random.Generator(numpy.random.PCG64(seed)): the numbers of a seed, the same as in Python.
//
//     const random = new Pcg64(0);
//     random.uniform(3);    // Float32Array, as generator.random(3, dtype=float32)
//     random.normal(3);     // Float32Array, as generator.standard_normal(3, dtype=float32)
//
// Sources: O'Neill, "PCG: A Family of Simple Fast Space-Efficient Statistically Good Algorithms for Random Number Generation" (2014);
// numpy's SeedSequence; Marsaglia and Tsang, "The Ziggurat Method for Generating Random Variables" (2000), as numpy tabulates it.

const MASK64 = (1n << 64n) - 1n;
const MASK128 = (1n << 128n) - 1n;
const MULTIPLIER = 0x2360ed051fc65da44385df649fccf645n;

/** numpy.random.SeedSequence(seed).generate_state(8, uint32). seed: a whole number from 0 to 2^53. */
function seedWords(seed) {
  const entropy = [seed % 2 ** 32 >>> 0, Math.floor(seed / 2 ** 32) >>> 0];
  let constant = 0x43b0d7e5;
  const hash = (value) => {
    value = (value ^ constant) >>> 0;
    constant = Math.imul(constant, 0x931e8875) >>> 0;
    value = Math.imul(value, constant) >>> 0;
    return (value ^ (value >>> 16)) >>> 0;
  };
  const mix = (x, y) => {
    const value = (Math.imul(0xca01f9dd, x) - Math.imul(0x4973f715, y)) >>> 0;
    return (value ^ (value >>> 16)) >>> 0;
  };
  const pool = [0, 1, 2, 3].map((i) => hash(entropy[i] ?? 0));
  for (let from = 0; from < 4; from++) {
    for (let to = 0; to < 4; to++) if (from !== to) pool[to] = mix(pool[to], hash(pool[from]));
  }
  let other = 0x8b51f9dd;
  return Array.from({ length: 8 }, (_, i) => {
    let value = (pool[i % 4] ^ other) >>> 0;
    other = Math.imul(other, 0x58f38ded) >>> 0;
    value = Math.imul(value, other) >>> 0;
    return (value ^ (value >>> 16)) >>> 0;
  });
}

// The ziggurat of 256 layers for the normal distribution, with 23 bits of mantissa.
const TAIL = 3.6541528853610088;
const AREA = 0.004928673233974658;
const STEPS = 2 ** 23;

function ziggurat() {
  const k = new Float64Array(256);
  const w = new Float32Array(256);
  const f = new Float32Array(256);
  const density = (x) => Math.exp(-0.5 * x * x);
  let edge = TAIL;
  w[255] = edge / STEPS;
  f[255] = density(edge);
  k[0] = Math.round(((edge * density(edge)) / AREA) * STEPS);
  w[0] = AREA / density(edge) / STEPS;
  f[0] = 1;
  let height = density(edge);
  for (let i = 254; i > 0; i--) {
    const x = Math.sqrt(-2 * Math.log(AREA / edge + height));
    k[i + 1] = Math.round((x / edge) * STEPS);
    w[i] = x / STEPS;
    height = density(x);
    f[i] = height;
    edge = x;
  }
  return { k, w, f };
}

const { k: LIMITS, w: WIDTHS, f: HEIGHTS } = ziggurat();

export class Pcg64 {
  #state = 0n;
  #increment;
  #spare = -1; // the upper half of the last 64 bits, if it has not been used

  constructor(seed = 0) {
    if (!Number.isSafeInteger(seed) || seed < 0) throw new Error(`a seed is a whole number from 0 to 2^53, got ${seed}`);
    const words = seedWords(seed).map(BigInt);
    const [high, low, above, below] = [0, 2, 4, 6].map((i) => words[i] | (words[i + 1] << 32n));
    this.#increment = ((((above << 64n) | below) << 1n) | 1n) & MASK128;
    this.#step();
    this.#state = (this.#state + ((high << 64n) | low)) & MASK128;
    this.#step();
  }

  #step() {
    this.#state = (this.#state * MULTIPLIER + this.#increment) & MASK128;
  }

  /** 32 random bits, a whole number. */
  next32() {
    if (this.#spare >= 0) {
      const value = this.#spare;
      this.#spare = -1;
      return value;
    }
    this.#step();
    const folded = ((this.#state >> 64n) ^ this.#state) & MASK64;
    const turn = this.#state >> 122n;
    const value = ((folded >> turn) | (folded << ((64n - turn) & 63n))) & MASK64;
    this.#spare = Number(value >> 32n);
    return Number(value & 0xffffffffn);
  }

  #nextFloat() {
    return (this.next32() >>> 8) / 2 ** 24;
  }

  /** Float32Array of numbers from 0 up to but not including 1. */
  uniform(count) {
    return Float32Array.from({ length: count }, () => this.#nextFloat());
  }

  /** Float32Array of standard normal numbers. */
  normal(count) {
    return Float32Array.from({ length: count }, () => this.#nextNormal());
  }

  #nextNormal() {
    const round = Math.fround;
    for (;;) {
      const bits = this.next32();
      const layer = bits & 255;
      const place = (bits >>> 9) & 0x7fffff;
      const positive = round(place * WIDTHS[layer]);
      const x = (bits >>> 8) & 1 ? -positive : positive;
      if (place < LIMITS[layer]) return x;
      if (layer === 0) {
        for (;;) {
          const beyond = round(-Math.log1p(-this.#nextFloat()) / TAIL);
          const other = -Math.log1p(-this.#nextFloat());
          if (other + other > beyond * beyond) return (place >>> 8) & 1 ? -(TAIL + beyond) : TAIL + beyond;
        }
      }
      // Rounded to float32 after each operation, as C does.
      const height = round(round(round(HEIGHTS[layer - 1] - HEIGHTS[layer]) * this.#nextFloat()) + HEIGHTS[layer]);
      if (height < Math.exp(-0.5 * x * x)) return x;
    }
  }
}
