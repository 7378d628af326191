/**
 * The network: two layers with tanh between them,
 *
 *     f(x, theta) = s2 V tanh(s1 W x + b) + c,      theta = (W, b, V, c),
 *
 * with d inputs, H hidden units and C outputs. Everything that the book asks of a network is here:
 * its value, and its gradient in theta, known in closed form. With h = tanh(s1 W x + b) and one
 * weight a_c for each output,
 *
 *     d<a, f>/dc   = a,                        d<a, f>/dV_cj = s2 a_c h_j,
 *     d<a, f>/db_j = s2 (V'a)_j (1 - h_j^2),   d<a, f>/dW_jp = s1 x_p d<a, f>/db_j .
 *
 * All parameters lie in one Float64Array in the order of torch's `parameters_to_vector`: W row by
 * row, b, V row by row, c. Inputs lie in one array too, row after row; `row` says which is meant.
 */

/** Two scalings. "torch": s1 = s2 = 1, as in `pk.models.mlp`. "ntk": s1 = 1/sqrt(d), s2 = scale /
 * sqrt(H) and no c, as in `pk.models.ntk_mlp` (Remark 3.9 of arXiv 2603.13872). */
export class Network {
  constructor({ inputs = 1, width = 24, outputs = 1, scaling = "torch", scale = 1 } = {}) {
    for (const [name, value] of Object.entries({ inputs, width, outputs })) {
      if (!Number.isInteger(value) || value < 1)
        throw new RangeError(`${name} must be a whole number above zero, got ${value}`);
    }
    if (!["torch", "ntk"].includes(scaling))
      throw new RangeError(`scaling must be "torch" or "ntk", got ${scaling}`);
    const ntk = scaling === "ntk";
    Object.assign(this, { inputs, width, outputs, scaling, bias: !ntk });
    this.inner = ntk ? 1 / Math.sqrt(inputs) : 1;
    this.outer = ntk ? scale / Math.sqrt(width) : 1;
    this.b = width * inputs; // where each part of theta begins
    this.v = this.b + width;
    this.c = this.v + outputs * width;
    this.size = this.c + (this.bias ? outputs : 0);
  }

  /** A start: torch's uniform +-1/sqrt(inputs of the layer), or standard normals for "ntk". */
  start(generator) {
    const theta = new Float64Array(this.size);
    const first = 1 / Math.sqrt(this.inputs), last = 1 / Math.sqrt(this.width);
    for (let p = 0; p < this.size; p++) {
      const bound = p < this.v ? first : last;
      theta[p] = this.bias ? generator.uniform(-bound, bound) : generator.normal();
    }
    return theta;
  }

  /** h = tanh(s1 W x + b), written into `h` [H]. */
  hidden(theta, x, row, h) {
    const d = this.inputs;
    for (let j = 0; j < this.width; j++) {
      let sum = 0;
      for (let p = 0; p < d; p++) sum += theta[j * d + p] * x[row * d + p];
      h[j] = Math.tanh(this.inner * sum + theta[this.b + j]);
    }
    return h;
  }

  /** f = s2 V h + c, written into `f` [C]. */
  readout(theta, h, f) {
    for (let c = 0; c < this.outputs; c++) {
      let sum = 0;
      const at = this.v + c * this.width;
      for (let j = 0; j < this.width; j++) sum += theta[at + j] * h[j];
      f[c] = this.outer * sum + (this.bias ? theta[this.c + c] : 0);
    }
    return f;
  }

  /** f(x, theta) for all rows of `x`: [n * C]. */
  values(theta, x) {
    const n = x.length / this.inputs, C = this.outputs;
    const all = new Float64Array(n * C), h = new Float64Array(this.width);
    for (let row = 0; row < n; row++) {
      this.hidden(theta, x, row, h);
      this.readout(theta, h, all.subarray(row * C, row * C + C));
    }
    return all;
  }

  /** (V'a)_j, the weight with which unit j reaches <a, f>; without s2. */
  reach(theta, a, j) {
    let sum = 0;
    for (let c = 0; c < this.outputs; c++) sum += a[c] * theta[this.v + c * this.width + j];
    return sum;
  }

  /** g += factor * grad_theta <a, f(x, theta)>; `h` are the hidden values at x. */
  addGradient(theta, x, row, h, a, factor, g) {
    const d = this.inputs, H = this.width;
    for (let c = 0; c < this.outputs; c++) {
      const weight = factor * a[c];
      for (let j = 0; j < H; j++) g[this.v + c * H + j] += weight * this.outer * h[j];
      if (this.bias) g[this.c + c] += weight;
    }
    for (let j = 0; j < H; j++) {
      const slope = factor * this.outer * this.reach(theta, a, j) * (1 - h[j] * h[j]);
      g[this.b + j] += slope;
      for (let p = 0; p < d; p++) g[j * d + p] += slope * this.inner * x[row * d + p];
    }
    return g;
  }

  /** <u, grad_theta <a, f>> without forming the gradient: [share of (W, b), share of (V, c)]. */
  alongGradient(theta, x, row, h, a, u) {
    const d = this.inputs, H = this.width;
    let first = 0, last = 0;
    for (let c = 0; c < this.outputs; c++) {
      let sum = 0;
      for (let j = 0; j < H; j++) sum += u[this.v + c * H + j] * h[j];
      last += a[c] * (this.outer * sum + (this.bias ? u[this.c + c] : 0));
    }
    for (let j = 0; j < H; j++) {
      let sum = 0;
      for (let p = 0; p < d; p++) sum += u[j * d + p] * x[row * d + p];
      const slope = this.outer * this.reach(theta, a, j) * (1 - h[j] * h[j]);
      first += slope * (this.inner * sum + u[this.b + j]);
    }
    return [first, last];
  }
}
