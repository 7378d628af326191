/**
 * Rank gap: the reader drags the threshold of the last unit out of the training interval.
 *
 * Above target and network, in the middle the kernel between a query beyond the interval and every
 * input; aside the tangent matrix, whose last row empties over the training inputs.
 */
import { COLOURS, Frame, Plot, Sheet, bounded, element, number } from "./frame.js";
import { descend, features, outputs, rankGap, throughUnit } from "./maths/relu_line.js";

const LEAD =
  "Beyond 1, where training inputs end, no step moves this unit: drag it back to wake it.";
// The chapter's setting: eight units, 80 samples on [-1, 1], test inputs up to 1.5.
const LEFT = -1, EDGE = 1, REACH = 1.5, RATE = 0.1, STEPS = 3000, QUERY = 1.45, SPEED = 600;
const middles = (n, low, high) =>
  Float64Array.from({ length: n }, (_, i) => low + ((high - low) * (i + 0.5)) / n);
const CONTROLS = {
  weight: { label: "its weight a₈", values: [-5, -3, -1, 0.5, 1, 3, 5], initial: 1 },
  trained: {
    label: "trained", initial: "biases",
    options: { biases: "biases", both: "biases and weights" },
  },
};

class RankGap {
  constructor(root, { teacher, signs, ...settings }) {
    Object.assign(this, { teacher, signs, place: 1.2, steps: STEPS, owed: 0 });
    this.x = middles(80, LEFT, EDGE);
    this.other = middles(125, LEFT, REACH);
    this.grid = Float64Array.from({ length: 201 }, (_, i) => LEFT + (i * (REACH - LEFT)) / 200);
    this.aim = { t: Float64Array.from(teacher), a: Float64Array.from(signs) };
    this.y = outputs(this.aim, this.x);
    this.frame = new Frame(root, {
      name: "rank-gap", label: "Rank gap: drag one threshold out of the interval", lead: LEAD,
      controls: CONTROLS, change: () => this.train(), draw: () => this.draw(),
      state: { place: bounded(this, "place", REACH) },
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

  /** From the start, with the last threshold where the reader put it. */
  train(steps = STEPS) {
    const { values } = this.frame, H = this.signs.length;
    const t = Float64Array.from(this.signs, (_, j) => 0.85 * (LEFT + (2 * (j + 0.5)) / H));
    const a = Float64Array.from(this.signs);
    t[H - 1] = this.place;
    a[H - 1] = values.weight;
    this.units = { t, a };
    this.pull = new Float64Array(H);
    this.woken = this.x.filter((value) => value > this.place).length;
    this.steps = 0;
    this.further(steps);
  }

  further(steps) {
    const how = { rate: RATE, steps, trained: this.frame.values.trained };
    const pull = descend(this.units, this.x, this.y, how);
    this.pull = this.pull.map((value, j) => Math.max(value, pull[j]));
    this.steps += steps;
  }

  advance(seconds) {
    if (this.steps >= STEPS) this.train(0);
    this.owed += seconds * SPEED;
    const steps = Math.min(STEPS - this.steps, Math.floor(this.owed));
    this.owed -= Math.floor(this.owed);
    this.further(steps);
    return this.steps < STEPS;
  }

  plots() {
    const { stage, side } = this.frame;
    this.main = new Plot(stage, {
      label: "", x: [LEFT, REACH], xlabel: "input x (dots: training inputs)",
      panels: {
        fit: { title: "target (thick, grey) and network", y: [-1.5, 4.5], height: 190 },
        kernel: {
          title: `kernel with x′ = ${QUERY} (dashed: that unit’s)`, y: [-1, 9],
          height: 110,
        },
      },
    });
    const title = element("p", { class: "pk-subtitle", text: "tangent matrix, a row each unit" });
    side.append(title);
    this.matrix = new Sheet(side, { label: "", height: 150 });
    this.counts = element("p", { class: "pk-ledger" });
    side.append(this.counts);
  }

  draw() {
    const { frame, units, main, grid, x } = this, { trained } = frame.values;
    const last = units.t.length - 1, wanted = outputs(this.aim, grid), fit = outputs(units, grid);
    main.line("fit", "target", grid, wanted, "pk-soft");
    main.line("fit", "network", grid, fit, "pk-strong");
    main.dots("fit", "inputs", x, x.map(() => -1.3), "pk-neutral", 1.5);
    const whole = grid.map(() => 0), one = throughUnit(units, last, QUERY, grid, trained);
    for (let j = 0; j <= last; j++) {
      throughUnit(units, j, QUERY, grid, trained).forEach((value, i) => (whole[i] += value));
    }
    const most = Math.max(9, ...whole, ...one) * 1.1, least = Math.min(-1, ...whole, ...one) * 1.1;
    main.limits("kernel", least, most);
    for (const panel of ["fit", "kernel"])
      main.rule(panel, "edge", { x: EDGE }, "pk-faint pk-dotted");
    main.line("kernel", "whole", grid, whole, "pk-faint");
    main.line("kernel", "unit", grid, one, "pk-plus pk-dashed");
    this.handle();
    this.sentences(wanted, fit, throughUnit(units, last, QUERY, x, trained));
  }

  handle() {
    const { main, place } = this;
    const reached = place < Math.max(...this.x);
    main.rule("fit", "now", { x: this.units.t.at(-1) }, "pk-plus pk-dashed");
    main.text("fit", "name", place, 4.0, "last unit starts here");
    main.handle("fit", "place", {
      label: "start of the last threshold", x: place, y: 3.9, step: [0.02, 0],
      text: `${number(place)}, ${reached ? "within the training inputs" : "out of their reach"}`,
      style: "pk-upright pk-plus pk-across",
      move: (to) => {
        this.place = Math.round(100 * to) / 100;
        this.train();
        this.frame.redraw(true);
        this.frame.changed();
      },
    });
  }

  sentences(wanted, fit, kernel) {
    const { frame, units, grid, x } = this, { trained } = frame.values;
    const ranks = rankGap(units, x, this.other, trained), last = units.t.length - 1;
    const miss = (low, high) => {
      const inside = [...grid.keys()].filter((i) => grid[i] >= low && grid[i] <= high);
      const sum = inside.reduce((total, i) => total + (fit[i] - wanted[i]) ** 2, 0);
      return Math.sqrt(sum / inside.length);
    };
    const moved = Math.abs(units.t[last] - this.place), largest = Math.max(...kernel.map(Math.abs));
    this.counts.textContent =
      `Rank with the training inputs ${ranks.training}, with all inputs ${ranks.mixture}: ` +
      `the rank gap is ${ranks.gap}.`;
    frame.caption(
      `${this.woken} of ${x.length} training inputs switch the last unit on at the start. In ` +
        `${this.steps} steps its threshold moved by ${number(moved)}; its largest gradient was ` +
        `${number(this.pull[last], 3)}, and its kernel with the training inputs is at most ` +
        `${number(largest, 1)}. Rank gap ${ranks.gap}. Miss up to 1: ` +
        `${number(miss(LEFT, EDGE))}, beyond: ${number(miss(EDGE, REACH))}.`,
    );
    this.main.describe(`Target and network, and the kernel. ${frame.words.textContent}`);
    this.matrix.describe(
      `Tangent matrix over inputs from -1 to 1.5, a row for each unit. ${this.counts.textContent}`,
    );
    this.matrix.draw((context, width, height, ink) => this.paint(context, width, height, ink));
  }

  /** df/db_j over the inputs: orange plus, blue and crossed minus, empty zero. */
  paint(context, width, height, ink) {
    const { units, grid } = this, H = units.t.length, tall = height / H;
    const phi = features(units, grid), across = (i) => (i / grid.length) * width;
    for (let j = 0; j < H; j++) {
      const begin = [...grid.keys()].find((i) => phi[i * H + j] !== 0);
      if (begin === undefined) continue;
      context.fillStyle = phi[begin * H + j] > 0 ? COLOURS.plus : COLOURS.minus;
      context.fillRect(across(begin), j * tall + 2, width - across(begin), tall - 4);
      context.fillStyle = "#fff";
      context.font = "bold 12px sans-serif";
      const sign = phi[begin * H + j] > 0 ? "+" : "\u2212";
      if (width - across(begin) > 14) context.fillText(sign, width - 12, (j + 0.5) * tall + 4);
    }
    context.strokeStyle = ink;
    context.strokeRect(0.5, 0.5, width - 1, height - 1);
    context.lineWidth = 2;
    context.strokeRect(1, (H - 1) * tall + 1, width - 2, tall - 2);
    const edge = ((EDGE - LEFT) / (REACH - LEFT)) * width;
    context.setLineDash([3, 3]);
    context.beginPath();
    context.moveTo(edge, 0);
    context.lineTo(edge, height);
    context.stroke();
    context.setLineDash([]);
  }
}

/** Start the explorer; `settings` holds the teacher's thresholds, the signs, and initial values. */
export function start(root, settings) {
  return new RankGap(root, settings);
}
