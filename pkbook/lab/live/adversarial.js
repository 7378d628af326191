/**
 * GAN: a generator and a discriminator learn against each other in the page.
 *
 * Thin arrows are the feedback, what the discriminator tells each generated point; thick ones are
 * where the kernel carries it, since all latents share the parameters.
 */
import { Frame, Plot, number } from "./frame.js";
import { MODES, SHOWN, Study } from "./adversarial/study.js";

const LEAD =
  "Press Play: thin arrows are what D tells a point, thick ones where the kernel carries it.";
const RATES = [0.002, 0.005, 0.01, 0.02, 0.05];
const CONTROLS = {
  generatorRate: { label: "rate of G", values: [0.02, 0.05, 0.1, 0.2, 0.4], initial: 0.2 },
  discriminatorRate: { label: "rate of D", values: RATES, initial: 0.02 },
  inner: { label: "steps of D", values: [1, 2, 4], initial: 2 },
  loss: {
    label: "loss of G", initial: "non-saturating",
    options: { "non-saturating": "−log D", minimax: "log(1 − D)" },
  },
  seed: { label: "start", values: [0, 1, 2, 3], initial: 0 },
};
const REACH = [3.6, 2.4], SPEED = 60, MOST = 2000;
const columns = (x, n = x.length / 2) => [0, 1].map((c) =>
  Float64Array.from({ length: n }, (_, i) => x[2 * i + c]));

class Adversarial {
  constructor(root, settings) {
    Object.assign(this, { study: new Study(), place: [0, 1.2], steps: 30, owed: 0 });
    this.frame = new Frame(root, {
      name: "adversarial", label: "GAN: two networks learn against each other", lead: LEAD,
      controls: CONTROLS, draw: () => this.draw(),
      change: (key) => this.train(key === null ? this.steps : Math.max(1, this.study.steps)),
      state: {
        steps: {
          read: (text) => (this.steps = Math.min(MOST, Math.max(0, Math.round(Number(text)) || 0))),
          write: () => String(this.study.steps),
        },
        place: {
          read: (text) => {
            const told = text.split(",").map(Number);
            if (told.length === 2 && told.every(Number.isFinite)) this.place = told;
          },
          write: () => this.place.join(","),
        },
      },
      player: {
        advance: (seconds) => this.advance(seconds),
        step: () => this.study.advance(1),
        reset: () => this.train(0),
      },
    });
    this.frame.take(settings);
    this.plots();
    this.frame.start();
  }

  train(steps) {
    this.study.begin(this.frame.values);
    this.course = [];
    for (let k = 0; k < steps; k++) this.further(1, k % 10 === 0);
  }

  further(steps, noting = true) {
    this.study.advance(steps);
    if (!noting) return;
    const { modes, coherence } = this.study.tell();
    this.course.push([this.study.steps, modes, coherence]);
  }

  advance(seconds) {
    if (this.study.steps >= MOST) this.train(0);
    this.owed += seconds * SPEED;
    const steps = Math.floor(this.owed);
    this.owed -= steps;
    if (steps) this.further(steps, Math.floor(this.study.steps / 10) !==
      Math.floor((this.study.steps + steps) / 10));
    return this.study.steps < MOST;
  }

  plots() {
    const { stage, side } = this.frame;
    const height = Math.max(190, Math.min(310, Math.round(0.64 * (stage.clientWidth || 480))));
    this.main = new Plot(stage, {
      label: "", x: [-REACH[0], REACH[0]], xlabel: "hollow diamonds: data; grey: D says “data”",
      panels: { plane: { y: [-REACH[1], REACH[1]], height } },
    });
    this.main.svg.addEventListener("pointerdown", (event) => {
      this.move(...this.main.under("plane", event.clientX, event.clientY));
    });
    this.path = new Plot(side, {
      label: "", x: [0, 100], xlabel: "step of G", ticks: 3,
      panels: {
        modes: { title: `modes covered, of ${MODES}`, y: [0, 3.3], height: 64, ticks: 3 },
        coherence: { title: "coherence of the moves", y: [0, 1.05], height: 84, ticks: 2 },
      },
    });
  }

  move(x, y) {
    this.place = [x, y].map((value, c) =>
      Math.round(100 * Math.min(REACH[c], Math.max(-REACH[c], value))) / 100);
    this.frame.redraw();
    this.frame.changed();
  }

