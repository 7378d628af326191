/** What the explorer of GANs computes: two small networks that learn against each other. */
import { Generator, Network, Optimizer } from "../core.js";
import {
  discriminatorGradient, feedback, generatorGradient, sent,
} from "../maths/adversarial.js";

// The chapter's three modes in the plane, with their weights.
const MEANS = [[-1.5, 0], [1.5, 0.8], [1.5, -0.8]], WEIGHTS = [0.4, 0.3, 0.3], SCALE = 0.3;
const WIDTH = 24, LATENTS = 80, BATCH = 40;
export const SHOWN = 60;
export const MODES = MEANS.length;

export class Study {
  begin({ seed, generatorRate, discriminatorRate, inner, loss }) {
    const draw = new Generator(20 + seed);
    this.draw = draw;
    this.loss = loss;
    this.inner = inner;
    this.G = new Network({ inputs: 2, width: WIDTH, outputs: 2 });
    this.D = new Network({ inputs: 2, width: WIDTH, outputs: 1 });
    this.g = this.G.start(draw);
    this.d = this.D.start(draw);
    this.learnG = new Optimizer("sgd", { lr: generatorRate }, this.G.size);
    this.learnD = new Optimizer("adam", { lr: discriminatorRate, beta1: 0.5 }, this.D.size);
    this.z = draw.normals(2 * LATENTS);
    this.data = this.sample(60);
    this.steps = 0;
  }

  /** Fresh data points [n * 2]. */
  sample(n) {
    const x = new Float64Array(2 * n);
    for (let i = 0; i < n; i++) {
      const chance = this.draw.uniform();
      const mode = MEANS[chance < WEIGHTS[0] ? 0 : chance < WEIGHTS[0] + WEIGHTS[1] ? 1 : 2];
      for (let c = 0; c < 2; c++) x[2 * i + c] = mode[c] + SCALE * this.draw.normal();
    }
    return x;
  }

  /** Steps: the discriminator learns `inner` times, then the generator once, on all latents. */
  advance(steps) {
    const gradient = new Float64Array(this.D.size);
    for (let k = 0; k < steps; k++, this.steps++) {
      const made = this.G.values(this.g, this.z);
      for (let i = 0; i < this.inner; i++) {
        const first = 2 * BATCH * (i % 2); // half of the made points, in turn
        const some = made.subarray(first, first + 2 * BATCH);
        discriminatorGradient(this.D, this.d, this.sample(BATCH), some, gradient);
        this.learnD.step(this.d, gradient);
      }
      const { s } = feedback(this.D, this.d, made, this.loss);
      const g = generatorGradient(this.G, this.g, this.z, s, new Float64Array(this.G.size));
      this.learnG.step(this.g, g);
    }
  }

  /** Points made of all latents, D there, feedback, and where each shown point is carried. */
  tell() {
    const { G, D, g, d, z, loss } = this, made = G.values(g, z);
    const { s, D: chance } = feedback(D, d, made, loss), n = z.length / 2;
    const carried = new Float64Array(2 * SHOWN);
    for (let q = 0; q < SHOWN; q++) {
      const all = sent(G, g, z.subarray(2 * q, 2 * q + 2), z, s);
      all.forEach((value, at) => (carried[2 * q + (at % 2)] -= value / n));
    }
    return { made, s, chance, carried, modes: covered(made), coherence: coherence(carried) };
  }

  /** What each latent sends to the query `q` along the way that it goes: shares of its move. */
  senders(q, { s, carried }) {
    const { G, g, z } = this, n = z.length / 2;
    const all = sent(G, g, z.subarray(2 * q, 2 * q + 2), z, s);
    const [u, v] = carried.subarray(2 * q, 2 * q + 2), size = u * u + v * v || 1;
    return Float64Array.from({ length: n }, (_, i) =>
      -(all[2 * i] * u + all[2 * i + 1] * v) / (n * size));
  }

  /** D at places x [n * 2]. */
  chance(x) {
    return this.D.values(this.d, x).map((value) => 1 / (1 + Math.exp(-value)));
  }
}

/** How many modes have a twentieth of the points within three scales. */
function covered(x) {
  return MEANS.filter(([a, b]) => {
    let near = 0;
    for (let i = 0; i < x.length; i += 2) near += Math.hypot(x[i] - a, x[i + 1] - b) < 3 * SCALE;
    return near >= x.length / 40;
  }).length;
}

/** |mean move|^2 / mean |move|^2: one if all go the same way. */
function coherence(moves) {
  const n = moves.length / 2, mean = [0, 0];
  let square = 0;
  moves.forEach((value, at) => {
    mean[at % 2] += value / n;
    square += (value * value) / n;
  });
  return square ? (mean[0] ** 2 + mean[1] ** 2) / square : 0;
}
