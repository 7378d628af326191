/**
 * Null space: the reader drags the even and the odd part of a target, a network follows.
 *
 * A network that sees x^2 learns the even part and never touches the odd one; one that sees x can
 * learn both.
 */
import { Frame, Plot, bounded, element, number, small } from "./frame.js";
import { Study } from "./null_space/study.js";

const LEAD =
  "Drag “even” and “odd”: a network of x² follows the even part alone.";
const CONTROLS = {
  sees: { label: "the network sees", options: { x2: "x², not x", x: "x itself" }, initial: "x2" },
  seed: { label: "start", values: [0, 1, 2, 3, 4, 5], initial: 0 },
};
const MOST = 1.5, SPEED = 1200; // steps a second

class NullSpace {
  constructor(root, settings) {
    this.study = new Study();
    this.owed = 0;
    this.frame = new Frame(root, {
      name: "null-space", label: "Null space: drag the even and the odd part of the target",
      lead: LEAD, controls: CONTROLS, state: this.state(),
      change: () => {
        this.study.begin(this.frame.values);
        this.study.advance(Infinity);
      },
      draw: () => this.draw(),
      player: {
        advance: (seconds) => this.advance(seconds),
        step: () => {
          this.study.left = Math.max(1, this.study.left);
          this.study.advance(1);
        },
        reset: () => this.study.begin(this.frame.values),
      },
    });
    this.frame.take(settings);
    this.plots();
    this.frame.start();
  }

  /** The two amounts, in the address. */
  state() {
    const one = (key) => bounded(this.study.amounts, key, MOST);
    return { even: one("even"), odd: one("odd") };
  }

  plots() {
    const { stage, side } = this.frame;
    this.main = new Plot(stage, {
      label: "", x: [-3, 3], xlabel: "input x",
      panels: {
        fit: { title: "target (dashed) and network", y: [-2.6, 2.6], height: 170 },
        missed: {
          title: "what is missed (its odd part dashed)", y: [-2.6, 2.6], height: 130,
        },
      },
    });
    this.course = new Plot(side, {
      label: "", x: [0, 1000], xlabel: "step", ticks: 3,
      panels: {
        even: { title: "error left: even part", y: [0, 0.6], height: 72, ticks: 2 },
        odd: { title: "error left: odd part", y: [0, 0.6], height: 72, ticks: 2 },
      },
    });
    this.ledger = element("p", { class: "pk-ledger" });
    side.append(this.ledger);
  }

  advance(seconds) {
    if (this.study.left <= 0) this.study.aim();
    this.owed += seconds * SPEED;
    const steps = Math.floor(this.owed);
    this.owed -= steps;
    return this.study.advance(steps);
  }

  /** One amount was dragged: the network goes on from where it is. */
  move(key, height) {
    const { unit } = this.study.height(key);
    const amount = Math.min(MOST, Math.max(-MOST, height / unit));
    this.study.amounts[key] = Math.round(100 * amount) / 100;
    this.study.aim();
    if (this.frame.reduced) this.study.advance(Infinity);
    else if (!this.frame.playing) this.frame.play();
    this.frame.redraw(true);
    this.frame.changed();
  }

  draw() {
    const { study, frame } = this, told = study.tell();
    const xs = study.x;
    this.main.line("fit", "target", xs, told.target, "pk-faint pk-dashed");
    this.main.line("fit", "network", xs, told.fit, "pk-strong");
    this.main.line("missed", "residual", xs, told.residual, "pk-strong");
    this.main.line("missed", "odd", xs, told.odd.missed, "pk-plus pk-dashed");
    this.handles();
    this.lines();
    const of = frame.values.sees === "x" ? "x" : "x²";
    const pull = (value) => (value < 1e-12 ? `${small(value)}, rounding` : small(value));
    this.ledger.textContent =
      `Pull on the predictions (size of T r): even part ${pull(told.even.pull)}, odd part ` +
      `${pull(told.odd.pull)}.`;
    const said = (key) =>
      `${key} part: energy ${number(told[key].asked, 3)} asked, ` +
      `${number(told[key].left, 3)} left`;
    frame.caption(
      `Network of ${of} after ${study.run.length} steps. Of the target’s ${said("even")}; ` +
        `of the ${said("odd")}.`,
    );
    this.main.describe(`Target, network and residual. ${frame.words.textContent}`);
  }

  lines() {
    const { history } = this.study, { course } = this, steps = history.map(([k]) => k);
    course.span(0, Math.max(1000, Math.ceil(steps.at(-1) / 1000) * 1000));
    const most = Math.max(0.2, ...history.map(([, even, odd]) => Math.max(even, odd)));
    ["even", "odd"].forEach((key, at) => {
      const style = at ? "pk-plus pk-dashed" : "pk-strong", left = history.map((h) => h[at + 1]);
      course.limits(key, 0, most * 1.15);
      course.line(key, "left", steps, left, style);
      course.dots(key, "now", [steps.at(-1)], [left.at(-1)], "pk-query", 4);
    });
    const [, even, odd] = history.at(-1);
    course.describe(`Errors against step: even ${number(even, 3)}, odd ${number(odd, 3)} now.`);
  }

  handles() {
    for (const key of ["even", "odd"]) {
      const { x, unit } = this.study.height(key), amount = this.study.amounts[key];
      this.main.text("fit", key, x, amount * unit, key);
      this.main.handle("fit", key, {
        label: `${key} part of the target`, x, y: amount * unit, step: [0, 0.1 * unit],
        yrange: [-MOST * unit, MOST * unit], text: `amount ${number(amount)}`,
        style: `pk-upright ${key === "even" ? "pk-minus" : "pk-plus"}`,
        move: (_, y) => this.move(key, y),
      });
    }
  }
}

/** Start the explorer in `root`; `settings` are initial values of its controls. */
export function start(root, settings = {}) {
  return new NullSpace(root, settings);
}
