/**
 * The memory of an optimizer in time, for one parameter and a given series of gradients.
 *
 * A step is theta_{t+1} = theta_t - sum_{s <= t} W(t, s) g_s - shrink_t theta_t. W(t, s) is the
 * weight of memory, `memoryWeights` of the core, times the step size D_t, which depends on the
 * squares of the gradients. What the push of step s has become by the end of step t is
 *
 *     P(t, s) = (1 - shrink_t) P(t - 1, s) + W(t, s),
 *
 * so that theta_{t+1} = (what is left of theta_0) - sum_s P(t, s) g_s .
 */
import { Generator, memoryWeights, Optimizer } from "../core.js";

export const STEPS = 40;
export const RATE = 0.1; // cancels in what is shown, but for weight decay
const LARGE = 12, TIMES = 6; // the step with a large gradient, and how large it is

const series = (f) => Float64Array.from({ length: STEPS }, (_, s) => f(s));
const draws = new Generator(5).normals(STEPS);
export const GRADIENTS = {
  one: { words: `alike, one ${TIMES}-fold`, g: series((s) => (s === LARGE ? TIMES : 1)) },
  alike: { words: "all alike", g: series(() => 1) },
  fading: { words: "fading", g: series((s) => 0.9 ** s) },
  noisy: { words: "noisy", g: draws },
};

/** W and P, [K * K] each with t the row, in learning rates; and the scales D_t [K]. */
export function memory({ optimizer, beta1, beta2, decay }, g) {
  const K = g.length, theta = new Float64Array(1);
  const settings = { lr: RATE, momentum: beta1, beta1, alpha: beta2, beta2, weightDecay: decay };
  const made = new Optimizer(optimizer, settings, 1);
  const steps = Array.from(g, (value) => made.step(theta, Float64Array.of(value)));
  const scales = Float64Array.from(steps, ({ scale }) => (scale ? scale[0] : 1));
  const weights = memoryWeights(steps).map((w, at) => (w * scales[Math.floor(at / K)]) / RATE);
  const pushes = Float64Array.from(weights);
  for (let t = 1; t < K; t++) {
    for (let s = 0; s < t; s++) {
      pushes[t * K + s] += (1 - steps[t].shrink) * pushes[(t - 1) * K + s];
    }
  }
  return { K, weights, pushes, scales };
}
