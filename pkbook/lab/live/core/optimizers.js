/**
 * Five optimizers in one form. Step k with the batch gradient g_k is
 *
 *     m_k            = keep m_{k-1} + take g_k,
 *     theta_{k+1}    = theta_k - D_k (held m_k + direct g_k) - shrink theta_k,
 *
 * where D_k is diagonal. Given D_k, the step is linear in the gradients: that is why a prediction
 * can be taken apart. The conventions are those of torch.optim (epsilon stands outside the root;
 * Adam corrects both moments for their empty start; AdamW shrinks the parameters first).
 *
 *                keep      take       held                direct   D_k
 *     sgd                                                 lr       1
 *     momentum   momentum  1          lr                           1
 *     rmsprop                                             lr       1/(sqrt(v) + eps)
 *     adam       beta1     1 - beta1  lr/(1 - beta1^k)             1/(sqrt(v/(1-beta2^k)) + eps)
 *     adamw      as adam, and                              shrink = lr weightDecay
 *
 * with v_k = b v_{k-1} + (1 - b) g_k^2, b = alpha for RMSprop and beta2 for Adam, k from 1.
 */

/** torch's own settings where the reader gives none. */
export const DEFAULTS = {
  lr: 0.01, momentum: 0.9, alpha: 0.99, beta1: 0.9, beta2: 0.999, eps: 1e-8, weightDecay: 0.01,
};

export const NAMES = ["sgd", "momentum", "rmsprop", "adam", "adamw"];

/** An optimizer with its memories. `step` moves theta in place and returns what it did. */
export class Optimizer {
  /** `name` is one of NAMES, `settings` those of DEFAULTS that differ, `size` is P. */
  constructor(name, settings, size) {
    if (!NAMES.includes(name))
      throw new RangeError(`optimizer must be one of ${NAMES.join(", ")}, got ${name}`);
    this.name = name;
    this.settings = { ...DEFAULTS, ...settings };
    this.k = 0;
    this.m = name === "momentum" || name.startsWith("adam") ? new Float64Array(size) : null;
    this.v = name === "rmsprop" || name.startsWith("adam") ? new Float64Array(size) : null;
  }

  /** The coefficients of step k, without D_k; a setting may change between steps (schedules). */
  coefficients() {
    const s = this.settings;
    const none = { keep: 0, take: 0, held: 0, direct: 0, shrink: 0, scale: null };
    if (this.name === "momentum") return { ...none, keep: s.momentum, take: 1, held: s.lr };
    if (!this.m) return { ...none, direct: s.lr };
    const held = s.lr / (1 - s.beta1 ** this.k);
    const shrink = this.name === "adamw" ? s.lr * s.weightDecay : 0;
    return { ...none, keep: s.beta1, take: 1 - s.beta1, held, shrink };
  }

  /** The diagonal D_k, from squares that already hold g. */
  scale(g) {
    const s = this.settings, adam = this.name !== "rmsprop", beta = adam ? s.beta2 : s.alpha;
    const root = adam ? Math.sqrt(1 - s.beta2 ** this.k) : 1;
    return this.v.map((square, p) => {
      this.v[p] = beta * square + (1 - beta) * g[p] * g[p];
      return 1 / (Math.sqrt(this.v[p]) / root + s.eps);
    });
  }

  /** One step. Returns { keep, take, held, direct, shrink, scale }; scale is null where D_k = 1. */
  step(theta, g) {
    this.k += 1;
    const c = this.coefficients();
    if (this.v) c.scale = this.scale(g);
    for (let p = 0; p < theta.length; p++) {
      if (this.m) this.m[p] = c.keep * this.m[p] + c.take * g[p];
      const along = c.direct * g[p] + (this.m ? c.held * this.m[p] : 0);
      theta[p] -= (c.scale ? c.scale[p] * along : along) + c.shrink * theta[p];
    }
    return c;
  }
}

/**
 * The memory in time: w_{k,s}, how much of the gradient of step s is in step k, for D_k = 1.
 * `steps` are the coefficients of a run. The result is [K * K], zero where s > k.
 */
export function memoryWeights(steps) {
  const K = steps.length, weights = new Float64Array(K * K);
  for (let s = 0; s < K; s++) {
    let kept = steps[s].take;
    for (let k = s; k < K; k++) {
      if (k > s) kept *= steps[k].keep;
      weights[k * K + s] = steps[k].held * kept + (k === s ? steps[k].direct : 0);
    }
  }
  return weights;
}
