/**
 * SGD and the diffusion that approximates it weakly (eq. 6 to 8):
 *
 *     theta_{k+1} = theta_k - eta g_k,
 *     dTheta = - grad L(Theta) dt + sqrt(eta) Sigma^{1/2}(Theta) dW .
 *
 * The noise needs no root of a P x P matrix. With N standard normals xi and kappa =
 * (N - B)/(B(N - 1)),
 *
 *     sqrt(kappa / N) sum_i (xi_i - mean xi) grad l_i
 *
 * has the covariance Sigma of a mini-batch gradient. So one step of either process is one gradient
 * with weights on the losses. Both can be driven by the same normals: the batch of SGD is then the
 * B samples whose normals are largest.
 */

/** kappa, 0 for the full batch. */
export function covarianceFactor(samples, size) {
  return samples === 1 ? 0 : (samples - size) / (size * (samples - 1));
}

/** The samples with the largest normals: every subset is equally likely. */
export function drivenBatch(normals, size) {
  const order = Array.from(normals, (_, i) => i).sort((i, j) => normals[j] - normals[i]);
  return order.slice(0, size);
}

/** sum_i w_i grad l_i(theta) for weights w [N], into `g`. */
export function weightedGradient({ network, loss, data }, theta, weights, g) {
  const h = new Float64Array(network.width);
  const f = new Float64Array(network.outputs), a = new Float64Array(network.outputs);
  g.fill(0);
  for (let i = 0; i < data.n; i++) {
    if (weights[i] === 0) continue;
    network.readout(theta, network.hidden(theta, data.x, i, h), f);
    network.addGradient(theta, data.x, i, h, loss.sensitivity(f, data.y, i, a), weights[i], g);
  }
  return g;
}

/** theta <- theta - eta g on `batch`, in place. */
export function sgdStep(task, theta, { rate, batch }) {
  const weights = new Float64Array(task.data.n);
  for (const i of batch) weights[i] = 1 / batch.length;
  const g = weightedGradient(task, theta, weights, new Float64Array(theta.length));
  for (let p = 0; p < theta.length; p++) theta[p] -= rate * g[p];
  return theta;
}

/**
 * One Euler step of length dt of the diffusion, in place:
 *     Theta <- Theta - sum_i (dt / N + sqrt(eta dt kappa / N)(xi_i - mean xi)) grad l_i .
 * With dt = eta and the normals of SGD's batch it is SGD's partner in that step; the sign is that
 * of the batch, since a large normal draws its sample.
 */
export function diffusionStep(task, theta, { rate, size, dt = rate }, normals) {
  const n = task.data.n, mean = normals.reduce((sum, xi) => sum + xi, 0) / n;
  const noise = Math.sqrt((rate * dt * covarianceFactor(n, size)) / n);
  const weights = Float64Array.from(normals, (xi) => dt / n + noise * (xi - mean));
  const g = weightedGradient(task, theta, weights, new Float64Array(theta.length));
  for (let p = 0; p < theta.length; p++) theta[p] -= g[p];
  return theta;
}
