/**
 * Panels one above the other over one x axis, drawn as SVG, and handles to drag on top.
 *
 * What is drawn keeps its name: `plot.line("fit", "curve", xs, ys)` makes the curve at the first
 * call and moves it afterwards. Lengths are pixels of the page, so text keeps its size on a phone.
 * The drawing is one image with one description; what can be moved lies above it as real controls.
 */
import { drawn, element, number } from "./elements.js";
import { Handle } from "./handle.js";

const LEFT = 38, RIGHT = 16, TITLE = 21, GAP = 8, AXIS = 34;
let plots = 0;

/** Ticks at 1, 2 or 5 times a power of ten, about `wanted` of them. */
export function ticks(low, high, wanted = 4) {
  const rough = (high - low) / wanted, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((m) => m * power >= rough * 0.7);
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) {
    found.push(k * step);
  }
  return found;
}

const written = (tick, places) => Math.abs(tick - Number(tick.toFixed(places))) < 1e-9;
const decimals = (tick) => [0, 1, 2].find((places) => written(tick, places)) ?? 3;

export class Plot {
  /**
   * @param {HTMLElement} parent
   * @param {object} what { label: words for who does not see it, x: [low, high], xlabel, ticks: 5,
   *   panels: { name: { title, y: [low, high], height, ticks: 3 (0 for none) } } }
   */
  constructor(parent, { label, x, xlabel = "", panels, ticks: wanted = 6 }) {
    this.box = element("div", { class: "pk-plot" });
    this.svg = drawn("svg", { role: "img", "aria-label": label });
    this.box.append(this.svg);
    parent.append(this.box);
    Object.assign(this, { x, xlabel, wanted, handles: {}, id: `pk-plot-${plots++}` });
    this.panels = Object.fromEntries(
      Object.entries(panels).map(([name, panel]) => [name, this._panel(panel)]),
    );
    this.xaxis = drawn("g", { class: "pk-axis" });
    this.svg.append(this._hatch(), this.xaxis);
    this.layout();
    new ResizeObserver(() => this.layout()).observe(this.box);
  }

  _panel({ title = "", y, height, ticks: wanted = 3 }) {
    const axis = drawn("g", { class: "pk-axis" }), view = drawn("svg", { class: "pk-view" });
    this.svg.append(axis, view);
    return { title, y, height, wanted, axis, view, marks: {} };
  }

  /** Stripes for what is negative: colour is never the only difference. */
  _hatch() {
    const line = drawn("path", { d: "M0 6 6 0M-1 1 1 -1M5 7 7 5", class: "pk-hatch" });
    const pattern = { id: `${this.id}-hatch`, width: 6, height: 6, patternUnits: "userSpaceOnUse" };
    return drawn("defs", {}, drawn("pattern", pattern, line));
  }

  /** Places everything for the present width; what was drawn is drawn again by the next draw. */
  layout() {
    this.width = Math.max(220, this.box.clientWidth || 480);
    this.inner = this.width - LEFT - RIGHT;
    let top = 0;
    for (const panel of Object.values(this.panels)) {
      top += panel.title ? TITLE : GAP;
      panel.top = top;
      const at = { x: LEFT, y: top, width: this.inner, height: panel.height };
      for (const [name, value] of Object.entries(at)) panel.view.setAttribute(name, value);
      this._yAxis(panel);
      top += panel.height;
    }
    this.height = top + AXIS;
    this.svg.setAttribute("width", this.width);
    this.svg.setAttribute("height", this.height);
    this._xAxis(top);
    const marks = Object.values(this.panels).flatMap((panel) => Object.values(panel.marks));
    for (const again of marks) again();
    for (const handle of Object.values(this.handles)) handle.place();
  }

  _yAxis(panel) {
    const { top, height, title } = panel;
    const box = { x: LEFT, y: top, width: this.inner, height, class: "pk-box" };
    const parts = [drawn("rect", box)];
    if (title) parts.push(drawn("text", { x: LEFT, y: top - 5, class: "pk-title", text: title }));
    for (const tick of panel.wanted ? ticks(...panel.y, panel.wanted) : []) {
      const y = top + this.down(panel, tick), style = tick === 0 ? "pk-zero" : "pk-grid";
      const text = number(tick, decimals(tick));
      parts.push(drawn("text", { x: LEFT - 5, y: y + 4, class: "pk-end", text }));
      parts.push(drawn("path", { d: `M${LEFT} ${y}h${this.inner}`, class: style }));
    }
    panel.axis.replaceChildren(...parts);
  }

