/**
 * Diffusion: particles go from noise to data, and the reader's own asks who carries it.
 *
 * Arrows are the learned field of the present noise level. Each training point is drawn as large
 * as what it did to the network's answer at the reader's particle, along its way.
 */
import { Frame, Plot, number, signed } from "./frame.js";
import { Study, STEPS, T } from "./diffusion_model/study.js";

const LEAD = "Drag the diamond: circles carry it along its arrow, diamonds hold it back.";
const CONTROLS = {
  level: {
    label: "noise level τ", values: Array.from({ length: T }, (_, k) => T - k), initial: 6,
  },
  seed: { label: "start", values: [0, 1, 2, 3], initial: 0 },
};
const SLICE = 25, SPEED = 5, REACH = [4, 2.7];
const clipped = (value, most) => Math.min(most, Math.max(-most, value));
const columns = (x) => [0, 1].map((c) => Float64Array.from({ length: x.length / 2 }, (_, i) =>
  x[2 * i + c]));

class DiffusionModel {
  constructor(root, settings) {
    Object.assign(this, { study: new Study(), place: [2.4, -1.2], between: 0 });
    this.frame = new Frame(root, {
      name: "diffusion-model", label: "Diffusion: who carries a particle", lead: LEAD,
      controls: CONTROLS, change: (key) => this.change(key), draw: () => this.draw(),
      state: {
        place: {
          read: (text) => {
            const [x, y] = text.split(",").map(Number);
            if (Number.isFinite(x + y)) this.place = [clipped(x, REACH[0]), clipped(y, REACH[1])];
          },
          write: () => this.place.join(","),
        },
      },
      player: {
        advance: (seconds) => this.advance(seconds),
        step: () => this.down(),
        reset: () => this.to(T),
      },
    });
    this.frame.take(settings);
    this.plots();
    this.frame.start();
  }

  change(key) {
    this.told = null;
    this.between = 0;
    if (key !== "level") this.learn();
  }

  /** Training in slices, so that the page stays awake; the picture follows. */
  learn() {
    const { study, frame } = this;
    clearTimeout(this.learning);
    study.begin(frame.values.seed);
    this.states = null;
    const slice = () => {
      study.train(SLICE);
      const ready = study.run.length >= STEPS;
      if (ready) this.states = study.way();
      else this.learning = setTimeout(slice, 0);
      frame.redraw();
      if (ready) frame.changed();
    };
    this.learning = setTimeout(slice, 0);
  }

  get level() {
    return this.frame.values.level;
  }

  to(level) {
    this.frame.set("level", level);
    this.told = null;
    this.between = 0;
  }

  /** One level down; the reader's particle goes with the field. */
  down() {
    if (this.level === 1) {
      this.to(T);
      return;
    }
    this.place = [...this.study.next(Float64Array.from(this.place), this.level)];
    this.place = this.place.map((value, c) => clipped(value, REACH[c]));
    this.to(this.level - 1);
  }

  advance(seconds) {
    if (!this.states) return true;
    if (this.level === 1 && this.between >= 1) {
      this.to(T);
      return true;
    }
    this.between += seconds * SPEED;
    if (this.between < 1) return true;
    if (this.level === 1) return false;
    this.down();
    return true;
  }

  plots() {
    const { stage, side } = this.frame;
    const height = Math.max(190, Math.min(310, Math.round(0.64 * (stage.clientWidth || 480))));
    this.main = new Plot(stage, {
      label: "training points", x: [-REACH[0], REACH[0]], xlabel: "",
      panels: { plane: { y: [-REACH[1], REACH[1]], height } },
    });
    this.main.svg.addEventListener("pointerdown", (event) => {
      this.move(...this.main.under("plane", event.clientX, event.clientY));
    });
    this.levels = new Plot(side, {
      label: "not asked yet", x: [0, T + 1], xlabel: "training level τ′", ticks: 4,
      panels: { parts: { title: "carried by training at level", y: [-1, 1], height: 130 } },
    });
  }

  move(x, y) {
    this.place = [clipped(x, REACH[0]), clipped(y, REACH[1])].map((v) => Math.round(100 * v) / 100);
    this.told = null;
    this.frame.redraw();
    this.frame.changed();
  }

