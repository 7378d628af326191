/**
 * A small diffusion model (the chapter *Diffusion*, Section 4.1 of arXiv 2603.13872).
 *
 * A schedule beta_1 ... beta_T keeps the share abar_tau = prod_{s <= tau} (1 - beta_s) of a point:
 *
 *     x_{i,tau} = sqrt(abar_tau) x_i + sqrt(1 - abar_tau) eps_i .
 *
 * A network eps(x, e(tau)) of the point and an embedding of its level learns the noise, on the rows
 * (sample, level), with the loss |eps(x_{i,tau}, e(tau)) - eps_i|^2/2. One step of the way back
 * (Ho, Jain and Abbeel 2020) is, with a fresh normal xi,
 *
 *     x <- (x - beta_tau/sqrt(1 - abar_tau) eps(x, e(tau)))/sqrt(1 - beta_tau) + sigma_tau xi,
 *     sigma_tau^2 = beta_tau (1 - abar_{tau-1})/(1 - abar_tau) .
 */

/** { betas [T], kept [T + 1] } with kept[tau] = abar_tau and kept[0] = 1; T beta_tau is linear. */
export function linearSchedule(T, first, last) {
  const betas = Float64Array.from({ length: T }, (_, k) =>
    (first + ((last - first) * k) / (T - 1)) / T);
  const kept = new Float64Array(T + 1).fill(1);
  betas.forEach((beta, k) => (kept[k + 1] = kept[k] * (1 - beta)));
  return { betas, kept, T };
}

/** e(tau)_{2j} = sin(w_j tau), e(tau)_{2j+1} = cos(w_j tau), w_j = T^(-2j/width); [T * width]. */
export function sinusoidal(T, width) {
  return Float64Array.from({ length: T * width }, (_, at) => {
    const tau = 1 + Math.floor(at / width), column = at % width, even = column - (column % 2);
    const angle = tau * T ** (-even / width);
    return column % 2 ? Math.cos(angle) : Math.sin(angle);
  });
}

/** The network's input for points x [n * 2] at one level tau, [n * (2 + width)]. */
export function withLevel(x, tau, embedding, width) {
  const n = x.length / 2, rows = new Float64Array(n * (2 + width));
  for (let i = 0; i < n; i++) {
    rows.set(x.subarray(2 * i, 2 * i + 2), i * (2 + width));
    rows.set(embedding.subarray((tau - 1) * width, tau * width), i * (2 + width) + 2);
  }
  return rows;
}

/**
 * All rows (copy, sample, level): { x [n * (2 + width)], y: noise [n * 2], n, sample, level [n] }
 * for points [N * 2] and standard normals `noise` [copies * N * T * 2].
 */
export function noisedRows(points, { kept, T }, embedding, width, noise) {
  const N = points.length / 2, n = noise.length / 2, x = new Float64Array(n * (2 + width));
  const sample = new Int32Array(n), level = new Int32Array(n);
  for (let row = 0; row < n; row++) {
    const i = Math.floor(row / T) % N, tau = 1 + (row % T);
    const share = Math.sqrt(kept[tau]), rest = Math.sqrt(1 - kept[tau]), at = row * (2 + width);
    for (let c = 0; c < 2; c++) x[at + c] = share * points[2 * i + c] + rest * noise[2 * row + c];
    x.set(embedding.subarray((tau - 1) * width, tau * width), at + 2);
    sample[row] = i;
    level[row] = tau;
  }
  return { x, y: noise, n, sample, level };
}

/** One step back from level tau, for points x [n * 2], predicted noise and normals xi. */
export function stepBack(x, predicted, xi, tau, { betas, kept }) {
  const beta = betas[tau - 1], pulled = beta / Math.sqrt(1 - kept[tau]);
  const sigma = Math.sqrt((beta * (1 - kept[tau - 1])) / (1 - kept[tau]));
  return x.map((value, at) =>
    (value - pulled * predicted[at]) / Math.sqrt(1 - beta) + sigma * xi[at]);
}
