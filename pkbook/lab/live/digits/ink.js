/** From strokes of a pointer to a picture like those of MNIST: scaled, centred, 14 x 14. */
import { PIXELS, SIDE } from "./study.js";

const FINE = 28, BOX = 17, RADIUS = 1.3; // MNIST scales to a box of 20 with the ink's own breadth

function distance([ax, ay], [bx, by], x, y) {
  const [dx, dy] = [bx - ax, by - ay], square = dx * dx + dy * dy;
  const along = square ? ((x - ax) * dx + (y - ay) * dy) / square : 0;
  const t = Math.min(1, Math.max(0, along));
  return Math.hypot(x - ax - t * dx, y - ay - t * dy);
}

/** The ink of strokes on 28 x 28 pixels, soft at the edge. */
function inked(strokes) {
  const ink = new Float64Array(FINE * FINE);
  for (const stroke of strokes) {
    stroke.forEach((to, k) => {
      const from = stroke[Math.max(0, k - 1)], reach = RADIUS + 1;
      const range = (a, b) => [
        Math.max(0, Math.floor(Math.min(a, b) - reach)),
        Math.min(FINE - 1, Math.ceil(Math.max(a, b) + reach)),
      ];
      const [left, right] = range(from[0], to[0]), [top, bottom] = range(from[1], to[1]);
      for (let y = top; y <= bottom; y++) {
        for (let x = left; x <= right; x++) {
          const shade = RADIUS + 0.5 - distance(from, to, x + 0.5, y + 0.5);
          ink[y * FINE + x] = Math.max(ink[y * FINE + x], Math.min(1, shade));
        }
      }
    });
  }
  return ink;
}

function middle(ink) {
  let mass = 0, across = 0, down = 0;
  ink.forEach((shade, at) => {
    mass += shade;
    across += shade * ((at % FINE) + 0.5);
    down += shade * (Math.floor(at / FINE) + 0.5);
  });
  return [across / mass, down / mass];
}

/**
 * Strokes, lists of places [x, y] in any unit, to shades [196] of 16 steps: the longer side of the
 * drawing is brought to the size of MNIST's digits, its centre of mass to the middle.
 */
export function raster(strokes) {
  const all = strokes.flat(), x = new Float64Array(PIXELS);
  if (!all.length) return x;
  const [xs, ys] = [0, 1].map((k) => all.map((place) => place[k]));
  const [left, right, top, bottom] = [
    Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys),
  ];
  const scale = BOX / Math.max(right - left, bottom - top, 1e-9);
  const moved = (cx, cy, by) => strokes.map((stroke) =>
    stroke.map(([px, py]) => [(px - cx) * by + FINE / 2, (py - cy) * by + FINE / 2]),
  );
  const once = moved((left + right) / 2, (top + bottom) / 2, Math.min(scale, 1e6));
  const [across, down] = middle(inked(once));
  const ink = inked(once.map((stroke) =>
    stroke.map(([px, py]) => [px + FINE / 2 - across, py + FINE / 2 - down]),
  ));
  for (let at = 0; at < PIXELS; at++) {
    const corner = 2 * FINE * Math.floor(at / SIDE) + 2 * (at % SIDE);
    const sum = ink[corner] + ink[corner + 1] + ink[corner + FINE] + ink[corner + FINE + 1];
    x[at] = Math.round((15 * sum) / 4) / 15;
  }
  return x;
}

/** A picture as text for the address, one hexadecimal digit a pixel, and back. */
export const written = (x) => Array.from(x, (v) => Math.round(15 * v).toString(16)).join("");

export function parsed(text) {
  return new RegExp(`^[0-9a-f]{${PIXELS}}$`).test(text)
    ? Float64Array.from(text, (c) => parseInt(c, 16) / 15) : null;
}