  _xAxis(bottom) {
    const parts = ticks(...this.x, Math.min(this.wanted, this.inner / 45)).map((tick) => {
      const at = { x: LEFT + this.across(tick), y: bottom + 14, class: "pk-middle" };
      return drawn("text", { ...at, text: number(tick, decimals(tick)) });
    });
    const middle = LEFT + this.inner / 2;
    parts.push(drawn("text", { x: middle, y: bottom + 29, class: "pk-middle", text: this.xlabel }));
    this.xaxis.replaceChildren(...parts);
  }

  /** Pixels from the left of the panels, of an x. */
  across(x) {
    return ((x - this.x[0]) / (this.x[1] - this.x[0])) * this.inner;
  }

  /** Pixels from the top of a panel, of a y. */
  down(panel, y) {
    const at = ((panel.y[1] - y) / (panel.y[1] - panel.y[0])) * panel.height;
    return Math.min(1e4, Math.max(-1e4, Number.isFinite(at) ? at : 1e4));
  }

  /** The inputs and values under a place of the page. */
  under(name, clientX, clientY) {
    const box = this.svg.getBoundingClientRect(), panel = this.panels[name], [low, high] = panel.y;
    const x = (clientX - box.left - LEFT) / this.inner;
    const y = (clientY - box.top - panel.top) / panel.height;
    return [this.x[0] + x * (this.x[1] - this.x[0]), high - y * (high - low)];
  }

  /** Other limits for x. */
  span(low, high) {
    if (this.x[0] === low && this.x[1] === high) return;
    this.x = [low, high];
    this.layout();
  }

  /** Other limits for a panel's y. */
  limits(name, low, high) {
    const panel = this.panels[name];
    if (panel.y[0] === low && panel.y[1] === high) return;
    panel.y = [low, high];
    this._yAxis(panel);
  }

  describe(words) {
    if (this.svg.getAttribute("aria-label") !== words) this.svg.setAttribute("aria-label", words);
  }

  /** The element of a mark, made at its first use; `again` draws it anew for another width. */
  _mark(name, key, tag, style, again) {
    const panel = this.panels[name];
    panel.marks[key] = again;
    const id = `mark-${key}`;
    let node = [...panel.view.children].find((child) => child.dataset.mark === id);
    if (!node) panel.view.append((node = drawn(tag, { "data-mark": id })));
    if (node.getAttribute("class") !== style) node.setAttribute("class", style);
    return [panel, node];
  }

  /** A line through (xs, ys); `style` is a class: pk-strong, pk-faint, pk-plus, pk-minus ... */
  line(name, key, xs, ys, style = "pk-strong") {
    const again = () => this.line(name, key, xs, ys, style);
    const [panel, node] = this._mark(name, key, "path", `pk-line ${style}`, again);
    let d = "";
    for (let i = 0; i < xs.length; i++) {
      d += `${i ? "L" : "M"}${this.across(xs[i]).toFixed(1)} ${this.down(panel, ys[i]).toFixed(1)}`;
    }
    node.setAttribute("d", d);
  }

  /** A vertical or horizontal rule: { x } or { y }. */
  rule(name, key, { x, y }, style = "pk-faint") {
    const panel = this.panels[name];
    if (x !== undefined) this.line(name, key, [x, x], panel.y, style);
    else this.line(name, key, this.x, [y, y], style);
  }

  /** The area between a curve and zero. */
  area(name, key, xs, ys, style = "pk-plus") {
    const again = () => this.area(name, key, xs, ys, style);
    const [panel, node] = this._mark(name, key, "path", `pk-area ${style}`, again);
    const zero = this.down(panel, 0).toFixed(1);
    let d = `M${this.across(xs[0]).toFixed(1)} ${zero}`;
    for (let i = 0; i < xs.length; i++) {
      d += `L${this.across(xs[i]).toFixed(1)} ${this.down(panel, ys[i]).toFixed(1)}`;
    }
    node.setAttribute("d", `${d}L${this.across(xs[xs.length - 1]).toFixed(1)} ${zero}Z`);
  }

