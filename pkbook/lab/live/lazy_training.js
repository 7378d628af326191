/**
 * Lazy to rich: width and output scale of a network that learns a step.
 *
 * Its fit lies beside the forecast of its first kernel; aside the drift of the kernel over time,
 * and the kernel before and now.
 */
import { Generator, Network, Run, kernelMatrix, side, squared } from "./core.js";
import { Frame, Plot, Sheet, bounded, element, number, paintMatrix } from "./frame.js";
import { drift, forecast } from "./maths/lazy.js";

const LEAD =
  "Widen the network until it does what its first kernel forecast (dashed).";
// The chapter's setting: 16 points on [-3, 3], rate eta/alpha^2 with eta = 0.125, time 40.
const N = 16, REACH = 3, ETA = 0.125, STEPS = 320, MODES = 4, SPEED = 80;
const TOPS = [0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 64]; // of the axis of the drift
const CONTROLS = {
  width: { label: "width m", values: [4, 16, 64, 256, 1024], initial: 16 },
  scale: { label: "output scale α", values: [0.25, 0.5, 1, 2, 4], initial: 0.5 },
  seed: { label: "start", values: [0, 1, 2, 3, 4, 5], initial: 0 },
};
const percent = (share) => `${number(100 * share, share < 0.1 ? 1 : 0)} %`;
const rms = (g) => Math.sqrt(g.reduce((sum, value) => sum + value * value, 0) / g.length);

class LazyTraining {
  constructor(root, settings) {
    this.x = Float64Array.from({ length: N }, (_, i) => (2 * REACH * (i + 0.5)) / N - REACH);
    this.grid = Float64Array.from({ length: 121 }, (_, i) => (2 * REACH * i) / 120 - REACH);
    Object.assign(this, { place: 1, owed: 0 });
    this.frame = new Frame(root, {
      name: "lazy-training", label: "Lazy to rich: width and output scale", lead: LEAD,
      controls: CONTROLS, draw: () => this.draw(),
      change: () => this.train(STEPS),
      state: { place: bounded(this, "place", 2.5) },
      player: {
        advance: (seconds) => this.advance(seconds),
        step: () => this.further(1),
        reset: () => this.train(0),
      },
    });
    this.frame.take(settings);
    this.plots();
    this.frame.start();
  }

  /** From the start; the change f_t - f_0 is trained, so the residual begins at -f*. */
  train(steps) {
    const { width, scale, seed } = this.frame.values, { x, grid } = this;
    const network = new Network({ width, scaling: "ntk", scale });
    const start = network.start(new Generator(40 + seed));
    this.wanted = x.map((value) => (value < this.place ? -1 : 1));
    this.before = { x: network.values(start, x), grid: network.values(start, grid) };
    const y = this.before.x.map((value, i) => value + this.wanted[i]);
    const settings = { lr: ETA / scale ** 2 }, data = { x, y, n: N };
    const how = { network, loss: squared, data, optimizer: "sgd", settings, start };
    this.run = new Run(how, { record: false });
    const mine = side(network, start, x);
    this.kernel = kernelMatrix(mine);
    this.query = kernelMatrix(side(network, start, grid), mine);
    this.course = [];
    this.note();
    this.further(steps);
  }

  get residual() {
    const f = this.run.network.values(this.run.theta, this.x);
    return f.map((value, i) => value - this.before.x[i] - this.wanted[i]);
  }

  /** Time, drift of the kernel, error now. */
  note() {
    const { run } = this, now = kernelMatrix(side(run.network, run.theta, this.x));
    this.now = now;
    this.course.push([run.length * ETA, drift(this.kernel, now), rms(this.residual)]);
  }

  further(steps) {
    const all = Array.from({ length: N }, (_, i) => i);
    for (let k = 0; k < steps && this.run.length < STEPS; k++) {
      this.run.step(all);
      if (this.run.length % 16 === 0) this.note();
    }
    if (this.run.length % 16) this.note();
    return this.run.length < STEPS;
  }

  advance(seconds) {
    if (this.run.length >= STEPS) this.train(0);
    this.owed += seconds * SPEED;
    const steps = Math.floor(this.owed);
    this.owed -= steps;
    return this.further(steps);
  }

