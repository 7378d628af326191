/** What the explorer of the null space computes: a network and the parts of what it misses. */
import { Generator, Network, Run, kernelMatrix, side, squared } from "../core.js";
import { applied, energy, midpoints, part, waves } from "../maths/parity.js";

// The chapter's setting: 64 inputs, all of them in every step; 32 units; learning rate 0.05.
const SAMPLES = 64, REACH = 3, WIDTH = 32, RATE = 0.05;
export const STEPS = 1000; // after every change of the target
const largest = (g) => g.reduce((most, value) => Math.max(most, Math.abs(value)), 0);

export class Study {
  constructor() {
    this.x = midpoints(SAMPLES, REACH);
    this.waves = waves(this.x);
    this.amounts = { even: 1, odd: 1 };
  }

  /** (even wave + odd wave)/sqrt(2), each with its amount. */
  get target() {
    const { even, odd } = this.waves, { amounts } = this;
    return even.map((v, i) => (amounts.even * v + amounts.odd * odd[i]) / Math.SQRT2);
  }

  /** Where the target shows one part alone, and its height there for the amount one. */
  height(key) {
    const place = key === "even" ? 0 : -0.75 * Math.PI, wave = key === "even" ? Math.cos : Math.sin;
    const scale = Math.SQRT2 * Math.sqrt(energy(this.x.map((v) => wave(2 * v))));
    return { x: place, unit: 1 / scale };
  }

  /** A fresh start of the network that sees `sees` ("x" or "x2"). */
  begin({ sees, seed }) {
    const network = new Network({ width: WIDTH }), start = network.start(new Generator(500 + seed));
    const seen = sees === "x" ? this.x : this.x.map((v) => (v * v) / 3);
    const data = { x: seen, y: this.target, n: SAMPLES };
    const how = { network, loss: squared, data, optimizer: "sgd", settings: { lr: RATE }, start };
    this.run = new Run(how, { record: false });
    this.all = Array.from({ length: SAMPLES }, (_, i) => i);
    this.left = STEPS;
    this.history = [];
    this.note();
  }

  /** The target has changed: the network goes on learning from where it is. */
  aim() {
    this.run.data.y = this.target;
    this.left = STEPS;
    this.note();
  }

  /** Up to `steps` more steps. Returns whether some are left. */
  advance(steps) {
    for (let k = 0; k < steps && this.left > 0; k++, this.left--) {
      this.run.step(this.all);
      if (this.left % 20 === 1) this.note();
    }
    return this.left > 0;
  }

  /** Fit, residual and its parts now; energies and pulls of both parts. */
  tell() {
    const { run, target } = this, fit = run.network.values(run.theta, run.data.x);
    const residual = fit.map((v, i) => v - target[i]);
    const mine = side(run.network, run.theta, run.data.x), kernel = kernelMatrix(mine);
    const told = { fit, target, residual };
    for (const [key, sign] of [["even", 1], ["odd", -1]]) {
      const missed = part(residual, sign);
      told[key] = {
        missed, asked: energy(part(target, sign)), left: energy(missed),
        pull: largest(applied(kernel, missed)),
      };
    }
    return told;
  }

  note() {
    const { run, target } = this, fit = run.network.values(run.theta, run.data.x);
    const residual = fit.map((v, i) => v - target[i]);
    this.history.push([run.length, energy(part(residual, 1)), energy(part(residual, -1))]);
  }
}
