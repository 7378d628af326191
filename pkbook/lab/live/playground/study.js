/** What the playground computes: a training on a few points, taken apart at a query. */
import {
  Generator, batch, Network, squared, Run, contributions, side, normalisedKernel, without,
} from "../core.js";

export const INTERVAL = [-3, 3];
export const MOST_STEPS = 600;
export const MOST_POINTS = 24;
// torch's start, with steeper units spread over the whole interval instead of near its middle.
const STEEP = 2, SPREAD = 4;
const GRID = Float64Array.from({ length: 97 }, (_, i) => -3 + i / 16);

const even = (n) => Array.from({ length: n }, (_, i) => -2.7 + (5.4 * i) / (n - 1));

/** Positions are kept to a hundredth, as the address writes them. */
export const rounded = (value) => Math.round(100 * value) / 100;

const point = (x, y) => ({ x: rounded(x), y: rounded(y), left: false });
const points = (xs, f) => xs.map((x) => point(x, f(x)));

/** The data sets, fresh at every call. */
export const DATA = {
  sine: { words: "sine", make: () => points(even(10), Math.sin) },
  step: { words: "step", make: () => points(even(10), (x) => (x < 0 ? -0.8 : 0.8)) },
  bump: { words: "bump", make: () => points(even(11), (x) => 1.8 * Math.exp(-x * x) - 0.8) },
  outlier: {
    words: "line with an outlier",
    make: () => points(even(9), (x) => 0.35 * x).concat([point(1, -1.2)]),
  },
  gap: { words: "two groups", make: () => points([-2.6, -2.2, -1.8, -1.4, 1.5, 2, 2.5], Math.sin) },
};

export class Study {
  constructor() {
    this.grid = GRID;
    this.points = DATA.sine.make();
  }

  get data() {
    const x = Float64Array.from(this.points, (point) => point.x);
    return { x, y: Float64Array.from(this.points, (point) => point.y), n: x.length };
  }

  /** A fresh start for these settings, and `steps` steps from it. */
  train(values, steps) {
    const network = new Network({ width: values.width });
    const start = network.start(new Generator(1000 + values.seed));
    for (let p = 0; p < network.v; p++) start[p] *= p < network.b ? STEEP : SPREAD;
    const { lr, momentum, optimizer } = values, beta1 = momentum;
    const settings = { lr, momentum, beta1, alpha: 0.97, beta2: 0.99, weightDecay: 0.05 };
    this.how = { network, loss: squared, data: this.data, optimizer, settings, start };
    const weights = Float64Array.from(this.points, (point) => (point.left ? 0 : 1));
    this.run = new Run(this.how, { weights });
    this.size = Math.min(values.batch === "all" ? Infinity : values.batch, this.points.length);
    this.generator = new Generator(values.seed);
    this.risks = [this.risk()];
    this.first = network.values(start, this.grid);
    this.advance(steps);
  }

  /** L(theta) over the points that are not left out. */
  risk() {
    const { network, data } = this.how, f = network.values(this.run.theta, data.x);
    let sum = 0, n = 0;
    this.points.forEach((point, i) => {
      if (point.left) return;
      sum += squared.value([f[i]], [point.y], 0);
      n += 1;
    });
    return n ? sum / n : 0;
  }

  /** Further steps. Returns whether training may go on: not at its end, and not diverged. */
  advance(steps) {
    for (let k = 0; k < steps && this.run.length < MOST_STEPS && !this.diverged; k++) {
      this.run.step(batch(this.points.length, this.size, this.generator));
      this.risks.push(this.risk());
    }
    this.alone = null;
    return this.run.length < MOST_STEPS && !this.diverged;
  }

  get steps() {
    return this.run.length;
  }

  get diverged() {
    return !(this.risks.at(-1) < 1e4);
  }

  /** The answer at a query, taken apart, and what goes with it. */
  tell(query) {
    const { run } = this, { network } = run, x = Float64Array.of(query);
    const asked = side(network, run.theta, x), mine = side(network, run.theta, run.data.x);
    const told = contributions(run, x);
    return {
      ...told,
      up: told.parts.reduce((sum, part) => sum + Math.max(0, part), 0),
      down: told.parts.reduce((sum, part) => sum + Math.min(0, part), 0),
      fit: network.values(run.theta, this.grid),
      likeness: normalisedKernel(asked, side(network, run.theta, this.grid)),
      matrix: normalisedKernel(mine),
      effects: this.effects(x, told.final),
    };
  }

  /** One more retraining, each without another point. Returns whether one was still missing. */
  retrain() {
    this.alone ??= [];
    if (this.alone.length >= this.points.length || this.diverged) return false;
    const i = this.alone.length, batches = this.run.steps.map((step) => step.batch);
    const left = this.points.flatMap((point, j) => (point.left || j === i ? [j] : []));
    this.alone.push(this.points[i].left ? null : without(this.how, batches, left));
    return true;
  }

  /** What each point's presence did to the answer, by real retraining; null while that lasts. */
  effects(x, answer) {
    if (this.alone?.length !== this.points.length) return null;
    const { network } = this.how;
    return this.alone.map((theta) => (theta ? answer - network.values(theta, x)[0] : 0));
  }
}
