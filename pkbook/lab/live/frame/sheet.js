/** A canvas that follows the width of its place, the sharpness of the screen and the page's ink. */
import { element } from "./elements.js";

export const COLOURS = { plus: "#D55E00", minus: "#0072B2", third: "#009E73", neutral: "#808080" };

export class Sheet {
  /** @param {object} what { label, height: pixels, or ratio: height by width } */
  constructor(parent, { label, height, ratio }) {
    Object.assign(this, { fixed: height, ratio });
    this.node = element("canvas", { role: "img", "aria-label": label, class: "pk-sheet" });
    parent.append(this.node);
  }

  describe(words) {
    if (this.node.getAttribute("aria-label") !== words) this.node.setAttribute("aria-label", words);
  }

  /** Calls `paint(context, width, height, ink)` on a clean canvas; lengths are page pixels. */
  draw(paint) {
    const width = Math.max(1, this.node.clientWidth), sharp = window.devicePixelRatio || 1;
    const height = this.fixed ?? Math.round(width * this.ratio);
    const size = [Math.round(width * sharp), Math.round(height * sharp)];
    if (this.node.width !== size[0] || this.node.height !== size[1]) {
      [this.node.width, this.node.height] = size;
      this.node.style.height = `${height}px`;
    }
    const context = this.node.getContext("2d");
    context.setTransform(sharp, 0, 0, sharp, 0, 0);
    context.clearRect(0, 0, width, height);
    paint(context, width, height, getComputedStyle(this.node).color);
  }
}

/**
 * A matrix [n * n] of numbers in -1 ... 1 as a grid of cells: orange above zero, blue and crossed
 * by a line below, pale near zero.
 */
export function paintMatrix(context, values, n, width, ink) {
  const cell = width / n;
  context.strokeStyle = ink;
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < n; j++) {
      const value = values[i * n + j];
      context.globalAlpha = Math.min(1, Math.abs(value));
      context.fillStyle = value >= 0 ? COLOURS.plus : COLOURS.minus;
      context.fillRect(j * cell, i * cell, cell + 0.5, cell + 0.5);
      if (value > -0.1) continue;
      context.beginPath();
      context.moveTo(j * cell + 2, (i + 1) * cell - 2);
      context.lineTo((j + 1) * cell - 2, i * cell + 2);
      context.stroke();
    }
  }
  context.globalAlpha = 1;
  context.strokeRect(0.5, 0.5, width - 1, width - 1);
}
