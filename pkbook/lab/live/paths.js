/**
 * Weak and strong: SGD and its diffusion with the same noise.
 *
 * Their paths differ, their means agree.
 */
import { element, Frame, number, Plot } from "./frame.js";
import { Cloud, PAIRS, TIME } from "./paths/study.js";

const RATES = [0.05, 0.1, 0.2, 0.4];
const SLICE = 20; // milliseconds of simulating between two displays
const SHOWN = 14; // pairs in the cloud
const SPEED = 0.5; // time units a second
const CONTROLS = {
  rate: { label: "learning rate η", values: RATES, initial: 0.2 },
  batch: { label: "batch size", values: [1, 2, 4], initial: 2 },
  pair: { label: "pair shown", values: Array.from({ length: SHOWN }, (_, k) => k + 1), initial: 5 },
  seed: { label: "seed", values: [0, 1, 2, 3], initial: 0 },
};
const LEAD =
  "The same noise drives both: single paths part, their means stay together. Change η.";
const KINDS = { sgd: ["pk-minus", ""], diffusion: ["pk-plus", " pk-dashed"] };

class Paths {
  constructor(root, settings) {
    this.seen = {}; // distances by learning rate, of this batch size and seed
    this.frame = new Frame(root, {
      name: "paths", lead: LEAD,
      label: "Weak and strong: SGD and its diffusion with the same noise",
      controls: CONTROLS, change: (key) => this.change(key), draw: () => this.draw(),
      player: {
        advance: (seconds) => this.advance(seconds),
        step: () => this.until(this.step + 1),
        reset: () => this.until(0),
      },
    });
    this.frame.take(settings);
    this.place();
    this.frame.start();
  }

  place() {
    const { stage, side } = this.frame;
    this.main = new Plot(stage, {
      label: "", x: [0, TIME], xlabel: "time",
      panels: {
        paths: { title: "pairs of paths, less the gradient flow", y: [-1, 1], height: 150 },
        means: { title: `their means, over ${PAIRS} pairs`, y: [-1, 1], height: 150 },
      },
    });
    this.legend = element("p", {
      class: "pk-ledger",
      text: "Solid blue: SGD. Dashed orange: diffusion. Band: two standard errors.",
    });
    stage.append(this.legend);
    this.distances = new Plot(side, {
      label: "", x: [0, 0.45], xlabel: "learning rate η", ticks: 4,
      panels: { apart: { title: "how far apart at the end", y: [0, 1], height: 150 } },
    });
    this.ledger = element("p", { class: "pk-ledger" });
    side.append(this.ledger);
  }

  change(key) {
    if (key === "pair") return;
    this.touched = key !== null;
    const { values } = this.frame;
    if (key !== "rate") this.seen = {};
    this.cloud = new Cloud(values);
    this.step = this.cloud.how.steps;
    this.clock = TIME;
  }

  until(step) {
    const { steps, rate } = this.cloud.how;
    this.step = Math.min(steps, Math.max(0, step));
    this.clock = this.step * rate;
  }

  advance(seconds) {
    const { steps, rate } = this.cloud.how;
    if (this.step >= steps) this.until(0);
    this.clock += seconds * SPEED;
    this.step = Math.min(steps, Math.floor(this.clock / rate + 1e-9));
    return this.step < steps;
  }

  draw() {
    const { cloud, frame } = this, before = cloud.pairs.length;
    const done = cloud.work(SLICE);
    this.curves();
    const told = cloud.apart(cloud.how.steps), now = cloud.apart(this.step);
    if (done) this.seen[frame.values.rate] = told;
    this.points();
    this.sentences(now);
    if (done && before < PAIRS && this.touched) frame.changed();
    if (!done) frame.redraw();
  }

  curves() {
    const { main, cloud, step, frame } = this, upto = step + 1;
    const times = cloud.times.slice(0, upto), shown = cloud.pairs.slice(0, SHOWN);
    const reach = Math.max(0.1, ...shown.flatMap(({ sgd, diffusion }) =>
      [...sgd, ...diffusion].map(Math.abs)));
    const most = [0.2, 0.4, 0.6, 0.8, 1, 1.5, 2, 3].find((height) => height >= reach) ?? 5;
    for (const name of ["paths", "means"]) main.limits(name, -most, most);
    const chosen = Math.min(shown.length, frame.values.pair) - 1;
    for (const [kind, [colour, dash]] of Object.entries(KINDS)) {
      for (let k = 0; k < SHOWN; k++) {
        const values = shown[k]?.[kind].slice(0, upto) ?? [];
        main.line("paths", `${kind} ${k}`, times, values.length ? values : times.map(() => 0),
          `pk-cloud ${colour}${dash}`);
      }
      const { middle, error } = cloud.middle(kind), cut = (values) => values.slice(0, upto);
      for (const [name, sign] of [["upper", 1], ["lower", -1]]) {
        const edge = middle.map((value, k) => value + sign * error[k]);
        main.line("means", `${kind} ${name}`, times, cut(edge), `pk-cloud ${colour}${dash}`);
      }
      main.line("means", kind, times, cut(middle), `pk-strong ${colour}${dash}`);
    }
    for (const [kind, [colour, dash]] of Object.entries(KINDS)) { // above the cloud
      const values = shown[chosen][kind].slice(0, upto);
      main.line("paths", `chosen ${kind}`, times, values, `pk-strong ${colour}${dash}`);
    }
  }

  points() {
    const { distances, seen } = this, rates = Object.keys(seen).map(Number).sort((a, b) => a - b);
    const strong = rates.map((rate) => seen[rate].strong), weak = rates.map((r) => seen[r].weak);
    const most = Math.max(0.05, ...strong);
    const top = [0.1, 0.2, 0.4, 0.6, 0.8, 1, 1.5].find((height) => height >= most) ?? 3;
    distances.limits("apart", -0.06 * top, top);
    distances.line("apart", "strong line", rates, strong, "pk-faint pk-plus");
    distances.line("apart", "weak line", rates, weak, "pk-faint pk-third pk-dashed");
    distances.dots("apart", "strong", rates, strong, "pk-plus", 5);
    distances.dots("apart", "weak", rates, weak, "pk-real", 6, "diamond");
    const rows = rates.map((rate) =>
      `η ${rate}: partners ${number(seen[rate].strong, 3)}, means ${number(seen[rate].weak, 3)}`);
    distances.describe(`Distances at the end. ${rows.join("; ")}.`);
    this.ledger.textContent = "● partners of a pair, ◇ their means. Each η you try adds a point.";
  }

  sentences({ strong, weak, error }) {
    const { cloud, frame, step } = this, { rate, batch, seed, pair } = frame.values;
    const one = cloud.pairs[Math.min(cloud.pairs.length, pair) - 1];
    const gap = one.sgd[step] - one.diffusion[step];
    frame.caption(
      `Learning rate ${rate}, batch size ${batch}, seed ${seed}, time ${number(step * rate, 2)}, ` +
        `${cloud.pairs.length} pairs. The partners of pair ${pair} are ` +
        `${number(Math.abs(gap))} apart, partners in general ${number(strong, 3)}. The means are ` +
        `${number(weak, 3)} ± ${number(error, 3)} apart.`,
    );
    this.main.describe(
      `Above, ${SHOWN} pairs of paths fan out and partners part; below, the means of SGD and of ` +
        `the diffusion lie ${number(weak, 3)} apart at time ${number(step * rate, 2)}.`,
    );
  }
}

/** Start weak and strong in `root`; `settings` are initial values of controls. */
export function start(root, settings = {}) {
  return new Paths(root, settings);
}
