/**
 * Two decompositions of small matrices, both by Jacobi's rotations; matrices lie row after row.
 */

const SWEEPS = 60, ENOUGH = 1e-15;

/** The rotation (c, s) that makes <p, q> zero, from <p, p>, <q, q> and <p, q>. */
function rotation(pp, qq, pq) {
  const zeta = (qq - pp) / (2 * pq);
  const t = (zeta < 0 ? -1 : 1) / (Math.abs(zeta) + Math.sqrt(1 + zeta * zeta));
  const c = 1 / Math.sqrt(1 + t * t);
  return [c, c * t];
}

/** Singular values of A [rows * columns], largest first: columns are turned until orthogonal. */
export function singularValues(matrix, rows, columns) {
  const at = Array.from({ length: columns }, (_, j) =>
    Float64Array.from({ length: rows }, (_, i) => matrix[i * columns + j]));
  const dot = (p, q) => p.reduce((sum, value, i) => sum + value * q[i], 0);
  for (let sweep = 0, turned = true; turned && sweep < SWEEPS; sweep++) {
    turned = false;
    for (let j = 0; j < columns; j++) {
      for (let k = j + 1; k < columns; k++) {
        const p = at[j], q = at[k], pp = dot(p, p), qq = dot(q, q), pq = dot(p, q);
        if (Math.abs(pq) <= ENOUGH * Math.sqrt(pp * qq)) continue;
        turned = true;
        const [c, s] = rotation(pp, qq, pq);
        for (let i = 0; i < rows; i++) [p[i], q[i]] = [c * p[i] - s * q[i], s * p[i] + c * q[i]];
      }
    }
  }
  return Float64Array.from(at, (p) => Math.sqrt(dot(p, p))).sort().reverse();
}

/**
 * Eigenvalues, largest first, and eigenvectors of a symmetric matrix A [n * n]:
 * { values [n], vectors: n arrays [n] }, A = sum_j values_j vectors_j vectors_j' .
 */
export function eigen(matrix, n) {
  const a = Float64Array.from(matrix), v = new Float64Array(n * n);
  for (let i = 0; i < n; i++) v[i * n + i] = 1;
  const size = Math.sqrt(a.reduce((sum, value) => sum + value * value, 0));
  for (let sweep = 0, turned = true; turned && sweep < SWEEPS; sweep++) {
    turned = false;
    for (let p = 0; p < n; p++) {
      for (let q = p + 1; q < n; q++) {
        if (Math.abs(a[p * n + q]) <= 1e-18 * size) continue;
        turned = true;
        turn(a, v, n, p, q);
      }
    }
  }
  const order = Array.from({ length: n }, (_, i) => i).sort((i, j) => a[j * n + j] - a[i * n + i]);
  return {
    values: Float64Array.from(order, (i) => a[i * n + i]),
    vectors: order.map((i) => Float64Array.from({ length: n }, (_, k) => v[k * n + i])),
  };
}

/** One rotation of rows and columns p and q of `a`, and of the columns of `v`. */
function turn(a, v, n, p, q) {
  const [c, s] = rotation(a[p * n + p], a[q * n + q], a[p * n + q]);
  const mix = (m, i, j) => ([m[i], m[j]] = [c * m[i] - s * m[j], s * m[i] + c * m[j]]);
  for (let k = 0; k < n; k++) mix(a, k * n + p, k * n + q);
  for (let k = 0; k < n; k++) mix(a, p * n + k, q * n + k);
  for (let k = 0; k < n; k++) mix(v, k * n + p, k * n + q);
  a[p * n + q] = a[q * n + p] = 0;
}
