/**
 * Training, recorded: what the formula needs to take the run apart afterwards.
 *
 * Step k draws the batch B_k and moves along g_k = 1/B sum_{i in B_k} w_i grad l_i(theta_k). The
 * weights w_i are 1; with w_i = 0 sample i is left out, and nothing else of the run changes: the
 * same start, batches and B. That is the retraining that the book compares contributions with.
 */
import { Optimizer } from "./optimizers.js";

/** A run of `network` on `data` = { x [N * d], y, n }. */
export class Run {
  /**
   * @param {object} how { network, loss, data, optimizer, settings, start }
   * @param {object} also { weights: [N] or null, record: false keeps the last parameters only }
   */
  constructor(how, { weights, record = true } = {}) {
    const { network, loss, data, optimizer, settings, start } = how;
    if (start.length !== network.size)
      throw new RangeError(`start must hold ${network.size} numbers, got ${start.length}`);
    Object.assign(this, { network, loss, data, weights: weights ?? null, record });
    this.optimizer = new Optimizer(optimizer, settings, network.size);
    this.theta = Float64Array.from(start);
    this.parameters = [Float64Array.from(start)]; // theta_0 ... theta_K
    this.steps = []; // { batch, coefficients } of each step
    this.h = new Float64Array(network.width);
    this.f = new Float64Array(network.outputs);
    this.a = new Float64Array(network.outputs);
    this.g = new Float64Array(network.size);
  }

  /** The number of steps made. */
  get length() {
    return this.optimizer.k;
  }

  /** The gradient of the batch, in `this.g`. */
  gradient(batch) {
    const { network, loss, data, theta, h, f, a, g } = this;
    g.fill(0);
    for (const i of batch) {
      const weight = this.weights ? this.weights[i] : 1;
      if (weight === 0) continue;
      network.readout(theta, network.hidden(theta, data.x, i, h), f);
      loss.sensitivity(f, data.y, i, a);
      network.addGradient(theta, data.x, i, h, a, weight / batch.length, g);
    }
    return g;
  }

  /** One step on the samples `batch`. */
  step(batch) {
    const coefficients = this.optimizer.step(this.theta, this.gradient(batch));
    if (this.record) {
      this.steps.push({ batch, coefficients });
      this.parameters.push(Float64Array.from(this.theta));
    }
    return this;
  }

  /** L(theta) over all samples, at the present parameters or at others. */
  risk(theta = this.theta) {
    const { network, loss, data, h, f } = this;
    let sum = 0;
    for (let i = 0; i < data.n; i++) {
      network.readout(theta, network.hidden(theta, data.x, i, h), f);
      sum += loss.value(f, data.y, i);
    }
    return sum / data.n;
  }
}

/** The parameters that the same training ends with when `left` (sample numbers) are left out. */
export function without(how, batches, left) {
  const weights = new Float64Array(how.data.n).fill(1);
  for (const i of left) weights[i] = 0;
  const run = new Run(how, { weights, record: false });
  for (const batch of batches) run.step(batch);
  return run.theta;
}
