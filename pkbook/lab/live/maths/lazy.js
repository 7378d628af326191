/**
 * Training with a kernel that stands still (the chapter *Lazy training*, Remark 3.9 of
 * arXiv 2603.13872, after Jacot and others).
 *
 * With the N x N kernel K_0 of the start, eigenvalues lambda_j and eigenvectors v_j of K_0/N, and
 * gradient flow on the squared loss, the residual falls mode by mode,
 *
 *     <r_t, v_j> = exp(-lambda_j t) <r_0, v_j>,
 *
 * and the change of a prediction is
 *
 *     f_t(x) - f_0(x) = - K_{x,X} sum_j v_j (1 - exp(-lambda_j t)) / (N lambda_j) <v_j, r_0> .
 */
import { eigen } from "./matrix.js";

/**
 * @param {Float64Array} kernel K_0 [N * N]
 * @param {Float64Array} residual r_0 [N]
 * @param {number} time t
 * @param {Float64Array} query K_{x,X} [m * N]
 * @returns {object} rates lambda [N], modes v_j, parts <v_j, r_0> [N], and the changes at the
 *   training inputs, here [N], and at the queries, asked [m]
 */
export function forecast(kernel, residual, time, query) {
  const N = residual.length, { values, vectors } = eigen(kernel.map((value) => value / N), N);
  const dot = (v, w) => v.reduce((sum, value, i) => sum + value * w[i], 0);
  const parts = vectors.map((v) => dot(v, residual)), weights = new Float64Array(N);
  vectors.forEach((v, j) => {
    const rate = values[j], grown = rate * time > 1e-12 ? -Math.expm1(-rate * time) / rate : time;
    for (let i = 0; i < N; i++) weights[i] -= (v[i] * grown * parts[j]) / N;
  });
  const changes = (matrix) => Float64Array.from({ length: matrix.length / N }, (_, i) =>
    dot(matrix.subarray(i * N, (i + 1) * N), weights));
  return { rates: values, modes: vectors, parts, here: changes(kernel), asked: changes(query) };
}

/** |K - K_0| / |K_0|, lengths of all entries (Frobenius). */
export function drift(first, later) {
  let moved = 0, size = 0;
  for (let i = 0; i < first.length; i++) {
    moved += (later[i] - first[i]) ** 2;
    size += first[i] ** 2;
  }
  return Math.sqrt(moved / size);
}
