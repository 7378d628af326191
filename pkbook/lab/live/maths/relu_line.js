/**
 * ReLU units on a line (the chapter *Rank gap*, Section 5.4 of arXiv 2603.13872):
 *
 *     f(x) = sum_j a_j relu(x - t_j),
 *
 * with thresholds t_j = -b_j, so that a bias is a place on the line. Its tangent features are
 *
 *     df/db_j = a_j [x > t_j],        df/da_j = relu(x - t_j) .
 *
 * A unit whose threshold lies beyond all training inputs has a row of zeros there: no gradient ever
 * reaches it. The rank gap counts such directions,
 *
 *     rank [Phi_X, Phi_X'] - rank Phi_X                    (Definition 5.1),
 *
 * singular values counted above a tolerance times the largest one of the mixture.
 */
import { singularValues } from "./matrix.js";

/** f at the inputs `x`, for { t [H], a [H] }. */
export function outputs({ t, a }, x) {
  return x.map((value) => a.reduce((sum, slope, j) => sum + slope * Math.max(0, value - t[j]), 0));
}

/** The tangent features Phi [n * P], an input a row: biases, then with "both" the weights a. */
export function features({ t, a }, x, trained = "biases") {
  const H = t.length, P = trained === "both" ? 2 * H : H, phi = new Float64Array(x.length * P);
  x.forEach((value, i) => {
    for (let j = 0; j < H; j++) {
      const lifted = Math.max(0, value - t[j]);
      phi[i * P + j] = lifted > 0 ? a[j] : 0;
      if (P > H) phi[i * P + H + j] = lifted;
    }
  });
  return phi;
}

/**
 * Gradient descent on the mean of (f - y)^2/2 over all samples, in place.
 * Returns for each unit the largest gradient that it ever had, without sign, [H].
 */
export function descend(units, x, y, { rate, steps, trained = "biases" }) {
  const { t, a } = units, H = t.length, pull = new Float64Array(H);
  const bias = new Float64Array(H), weight = new Float64Array(H), f = new Float64Array(x.length);
  for (let k = 0; k < steps; k++) {
    bias.fill(0);
    weight.fill(0);
    for (let i = 0; i < x.length; i++) {
      f[i] = -y[i];
      for (let j = 0; j < H; j++) if (x[i] > t[j]) f[i] += a[j] * (x[i] - t[j]);
      for (let j = 0; j < H; j++) {
        if (!(x[i] > t[j])) continue;
        bias[j] += (a[j] * f[i]) / x.length;
        weight[j] += ((x[i] - t[j]) * f[i]) / x.length;
      }
    }
    for (let j = 0; j < H; j++) {
      pull[j] = Math.max(pull[j], Math.abs(bias[j]));
      t[j] += rate * bias[j]; // the threshold is minus the bias
      if (trained !== "both") continue;
      pull[j] = Math.max(pull[j], Math.abs(weight[j]));
      a[j] -= rate * weight[j];
    }
  }
  return pull;
}

/** Ranks of the features at `x`, and at `x` and `other` together: { training, mixture, gap }. */
export function rankGap(units, x, other, trained = "biases", tolerance = 1e-6) {
  const both = Float64Array.of(...x, ...other), phi = features(units, both, trained);
  const P = phi.length / both.length;
  const mixture = singularValues(phi, both.length, P);
  const training = singularValues(phi.subarray(0, x.length * P), x.length, P);
  const count = (values) => values.filter((value) => value > tolerance * mixture[0]).length;
  const ranks = { training: count(training), mixture: count(mixture) };
  return { ...ranks, gap: ranks.mixture - ranks.training };
}

/** The part of the kernel between x' and each x that unit j carries, [n]. */
export function throughUnit(units, j, query, x, trained = "biases") {
  const one = features(units, Float64Array.of(query), trained), all = features(units, x, trained);
  const H = units.t.length, P = one.length, own = trained === "both" ? [j, H + j] : [j];
  return x.map((_, i) => own.reduce((sum, p) => sum + one[p] * all[i * P + p], 0));
}
