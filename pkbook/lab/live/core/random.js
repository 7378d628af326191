/**
 * Random numbers that come again: the same seed gives the same run on every machine.
 *
 * The generator is Doty-Humphrey's sfc32 (three words of state and a counter), seeded through
 * twelve idle rounds. Two of its 32-bit outputs make one float64 in [0, 1) with 53 random bits.
 */

/** A seeded source of random numbers. */
export class Generator {
  /** @param {number} seed a whole number; its 32 lower bits count. */
  constructor(seed = 0) {
    this.state = new Uint32Array([0, seed, 0x9e3779b9, 1]);
    this.spare = null; // Box and Muller make two normals at a time
    for (let round = 0; round < 12; round++) this.word();
  }

  /** The next 32 random bits. */
  word() {
    const s = this.state;
    const out = (s[0] + s[1] + s[3]) >>> 0;
    s[3] += 1;
    s[0] = s[1] ^ (s[1] >>> 9);
    s[1] = s[2] + (s[2] << 3);
    s[2] = ((s[2] << 21) | (s[2] >>> 11)) + out;
    return out;
  }

  /** Uniform in [low, high). */
  uniform(low = 0, high = 1) {
    const unit = ((this.word() >>> 5) * 67108864 + (this.word() >>> 6)) / 9007199254740992;
    return low + (high - low) * unit;
  }

  /** A whole number in 0 ... n - 1. */
  below(n) {
    return Math.floor(this.uniform() * n);
  }

  /** Standard normal: `sqrt(-2 ln u) cos(2 pi v)`, and its twin with the sine at the next call. */
  normal() {
    if (this.spare !== null) {
      const kept = this.spare;
      this.spare = null;
      return kept;
    }
    const radius = Math.sqrt(-2 * Math.log(1 - this.uniform()));
    const angle = 2 * Math.PI * this.uniform();
    this.spare = radius * Math.sin(angle);
    return radius * Math.cos(angle);
  }

  /** `n` standard normals. */
  normals(n) {
    return Float64Array.from({ length: n }, () => this.normal());
  }
}

/** One batch: `size` of the samples 0 ... n - 1, every subset equally likely. */
export function batch(n, size, generator) {
  const order = Array.from({ length: n }, (_, i) => i);
  if (size >= n) return order; // the full batch needs no chance
  for (let i = 0; i < size; i++) {
    const j = i + generator.below(n - i);
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order.slice(0, size);
}
