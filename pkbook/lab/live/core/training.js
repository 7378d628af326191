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
    this.steps = []; // { batch, hidden [B * H], slopes [B * C], coefficients } of each step
    this.f = new Float64Array(network.outputs);
    this.g = new Float64Array(network.size);
  }

  /** The number of steps made. */
  get length() {
    return this.optimizer.k;
  }

  /** The gradient of the batch in `this.g`; also the hidden values and the sensitivities l'. */
  gradient(batch) {
    const { network, loss, data, theta, f, g } = this, { width: H, outputs: C } = network;
    const hidden = new Float64Array(batch.length * H), slopes = new Float64Array(batch.length * C);
    g.fill(0);
    batch.forEach((i, at) => {
      const weight = this.weights ? this.weights[i] : 1;
      if (weight === 0) return;
      const h = hidden.subarray(at * H, (at + 1) * H), a = slopes.subarray(at * C, (at + 1) * C);
      network.readout(theta, network.hidden(theta, data.x, i, h), f);
      loss.sensitivity(f, data.y, i, a);
      network.addGradient(theta, data.x, i, h, a, weight / batch.length, g);
    });
    return { hidden, slopes };
  }

  /** One step on the samples `batch`. */
  step(batch) {
    const kept = this.gradient(batch), coefficients = this.optimizer.step(this.theta, this.g);
    if (this.record) {
      this.steps.push({ batch, ...kept, coefficients });
      this.parameters.push(Float64Array.from(this.theta));
    }
    return this;
  }

  /** L(theta) over all samples, at the present parameters or at others. */
  risk(theta = this.theta) {
    const { network, loss, data } = this, C = network.outputs, all = network.values(theta, data.x);
    let sum = 0;
    for (let i = 0; i < data.n; i++) {
      sum += loss.value(all.subarray(i * C, (i + 1) * C), data.y, i);
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
