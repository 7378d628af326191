/**
 * Domingos' formula for a recorded run, exactly (the chapter *The exact discrete formula*):
 *
 *     f(x, theta_K) - f(x, theta_0) = sum_i c_i(x) + what belongs to nobody,
 *     c_i(x) = - sum_{s: i in B_s} 1/B < u_s(x), grad f(x_i, theta_s)' l'_i(theta_s) > .
 *
 * Three ideas make it exact and fast.
 *
 * 1. The query's gradient is averaged over each step, phi_k = int_0^1 grad f(x, theta_k + tau
 *    Delta_k) dtau, by Gauss and Legendre's rule: then <phi_k, Delta_k> is the whole change of the
 *    step, at any learning rate, up to the order 2q of the rule with q nodes.
 * 2. A gradient acts in later steps through the optimizer's memory. Walking from the last step to
 *    the first, one vector p collects that:
 *
 *        p_s = held_s D_s phi_s + keep_{s+1} p_{s+1},     u_s = direct_s D_s phi_s + take_s p_s .
 *
 * 3. <u_s, gradient of sample i> is computed without forming that gradient.
 *
 * Weight decay moves the prediction by - sum_s shrink_s <phi_s, theta_s>, which is no sample's.
 */

/** Nodes and weights on [0, 1]. */
export const GAUSS = {
  1: [[0.5, 1]],
  2: [[0.5 - Math.sqrt(1 / 12), 0.5], [0.5 + Math.sqrt(1 / 12), 0.5]],
  3: [[0.5 - Math.sqrt(0.15), 5 / 18], [0.5, 8 / 18], [0.5 + Math.sqrt(0.15), 5 / 18]],
};

/** The left end: the Riemann sum of Theorem 2.2, with an error of first order. */
export const LEFT_END = [[0, 1]];

/** phi: the gradient of <a, f(x)>, averaged between `from` and `to` by `rule`, into `phi` [P]. */
export function averagedGradient(network, from, to, x, row, a, rule, phi) {
  const at = new Float64Array(network.size), h = new Float64Array(network.width);
  phi.fill(0);
  for (const [tau, weight] of rule) {
    for (let p = 0; p < at.length; p++) at[p] = from[p] + tau * (to[p] - from[p]);
    network.hidden(at, x, row, h);
    network.addGradient(at, x, row, h, a, weight, phi);
  }
  return phi;
}

/** p <- held D phi + keep p, and u = direct D phi + take p. `next` is the step after this one. */
function pull(step, next, phi, p, u) {
  const { take, held, direct, scale } = step, keep = next ? next.keep : 0;
  for (let k = 0; k < phi.length; k++) {
    const scaled = scale ? scale[k] * phi[k] : phi[k];
    p[k] = held * scaled + keep * p[k];
    u[k] = direct * scaled + take * p[k];
  }
}

/** <a, f(x, theta)> for one row. */
function answer(network, theta, x, row, a) {
  const f = network.values(theta, x.subarray(row * network.inputs, (row + 1) * network.inputs));
  return f.reduce((sum, value, c) => sum + a[c] * value, 0);
}

/** Adds what the samples of step s did to `told`; what they had inside was kept in training. */
function share(run, s, u, told) {
  const { network, data, weights } = run, { width: H, outputs: C } = network;
  const { batch, hidden, slopes } = run.steps[s];
  const bin = Math.floor((s * told.bins) / run.steps.length);
  batch.forEach((i, at) => {
    const h = hidden.subarray(at * H, (at + 1) * H), a = slopes.subarray(at * C, (at + 1) * C);
    const [first, last] = network.alongGradient(run.parameters[s], data.x, i, h, a, u);
    const factor = -(weights ? weights[i] : 1) / batch.length;
    told.parts[i] += factor * (first + last);
    told.byLayer[2 * i] += factor * first;
    told.byLayer[2 * i + 1] += factor * last;
    told.byTime[i * told.bins + bin] += factor * (first + last);
    told.cells[2 * (i * told.bins + bin)] += factor * first;
    told.cells[2 * (i * told.bins + bin) + 1] += factor * last;
  });
}

/**
 * The contributions of all samples to <a, f(x)> at one query.
 *
 * @param {Run} run a recorded run
 * @param {Float64Array} x queries [m * d]; `row` says which one
 * @param {object} how { row: 0, direction: a [C] (the first output), rule: GAUSS[3], bins: 1 }
 * @returns {object} parts [N], byLayer [N * 2], byTime [N * bins], both in `cells` [N * bins * 2],
 *   other (weight decay), initial, final, explained = sum of parts + other, and
 *   gap = |change - explained| / |change|
 */
export function contributions(run, x, { row = 0, direction, rule = GAUSS[3], bins = 1 } = {}) {
  if (!run.record) throw new Error("the run must be recorded; leave out record: false");
  const { network, parameters, steps, data } = run, P = network.size;
  const a = direction ?? Float64Array.from({ length: network.outputs }, (_, c) => (c ? 0 : 1));
  const told = {
    bins, parts: new Float64Array(data.n), byLayer: new Float64Array(2 * data.n),
    byTime: new Float64Array(bins * data.n), cells: new Float64Array(2 * bins * data.n), other: 0,
    initial: answer(network, parameters[0], x, row, a),
    final: answer(network, run.theta, x, row, a),
  };
  const phi = new Float64Array(P), p = new Float64Array(P), u = new Float64Array(P);
  for (let s = steps.length - 1; s >= 0; s--) {
    const { coefficients } = steps[s];
    averagedGradient(network, parameters[s], parameters[s + 1], x, row, a, rule, phi);
    pull(coefficients, steps[s + 1]?.coefficients, phi, p, u);
    if (coefficients.shrink) {
      for (let k = 0; k < P; k++) told.other -= coefficients.shrink * phi[k] * parameters[s][k];
    }
    share(run, s, u, told);
  }
  told.explained = told.parts.reduce((sum, part) => sum + part, told.other);
  const change = told.final - told.initial;
  told.gap = Math.abs(change - told.explained) / Math.max(Math.abs(change), 1e-300);
  return told;
}