  /** Bars from zero at `xs`; negative ones blue and striped. `wide` is their width in pixels. */
  bars(name, key, xs, heights, wide = 14, chosen = -1) {
    const again = () => this.bars(name, key, xs, heights, wide, chosen);
    const [panel, group] = this._mark(name, key, "g", "pk-bars", again);
    this._children(group, xs.length * 2, "rect");
    const zero = this.down(panel, 0);
    for (let i = 0; i < xs.length; i++) {
      const end = this.down(panel, heights[i]), up = heights[i] >= 0;
      const at = {
        x: (this.across(xs[i]) - wide / 2).toFixed(1), width: wide,
        y: Math.min(zero, end).toFixed(1), height: Math.max(1, Math.abs(end - zero)).toFixed(1),
      };
      const [bar, stripes] = [group.children[2 * i], group.children[2 * i + 1]];
      for (const [name, value] of Object.entries(at)) {
        bar.setAttribute(name, value);
        stripes.setAttribute(name, value);
      }
      bar.setAttribute("class", (up ? "pk-plus" : "pk-minus") + (i === chosen ? " pk-chosen" : ""));
      stripes.setAttribute("fill", up ? "none" : `url(#${this.id}-hatch)`);
    }
  }

  /** Arrows from (xs, ys), as long as (us, vs) says; those shorter than two pixels are left out. */
  arrows(name, key, [xs, ys], [us, vs], style = "pk-strong") {
    const again = () => this.arrows(name, key, [xs, ys], [us, vs], style);
    const [panel, node] = this._mark(name, key, "path", `pk-line ${style}`, again);
    let d = "";
    for (let i = 0; i < xs.length; i++) {
      const x = this.across(xs[i]), y = this.down(panel, ys[i]);
      const right = this.across(xs[i] + us[i]) - x, down = this.down(panel, ys[i] + vs[i]) - y;
      const size = Math.hypot(right, down), head = Math.min(5, 0.5 * size) / size;
      if (!(size > 2)) continue;
      const [p, q] = [right * head, down * head];
      d += `M${x.toFixed(1)} ${y.toFixed(1)}l${right.toFixed(1)} ${down.toFixed(1)}` +
        `m${(-p - 0.6 * q).toFixed(1)} ${(-q + 0.6 * p).toFixed(1)}` +
        `l${(p + 0.6 * q).toFixed(1)} ${(q - 0.6 * p).toFixed(1)}` +
        `l${(-p + 0.6 * q).toFixed(1)} ${(-q - 0.6 * p).toFixed(1)}`;
    }
    node.setAttribute("d", d);
  }

  /** Marks at (xs, ys): circles or with `shape` "diamond" diamonds; `radius` one, or one each. */
  dots(name, key, xs, ys, style = "pk-neutral", radius = 4, shape = "circle") {
    const again = () => this.dots(name, key, xs, ys, style, radius, shape);
    const [panel, group] = this._mark(name, key, "g", style, again);
    this._children(group, xs.length, "path");
    const form = (r) => (shape === "circle"
      ? `m${-r} 0a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0`
      : `m0 ${-r}l${r} ${r}l${-r} ${r}l${-r} ${-r}z`);
    for (let i = 0; i < xs.length; i++) {
      const r = Number((typeof radius === "number" ? radius : radius[i]).toFixed(1));
      const x = this.across(xs[i]).toFixed(1), y = this.down(panel, ys[i]).toFixed(1);
      group.children[i].setAttribute("d", `M${x} ${y}${form(r)}`);
    }
  }

  /** Words at a place. */
  text(name, key, x, y, words, style = "pk-note") {
    const again = () => this.text(name, key, x, y, words, style);
    const [panel, node] = this._mark(name, key, "text", style, again);
    const at = this.across(x), right = at > this.inner * 0.7;
    node.setAttribute("x", at + (right ? -12 : 12));
    node.setAttribute("y", Math.min(panel.height - 5, Math.max(14, this.down(panel, y) - 14)));
    node.setAttribute("text-anchor", right ? "end" : "start");
    node.textContent = words;
  }

  _children(group, count, tag) {
    while (group.children.length > count) group.lastChild.remove();
    while (group.children.length < count) group.append(drawn(tag));
  }

  /** Something to drag, see Handle; of the same key the same one. */
  handle(name, key, what) {
    this.handles[key] ??= new Handle(this, name, what);
    this.handles[key].set(what);
    return this.handles[key];
  }

  dropHandle(key) {
    this.handles[key]?.node.remove();
    delete this.handles[key];
  }

  /** Pixels of the page, from the plot's corner, of a point. */
  place(name, x, y) {
    const panel = this.panels[name];
    const down = Math.min(panel.height, Math.max(0, this.down(panel, y)));
    return [LEFT + this.across(x), panel.top + down];
  }
}
