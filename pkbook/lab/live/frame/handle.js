/**
 * A thing that is dragged: with the mouse, with a finger, with the arrow keys.
 *
 * For a screen reader it is a slider whose value is its x, worded by `text`. A handle that moves in
 * both directions takes the upper and lower arrow keys for y.
 */
import { element } from "./elements.js";

export class Handle {
  /**
   * @param {Plot} plot and the panel `name` it lives in
   * @param {object} what { label, x, y, text, move(x, y, { done }), step: [dx, dy] (dy 0: moves
   *   sideways only, dx 0: up and down only), range: [low, high] of x, yrange, style, stop: whether
   *   Tab stops here, key(event) for further keys, choose() when it gets the focus or is touched }
   */
  constructor(plot, name, what) {
    Object.assign(this, { plot, name });
    this.node = element("div", { role: "slider", tabindex: 0 });
    this.node.addEventListener("pointerdown", (event) => this._grab(event));
    this.node.addEventListener("pointermove", (event) => this.held && this._drag(event, false));
    this.node.addEventListener("pointerup", (event) => this._drop(event));
    this.node.addEventListener("pointercancel", (event) => this._drop(event));
    this.node.addEventListener("keydown", (event) => this._key(event));
    this.node.addEventListener("focus", () => this.what.choose?.());
    plot.box.append(this.node);
    this.what = what;
  }

  set(what) {
    this.what = what;
    const [low, high] = this.upright ? this.heights : (what.range ?? this.plot.x);
    const now = this.upright ? what.y : what.x;
    const said = {
      class: `pk-handle ${what.style ?? ""}`, "aria-label": what.label, "aria-valuetext": what.text,
      "aria-valuemin": low, "aria-valuemax": high, "aria-valuenow": Number(now.toFixed(3)),
      tabindex: what.stop === false ? -1 : 0,
    };
    for (const [key, value] of Object.entries(said)) {
      if (this.node.getAttribute(key) !== String(value)) this.node.setAttribute(key, value);
    }
    this.place();
  }

  /** Whether it moves up and down only; its value is its height then. */
  get upright() {
    return this.what.step?.[0] === 0;
  }

  get heights() {
    return this.what.yrange ?? this.plot.panels[this.name].y;
  }

  place() {
    const [left, top] = this.plot.place(this.name, this.what.x, this.what.y);
    this.node.style.transform = `translate(${left.toFixed(1)}px, ${top.toFixed(1)}px)`;
  }

  _grab(event) {
    if (event.button) return;
    this.held = true;
    this.node.setPointerCapture(event.pointerId);
    this.node.focus({ preventScroll: true });
    const [x, y] = this.plot.under(this.name, event.clientX, event.clientY);
    this.offset = [this.what.x - x, this.what.y - y];
    this.moved = false;
    event.preventDefault();
    event.stopPropagation();
  }

  _drag(event, done) {
    const [x, y] = this.plot.under(this.name, event.clientX, event.clientY);
    this.moved = true;
    this._to(x + this.offset[0], y + this.offset[1], done);
  }

  _drop(event) {
    if (!this.held) return;
    this.held = false;
    if (this.moved && event.type === "pointerup") this._drag(event, true);
  }

  _to(x, y, done) {
    const [low, high] = this.what.range ?? this.plot.x;
    const [least, most] = this.heights, free = this.what.step?.[1];
    const to = free ? Math.min(most, Math.max(least, y)) : this.what.y;
    const at = this.upright ? this.what.x : Math.min(high, Math.max(low, x));
    this.what.move(at, to, { done });
  }

  _key(event) {
    const { step: [dx, dy] = [0.1, 0], x, y, range = this.plot.x } = this.what;
    const far = event.shiftKey ? 5 : 1;
    const moves = {
      ArrowLeft: [-dx, 0], ArrowRight: [dx, 0],
      ArrowDown: dy ? [0, -dy] : [-dx, 0], ArrowUp: dy ? [0, dy] : [dx, 0],
    };
    if (dx === 0) Object.assign(moves, { ArrowLeft: [0, -dy], ArrowRight: [0, dy] });
    if (!dy) Object.assign(moves, { Home: [range[0] - x, 0], End: [range[1] - x, 0] });
    const move = moves[event.key];
    if (!move) {
      this.what.key?.(event);
      return;
    }
    event.preventDefault();
    const times = event.key.startsWith("Arrow") ? far : 1;
    this._to(x + times * move[0], y + times * move[1], true);
  }
}
