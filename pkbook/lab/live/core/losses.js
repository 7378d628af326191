/**
 * The losses, and what the theorem needs of them: the sensitivity l' = dl/df, a number an output.
 *
 * Each is `{ value(f, y, row), sensitivity(f, y, row, out) }`, for outputs f [C] of sample `row`.
 * Over samples the risk is the mean, L(theta) = 1/N sum_i l(f(x_i, theta), y_i).
 */

/** l = |f - y|^2 / 2, l' = f - y; targets [N * C]. */
export const squared = {
  value(f, y, row) {
    let sum = 0;
    for (let c = 0; c < f.length; c++) sum += (f[c] - y[row * f.length + c]) ** 2;
    return sum / 2;
  },
  sensitivity(f, y, row, out) {
    for (let c = 0; c < f.length; c++) out[c] = f[c] - y[row * f.length + c];
    return out;
  },
};

/** l = log(1 + exp(-y f)), l' = -y / (1 + exp(y f)); targets +1 and -1, one output. */
export const logistic = {
  value(f, y, row) {
    const z = y[row] * f[0];
    return Math.log1p(Math.exp(-Math.abs(z))) + Math.max(-z, 0);
  },
  sensitivity(f, y, row, out) {
    out[0] = -y[row] / (1 + Math.exp(y[row] * f[0]));
    return out;
  },
};

/** Probabilities p_c = exp(f_c) / sum_j exp(f_j), written into `out`. */
export function softmax(f, out = new Float64Array(f.length)) {
  const top = Math.max(...f);
  let sum = 0;
  for (let c = 0; c < f.length; c++) sum += out[c] = Math.exp(f[c] - top);
  for (let c = 0; c < f.length; c++) out[c] /= sum;
  return out;
}

/** l = -log p_y, l' = p - e_y; targets are class numbers [N]. */
export const crossEntropy = {
  value(f, y, row) {
    const top = Math.max(...f);
    let sum = 0;
    for (const score of f) sum += Math.exp(score - top);
    return Math.log(sum) + top - f[y[row]];
  },
  sensitivity(f, y, row, out) {
    softmax(f, out);
    out[y[row]] -= 1;
    return out;
  },
};

export const losses = { squared, logistic, crossEntropy };