  draw() {
    const { study, main } = this, told = study.tell();
    this.background();
    main.dots("plane", "data", ...columns(study.data), "pk-real", 3, "diamond");
    const [xs, ys] = columns(told.made), shown = [xs.subarray(0, SHOWN), ys.subarray(0, SHOWN)];
    const longest = (v) => Math.max(1e-9, ...v.map(Math.abs));
    const scaled = (v) => columns(v.map((value) => (0.6 * value) / longest(v)), SHOWN);
    const feedback = told.s.subarray(0, 2 * SHOWN).map((value) => -value);
    main.arrows("plane", "told", shown, scaled(feedback), "pk-thin pk-minus");
    main.arrows("plane", "carried", shown, scaled(told.carried), "pk-plus");
    main.dots("plane", "made", xs, ys, "pk-neutral", 3);
    this.chosen(told, xs, ys);
    this.lines(told);
  }

  /** Where D says "data": grey dots on a grid, the larger the surer. */
  background() {
    const grid = [];
    for (let x = -3.45; x <= 3.5; x += 0.3) for (let y = -2.25; y <= 2.3; y += 0.3) grid.push(x, y);
    const at = Float64Array.from(grid), sizes = this.study.chance(at).map((D) => 4.5 * D);
    this.main.dots("plane", "chance", ...columns(at), "pk-neutral pk-pale", sizes);
  }

  /** The generated point nearest to the reader's place, and which latents carry it. */
  chosen(told, xs, ys) {
    const { study, main, place: [x, y] } = this;
    let q = 0;
    for (let i = 1; i < SHOWN; i++) {
      if (Math.hypot(xs[i] - x, ys[i] - y) < Math.hypot(xs[q] - x, ys[q] - y)) q = i;
    }
    const shares = study.senders(q, told), most = Math.max(...shares.map(Math.abs)) || 1;
    const size = (sign) => shares.map((v) => (sign * v > 0 ? 8 * Math.sqrt((sign * v) / most) : 0));
    main.dots("plane", "plus", xs, ys, "pk-plus pk-see", size(1));
    main.dots("plane", "minus", xs, ys, "pk-minus pk-see", size(-1), "diamond");
    main.line("plane", "to", [x, xs[q]], [y, ys[q]], "pk-strong pk-dotted");
    main.handle("plane", "query", {
      label: "which point is asked", x, y, step: [0.1, 0.1], style: "pk-query pk-free",
      text: `at ${number(x, 1)}, ${number(y, 1)}`, move: (toX, toY) => this.move(toX, toY),
    });
    this.words(told, q, shares);
  }

  words({ made, s, carried, modes, coherence, chance }, q, shares) {
    const { study, frame } = this, pair = (v) => [v[2 * q], v[2 * q + 1]];
    const [a, b] = pair(s), [u, v] = pair(carried);
    const cosine = -(a * u + b * v) / (Math.hypot(a, b) * Math.hypot(u, v) || 1);
    const order = [...shares].sort((one, other) => other - one);
    const half = order.slice(0, 10).reduce((sum, share) => sum + share, 0);
    frame.caption(
      `Step ${study.steps}: ${modes} of ${MODES} modes covered, coherence of the moves ` +
        `${number(coherence)}. The point nearest to the diamond is at ` +
        `${pair(made).map((value) => number(value, 1)).join(", ")}, D there ` +
        `${number(chance[q])}. ` +
        `Cosine of where it is told to go and where it is carried: ${number(cosine)}; of ` +
        `its move, 1.00, its own feedback makes ${number(shares[q])} and the ten strongest ` +
        `latents ${number(half)}.`,
    );
    this.main.describe(`Data, generated points, feedback, moves. ${frame.words.textContent}`);
  }

  lines({ modes, coherence }) {
    const { path, study } = this, course = [...this.course, [study.steps, modes, coherence]];
    const steps = course.map(([k]) => k);
    path.span(0, [100, 200, 500, 1000, MOST].find((most) => most >= study.steps) ?? MOST);
    ["modes", "coherence"].forEach((key, at) => {
      const values = course.map((row) => row[at + 1]);
      path.line(key, "line", steps, values, "pk-strong");
      path.dots(key, "now", [steps.at(-1)], [values.at(-1)], "pk-query", 4);
    });
    path.describe(`Modes covered, now ${modes}; coherence, now ${number(coherence)}.`);
  }
}

/** Start the explorer in `root`; `settings` are initial values of its controls. */
export function start(root, settings = {}) {
  return new Adversarial(root, settings);
}
