/** What the explorer of diffusion models computes: a noise predictor, particles, who carries. */
import { Generator, Network, Run, batch, contributions, squared } from "../core.js";
import { linearSchedule, noisedRows, sinusoidal, stepBack, withLevel } from "../maths/noising.js";

// The chapter's setting: five spots, 40 points, 20 levels, Adam; here with one hidden layer.
export const T = 20;
const SPOTS = 5, EACH = 8, EMBEDDING = 8, COPIES = 8, WIDTH = 64, BATCH = 96, RATE = 0.1, STEEP = 3;
export const STEPS = 400;
const PARTICLES = 80;

export class Study {
  /** `seed` decides start, noise and particles; the points are the same for all. */
  begin(seed) {
    this.points = spots();
    this.schedule = linearSchedule(T, 0.1, 6);
    this.embedding = sinusoidal(T, EMBEDDING);
    const generator = new Generator(70 + seed), n = COPIES * SPOTS * EACH * T;
    const noise = generator.normals(2 * n);
    this.rows = noisedRows(this.points, this.schedule, this.embedding, EMBEDDING, noise);
    this.network = new Network({ inputs: 2 + EMBEDDING, width: WIDTH, outputs: 2 });
    const start = this.network.start(generator);
    for (let p = 0; p < this.network.v; p++) start[p] *= STEEP; // sharper units than torch's
    const settings = { lr: RATE, beta2: 0.99 };
    const how = { network: this.network, loss: squared, data: this.rows, optimizer: "adam" };
    this.run = new Run({ ...how, settings, start });
    this.generator = generator;
    this.paths = walks(generator);
  }

  /** Further steps of training; the learning rate falls to a tenth along the way. */
  train(steps) {
    for (let k = 0; k < steps && this.run.length < STEPS; k++) {
      this.run.optimizer.settings.lr = RATE * 0.1 ** (this.run.length / STEPS);
      this.run.step(batch(this.rows.n, BATCH, this.generator));
    }
  }

  /** The predicted noise at points [n * 2] of a level. */
  noise(x, tau) {
    return this.network.values(this.run.theta, withLevel(x, tau, this.embedding, EMBEDDING));
  }

  /** All particles from noise down to the points: states[tau] [n * 2] for tau = T ... 0. */
  way() {
    const { begin, normals } = this.paths, states = [];
    states[T] = begin;
    for (let tau = T; tau > 0; tau--) {
      const x = states[tau];
      states[tau - 1] = stepBack(x, this.noise(x, tau), normals[tau - 1], tau, this.schedule);
    }
    return states;
  }

  /** Where a particle at `x` and level tau is carried: its step back without fresh noise. */
  next(x, tau) {
    return stepBack(x, this.noise(x, tau), new Float64Array(x.length), tau, this.schedule);
  }

  /**
   * Who carries a particle at x and level tau along its way: -eps is taken away, so a part of
   * <eps, eps>/|eps| above zero pushes along the arrow -eps/|eps|. By training point and by level.
   */
  carried(x, tau) {
    const [one, two] = this.noise(x, tau), size = Math.hypot(one, two) || 1;
    const direction = Float64Array.of(one / size, two / size);
    const query = withLevel(x, tau, this.embedding, EMBEDDING);
    const told = contributions(this.run, query, { direction });
    const byPoint = new Float64Array(SPOTS * EACH), byLevel = new Float64Array(T);
    told.parts.forEach((part, row) => {
      byPoint[this.rows.sample[row]] += part;
      byLevel[this.rows.level[row] - 1] += part;
    });
    return { byPoint, byLevel, direction, size, initial: told.initial, final: told.final };
  }
}

/** Five spots of points on a circle; mean square about one in each coordinate. */
function spots() {
  const generator = new Generator(3), points = new Float64Array(2 * SPOTS * EACH);
  for (let i = 0; i < SPOTS * EACH; i++) {
    const angle = Math.PI / 2 + (2 * Math.PI * Math.floor(i / EACH)) / SPOTS;
    points[2 * i] = Math.SQRT2 * (Math.cos(angle) + 0.15 * generator.normal());
    points[2 * i + 1] = Math.SQRT2 * (Math.sin(angle) + 0.15 * generator.normal());
  }
  return points;
}

/** The particles' start and the normals of their steps. */
function walks(generator) {
  const begin = generator.normals(2 * PARTICLES);
  return { begin, normals: Array.from({ length: T }, () => generator.normals(2 * PARTICLES)) };
}
