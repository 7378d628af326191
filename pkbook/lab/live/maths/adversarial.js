/**
 * Generator against discriminator (the chapter *GANs*, Corollary 4.2 of arXiv 2603.13872).
 *
 * The discriminator D = sigma(logit(x)) learns by log(1 + exp(-logit)) on data and by
 * log(1 + exp(logit)) on what the generator makes. The feedback to latent z_i at x_i = G(z_i) is
 *
 *     s_i = grad_x l_G(x_i) = -(1 - D) grad logit   for l_G = -log D      (non-saturating),
 *                             -D grad logit         for l_G = log(1 - D)  (minimax),
 *
 * and one small step of SGD with the rate eta moves the point of any latent z by
 *
 *     -eta/N sum_i K_{z,z_i} s_i,
 *     K_{z,z'} = (s2^2 <h, h'> + 1) I
 *                + s2^2 (s1^2 <z, z'> + 1) V diag((1 - h^2)(1 - h'^2)) V',
 *
 * where K is the block kernel of G, one row and column for each coordinate.
 */
import { logistic, weightedGradient } from "../core.js";

/** grad_x <a, f(x)> of row `row`: s1 s2 W' ((V'a)(1 - h^2)), [d]. */
export function inputGradient(network, theta, x, row, a) {
  const { inputs: d, width: H, inner, outer } = network, out = new Float64Array(d);
  const h = network.hidden(theta, x, row, new Float64Array(H));
  for (let j = 0; j < H; j++) {
    const slope = inner * outer * network.reach(theta, a, j) * (1 - h[j] * h[j]);
    for (let p = 0; p < d; p++) out[p] += slope * theta[j * d + p];
  }
  return out;
}

const sigmoid = (value) => 1 / (1 + Math.exp(-value));

/** The feedback s [n * d] to the points x [n * d], and D there [n]. */
export function feedback(network, theta, x, loss = "non-saturating") {
  const d = network.inputs, one = Float64Array.of(1), s = new Float64Array(x.length);
  const D = network.values(theta, x).map(sigmoid);
  D.forEach((chance, i) => {
    const weight = loss === "minimax" ? chance : 1 - chance;
    const up = inputGradient(network, theta, x, i, one);
    for (let p = 0; p < d; p++) s[i * d + p] = -weight * up[p];
  });
  return { s, D };
}

/** The gradient of the discriminator's loss on real [n * d] and made points [n * d], into `g`. */
export function discriminatorGradient(network, theta, real, made, g) {
  const n = real.length / network.inputs, m = made.length / network.inputs;
  const x = Float64Array.of(...real, ...made);
  const y = Float64Array.from({ length: n + m }, (_, i) => (i < n ? 1 : -1));
  const weights = Float64Array.from(y, (sign) => (sign > 0 ? 1 / n : 1 / m));
  return weightedGradient({ network, loss: logistic, data: { x, y, n: n + m } }, theta, weights, g);
}

/** The generator's gradient 1/N sum_i (dG/dtheta)' s_i, into `g`. */
export function generatorGradient(network, theta, z, s, g) {
  const n = z.length / network.inputs, C = network.outputs, h = new Float64Array(network.width);
  g.fill(0);
  for (let i = 0; i < n; i++) {
    network.hidden(theta, z, i, h);
    network.addGradient(theta, z, i, h, s.subarray(i * C, (i + 1) * C), 1 / n, g);
  }
  return g;
}

/** K_{z,z_i} s_i for one latent z [d] and all z_i: what each sends to the query, [n * C]. */
export function sent(network, theta, query, z, s) {
  const { inputs: d, width: H, outputs: C, inner, outer, bias } = network, n = z.length / d;
  const out = new Float64Array(n * C), h = new Float64Array(H);
  const own = network.hidden(theta, query, 0, new Float64Array(H));
  for (let i = 0; i < n; i++) {
    network.hidden(theta, z, i, h);
    const a = s.subarray(i * C, (i + 1) * C);
    let product = 1, features = 0;
    for (let p = 0; p < d; p++) product += inner * inner * query[p] * z[i * d + p];
    for (let j = 0; j < H; j++) features += own[j] * h[j];
    const last = outer * outer * features + (bias ? 1 : 0);
    for (let c = 0; c < C; c++) out[i * C + c] = last * a[c];
    for (let j = 0; j < H; j++) {
      const slopes = (1 - own[j] * own[j]) * (1 - h[j] * h[j]) * network.reach(theta, a, j);
      const weight = outer * outer * product * slopes;
      for (let c = 0; c < C; c++) out[i * C + c] += weight * theta[network.v + c * H + j];
    }
  }
  return out;
}
