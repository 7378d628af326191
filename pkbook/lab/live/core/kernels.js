/**
 * The gradient kernel K(x, x') = <grad f(x, theta), grad f(x', theta)> (eq. 2), in closed form.
 *
 * For two layers the sum over all parameters can be carried out by hand. With h = tanh(s1 W x + b),
 * r = V'a and primes for x' (and for theta' in the two-time kernel, eq. 9),
 *
 *     K = |a|^2 (s2^2 <h, h'> + 1)
 *         + s2^2 (s1^2 <x, x'> + 1) sum_j r_j r'_j (1 - h_j^2)(1 - h'_j^2) ;
 *
 * the first line comes from the last layer (its 1 from c), the second from the first layer.
 */

/** What one side brings: for each row of x its h and its slopes r_j (1 - h_j^2), [n * H] each. */
export function side(network, theta, x, direction) {
  const H = network.width, n = x.length / network.inputs;
  const a = direction ?? Float64Array.from({ length: network.outputs }, (_, c) => (c ? 0 : 1));
  const h = new Float64Array(n * H), slope = new Float64Array(n * H);
  for (let row = 0; row < n; row++) {
    network.hidden(theta, x, row, h.subarray(row * H, (row + 1) * H));
    for (let j = 0; j < H; j++) {
      const at = row * H + j;
      slope[at] = network.reach(theta, a, j) * (1 - h[at] * h[at]);
    }
  }
  return { network, x, n, h, slope, square: a.reduce((sum, value) => sum + value * value, 0) };
}

/** K between row i of one side and row j of another. */
export function kernelEntry(one, i, other, j) {
  const { inputs, width, inner, outer, bias } = one.network;
  let features = 0, slopes = 0, product = 0;
  for (let k = 0; k < width; k++) {
    features += one.h[i * width + k] * other.h[j * width + k];
    slopes += one.slope[i * width + k] * other.slope[j * width + k];
  }
  for (let p = 0; p < inputs; p++) product += one.x[i * inputs + p] * other.x[j * inputs + p];
  const last = one.square * (outer * outer * features + (bias ? 1 : 0));
  return last + outer * outer * (inner * inner * product + 1) * slopes;
}

/** The matrix K [n * m] between the rows of two sides (the same one twice for K(X, X)). */
export function kernelMatrix(one, other = one) {
  const out = new Float64Array(one.n * other.n);
  for (let i = 0; i < one.n; i++) {
    for (let j = 0; j < other.n; j++) out[i * other.n + j] = kernelEntry(one, i, other, j);
  }
  return out;
}

/** Khat = K / sqrt(K(x, x) K(x', x')): the cosine between tangent features, [n * m]. */
export function normalisedKernel(one, other = one) {
  const length = (s) => (_, i) => Math.sqrt(kernelEntry(s, i, s, i));
  const lengths = (s) => Float64Array.from({ length: s.n }, length(s));
  const left = lengths(one), right = other === one ? left : lengths(other);
  return kernelMatrix(one, other).map(
    (value, at) => value / (left[Math.floor(at / other.n)] * right[at % other.n]),
  );
}