  draw() {
    const { frame, study, main, level } = this;
    const [xs, ys] = columns(study.points);
    this.field();
    main.dots("plane", "training", xs, ys, "pk-real", 3, "diamond");
    if (!this.states) {
      frame.caption(`Learning: step ${study.run.length} of ${STEPS}.`);
      main.describe("Training points, and the field that is being learnt.");
      return;
    }
    const now = this.states[level], later = this.states[level - 1], share = this.between;
    const moved = now.map((value, at) => value + share * (later[at] - value));
    main.dots("plane", "particles", ...columns(moved), "pk-neutral", 2.5);
    this.handle();
    this.carriers(xs, ys);
  }

  /** The field: where a particle goes in one step, on a grid. */
  field() {
    const { study, level } = this, grid = [];
    for (let x = -3.5; x <= 3.5; x += 1) for (let y = -2.4; y <= 2.4; y += 0.8) grid.push(x, y);
    const at = Float64Array.from(grid), noise = study.noise(at, level);
    const [us, vs] = columns(noise.map((value) => -0.28 * value));
    this.main.arrows("plane", "field", columns(at), [us, vs], "pk-faint");
  }

  handle() {
    const { place: [x, y], study, level, main } = this;
    const [u, v] = study.noise(Float64Array.of(x, y), level).map((value) => -0.6 * value);
    main.arrows("plane", "way", [[x], [y]], [[u], [v]], "pk-strong pk-way");
    main.handle("plane", "query", {
      label: "your particle", x, y, step: [0.1, 0.1], style: "pk-query pk-free",
      text: `at ${number(x, 1)}, ${number(y, 1)}, noise level ${level}`,
      move: (toX, toY) => this.move(toX, toY),
    });
  }

  /** Asks at rest, since one answer takes a tenth of a second. */
  carriers(xs, ys) {
    const { study, frame, main } = this;
    if (!this.told) {
      clearTimeout(this.asking);
      this.asking = setTimeout(() => {
        if (!this.states) return;
        this.told = study.carried(Float64Array.from(this.place), this.level);
        frame.redraw();
        if (!frame.playing) frame.changed();
      }, frame.playing ? 0 : 60);
      if (!this.shown) return;
    }
    const told = (this.shown = this.told ?? this.shown), { byPoint } = told;
    const most = Math.max(...byPoint.map(Math.abs)) || 1;
    const wide = (v) => (v > 0 ? 2 + 9 * Math.sqrt(v / most) : 0);
    const size = (sign) => byPoint.map((v) => wide(sign * v));
    main.dots("plane", "plus", xs, ys, "pk-plus pk-see", size(1));
    main.dots("plane", "minus", xs, ys, "pk-minus pk-see", size(-1), "diamond");
    this.bars(told.byLevel);
    this.words(told);
  }

  bars(byLevel) {
    const { levels, level } = this, places = Array.from(byLevel, (_, k) => k + 1);
    const most = Math.max(...byLevel.map(Math.abs)) * 1.1 || 1;
    levels.limits("parts", -most, most);
    levels.bars("parts", "parts", places, byLevel, Math.max(3, levels.inner / 32), level - 1);
    levels.rule("parts", "level", { x: level }, "pk-faint pk-dotted");
    levels.describe(`What each training level did; the query's level is ${level}.`);
  }

  words({ byPoint, size, initial, final }) {
    const up = byPoint.reduce((sum, v) => sum + Math.max(0, v), 0);
    const down = byPoint.reduce((sum, v) => sum + Math.min(0, v), 0);
    const best = byPoint.reduce((top, v, i) => (v > byPoint[top] ? i : top), 0);
    const at = [0, 1].map((c) => number(this.study.points[2 * best + c], 1)).join(", ");
    this.frame.caption(
      `Noise level ${this.level} of ${T}: at ${this.place.map((v) => number(v, 1)).join(", ")} ` +
        `the network sees noise of size ${number(size)}, and takes it away along the arrow. The ` +
        `training points made that ${number(final)} from ${number(initial)}: ` +
        `${signed(up, 1)} and ${signed(down, 1)}. Most of all carries the point at ${at} (${signed(byPoint[best], 1)}).`,
    );
    this.main.describe(`Particles, field and training points. ${this.frame.words.textContent}`);
  }
}

/** Start the explorer in `root`; `settings` are initial values of its controls. */
export function start(root, settings = {}) {
  return new DiffusionModel(root, settings);
}