  plots() {
    const { stage, side: aside } = this.frame;
    this.main = new Plot(stage, {
      label: "", x: [-REACH, REACH], xlabel: "input x",
      panels: {
        fit: { title: "network, and forecast (dashed)", y: [-2, 2], height: 200 },
        apart: { title: "how far the two are apart", y: [-0.6, 0.6], height: 70, ticks: 2 },
      },
    });
    this.path = new Plot(aside, {
      label: "", x: [0, STEPS * ETA], xlabel: "time t", ticks: 4,
      panels: { drift: { title: "drift of the kernel", y: [0, 1], height: 84, ticks: 2 } },
    });
    const title = "kernel of the points: first, and now";
    aside.append(element("p", { class: "pk-subtitle", text: title }));
    const box = element("div", { class: "pk-pair" });
    this.sheets = [0, 1].map(() => new Sheet(box, { label: "", ratio: 1 }));
    aside.append(box);
    this.ledger = element("p", { class: "pk-ledger" });
    aside.append(this.ledger);
  }

  draw() {
    const { frame, main, x, grid, run, place } = this, { width, scale } = frame.values;
    const time = run.length * ETA, [, moved, missed] = this.course.at(-1);
    if (!(missed < 1e3)) {
      frame.caption(`Width ${width}, scale ${scale}: training left every bound. Take other ones.`);
      return;
    }
    const told = forecast(this.kernel, this.wanted.map((value) => -value), time, this.query);
    const values = run.network.values(run.theta, grid);
    const change = values.map((value, i) => value - this.before.grid[i]);
    const gap = change.map((value, i) => value - told.asked[i]);
    main.rule("fit", "place", { x: place }, "pk-faint pk-dotted");
    main.dots("fit", "points", x, this.wanted, "pk-plus", 4);
    main.line("fit", "lazy", grid, told.asked, "pk-minus pk-dashed");
    main.line("fit", "network", grid, change, "pk-strong");
    main.area("apart", "gap", grid, gap, "pk-third");
    this.handle();
    this.aside(told, time);
    frame.caption(
      `Width ${width}, output scale ${scale}, time ${number(time, 0)}: the kernel drifted by ` +
        `${percent(moved)}. Network and forecast are ${number(rms(gap), 3)} apart on average. ` +
        `Error left at the points: network ${number(missed, 3)}, forecast ` +
        `${number(rms(told.here.map((value, i) => value - this.wanted[i])), 3)}.`,
    );
    main.describe(`Change of the prediction, and its forecast. ${frame.words.textContent}`);
  }

  handle() {
    this.main.handle("fit", "place", {
      label: "place of the step", x: this.place, y: 0, step: [0.1, 0], range: [-2.5, 2.5],
      text: `step at ${number(this.place, 1)}`, style: "pk-query",
      move: (to) => {
        this.place = Math.round(10 * to) / 10;
        this.train(STEPS);
        this.frame.redraw();
        this.frame.changed();
      },
    });
  }

  /** Drift over time, both kernels, and what is left of the first modes. */
  aside({ rates, modes, parts }, time) {
    const times = this.course.map(([t]) => t), drifts = this.course.map(([, d]) => d);
    const most = TOPS.find((top) => top >= Math.max(...drifts)) ?? 256;
    this.path.limits("drift", 0, most);
    this.path.line("drift", "drift", times, drifts, "pk-strong");
    this.path.dots("drift", "now", [times.at(-1)], [drifts.at(-1)], "pk-query", 4);
    this.path.describe(`Drift of the kernel over time, now ${percent(drifts.at(-1))}.`);
    const size = Math.max(...this.kernel.map(Math.abs), ...this.now.map(Math.abs));
    [this.kernel, this.now].forEach((kernel, at) => {
      this.sheets[at].describe(`Kernel of the 16 points, ${at ? "now" : "at the start"}.`);
      const shown = kernel.map((value) => value / size);
      this.sheets[at].draw((context, width, _, ink) =>
        paintMatrix(context, shown, N, width, ink));
    });
    const { residual } = this;
    const left = modes.slice(0, MODES).map((v, j) =>
      Math.abs(v.reduce((sum, value, i) => sum + value * residual[i], 0) / parts[j]));
    const lazy = rates.slice(0, MODES);
    this.ledger.textContent =
      `Left of the first ${MODES} modes: ${left.map(percent).join(", ")}; forecast ` +
      `${Array.from(lazy, (rate) => percent(Math.exp(-rate * time))).join(", ")}.`;
  }
}

/** Start the explorer in `root`; `settings` are initial values of its controls. */
export function start(root, settings = {}) {
  return new LazyTraining(root, settings);
}
