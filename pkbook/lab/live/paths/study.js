/**
 * Many pairs of paths: SGD, and the diffusion that approximates it, driven by the same normals.
 *
 * A step of SGD lasts the time eta. The diffusion goes through it in m Euler steps with normals
 * xi_1 ... xi_m of its own; SGD's batch is drawn by their sum over sqrt(m), which is normal again.
 * Both are looked at through one prediction, less that of the gradient flow, which has no noise.
 */
import { diffusionStep, drivenBatch, Generator, Network, sgdStep, squared } from "../core.js";

export const TIME = 2;
export const QUERY = 1.5;
export const PAIRS = 300;
const SAMPLES = 8, WIDTH = 8, FINEST = 0.025;

/** The task: eight points of a sine, eight tanh units. */
export function task(seed = 1) {
  const x = Float64Array.from({ length: SAMPLES }, (_, i) => -3 + (6 * i) / (SAMPLES - 1));
  const network = new Network({ width: WIDTH });
  return {
    network, loss: squared, data: { x, y: x.map(Math.sin), n: SAMPLES },
    start: network.start(new Generator(seed)),
  };
}

/** Euler steps of the diffusion in one step of SGD. */
export const substeps = (rate) => Math.max(2, Math.ceil(rate / FINEST - 1e-9));

/** One pair: predictions at every step of SGD, { sgd, diffusion } with K + 1 numbers each. */
export function pair(the, { rate, size, steps, inner }, generator) {
  const { network, data, start } = the, query = Float64Array.of(QUERY);
  const one = Float64Array.from(start), other = Float64Array.from(start);
  const asked = (theta) => network.values(theta, query)[0];
  const sgd = [asked(one)], diffusion = [asked(other)];
  for (let k = 0; k < steps; k++) {
    const all = new Float64Array(data.n);
    for (let j = 0; j < inner; j++) {
      const normals = generator.normals(data.n);
      for (let i = 0; i < data.n; i++) all[i] += normals[i] / Math.sqrt(inner);
      diffusionStep(the, other, { rate, size, dt: rate / inner }, normals);
    }
    sgdStep(the, one, { rate, batch: drivenBatch(all, size) });
    sgd.push(asked(one));
    diffusion.push(asked(other));
  }
  return { sgd, diffusion };
}

const mean = (values) => values.reduce((sum, v) => sum + v, 0) / values.length;

export class Cloud {
  /** @param {object} how { rate, batch, seed } */
  constructor({ rate, batch, seed }) {
    this.the = task();
    const steps = Math.round(TIME / rate);
    this.how = { rate, size: batch, steps, inner: substeps(rate) };
    this.times = Array.from({ length: steps + 1 }, (_, k) => k * rate);
    this.generator = new Generator(seed);
    this.pairs = [];
    this.flow = this._flow();
  }

  /** The prediction of the gradient flow at the times of the steps: no noise, the finest steps. */
  _flow() {
    const { the, how } = this, { n } = the.data;
    const { diffusion } = pair(the, { ...how, size: n, inner: 4 * how.inner }, new Generator(0));
    return diffusion;
  }

  /** More pairs for about `budget` milliseconds. Returns whether all are there. */
  work(budget) {
    const start = performance.now();
    while (this.pairs.length < PAIRS && performance.now() - start < budget) {
      const { sgd, diffusion } = pair(this.the, this.how, this.generator);
      const less = (values) => values.map((value, k) => value - this.flow[k]);
      this.pairs.push({ sgd: less(sgd), diffusion: less(diffusion) });
    }
    return this.pairs.length >= PAIRS;
  }

  /** Mean and twice its standard error of one kind, at every step. */
  middle(kind) {
    const middle = [], error = [];
    this.times.forEach((_, k) => {
      const values = this.pairs.map((one) => one[kind][k]);
      const at = mean(values), square = mean(values.map((value) => (value - at) ** 2));
      middle.push(at);
      error.push(2 * Math.sqrt(square / Math.max(1, values.length - 1)));
    });
    return { middle, error };
  }

  /** At step k: how far partners are apart (root of the mean square), and how far the means. */
  apart(k) {
    const gaps = this.pairs.map(({ sgd, diffusion }) => sgd[k] - diffusion[k]);
    const at = mean(gaps), square = mean(gaps.map((gap) => gap * gap));
    const spread = Math.max(0, square - at * at) / Math.max(1, gaps.length - 1);
    return { strong: Math.sqrt(square), weak: Math.abs(at), error: 2 * Math.sqrt(spread) };
  }
}
