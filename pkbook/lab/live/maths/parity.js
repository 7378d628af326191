/**
 * Functions on inputs that lie mirror symmetrically around zero, x_{n-1-i} = -x_i, and the integral
 * operator of a kernel on them (the chapter *Null space*, equation [25] of arXiv 2603.13872).
 *
 * The distribution mu puts the weight 1/n on each input. Then
 *
 *     |g|^2 = 1/n sum_i g(x_i)^2                        (the energy),
 *     (T g)(x_i) = 1/n sum_j K(x_i, x_j) g(x_j)         (the integral operator),
 *     g(x) = (g(x) + g(-x))/2 + (g(x) - g(-x))/2        (the even and the odd part).
 *
 * A network that sees x only through x^2 has a kernel that is even in both arguments, so T maps
 * every odd function to zero: the odd part of a target pulls at no parameter.
 */

/** n midpoints of equal parts of [-reach, reach]. */
export function midpoints(n, reach) {
  return Float64Array.from({ length: n }, (_, i) => reach * ((2 * i + 1) / n - 1));
}

/** (g(x) + g(-x))/2 for sign 1, (g(x) - g(-x))/2 for sign -1; [n]. */
export function part(g, sign) {
  return g.map((value, i) => (value + sign * g[g.length - 1 - i]) / 2);
}

/** |g|^2, the mean of the squares. */
export function energy(g) {
  return g.reduce((sum, value) => sum + value * value, 0) / g.length;
}

/** T g [n] for a kernel matrix K [n * n]. */
export function applied(kernel, g) {
  const n = g.length;
  return g.map((_, i) => {
    let sum = 0;
    for (let j = 0; j < n; j++) sum += kernel[i * n + j] * g[j];
    return sum / n;
  });
}

/** Two waves of energy one, cos 2x and sin 2x over their lengths: { even [n], odd [n] }. */
export function waves(x) {
  const unit = (g) => g.map((value) => value / Math.sqrt(energy(g)));
  return { even: unit(x.map((v) => Math.cos(2 * v))), odd: unit(x.map((v) => Math.sin(2 * v))) };
}
