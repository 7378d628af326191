/**
 * The playground: a small network is trained in the page, and its answer at a query taken apart.
 *
 * Above the fit, in the middle the normalised kernel with the query, below one bar a training
 * point: its contribution. A diamond on the bar is what its presence is worth, by training again
 * without.
 */
import { Frame, number, signed, element } from "./frame.js";
import { Picture } from "./playground/picture.js";
import { DATA, INTERVAL, MOST_POINTS, MOST_STEPS, rounded, Study } from "./playground/study.js";

const RATES = [0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 1];
const USUAL = { sgd: 0.1, momentum: 0.01, rmsprop: 0.01, adam: 0.03, adamw: 0.03 };
const CONTROLS = {
  data: {
    label: "data", initial: "sine",
    options: Object.fromEntries(Object.entries(DATA).map(([key, { words }]) => [key, words])),
  },
  optimizer: {
    label: "optimizer", initial: "sgd",
    options: {
      sgd: "SGD", momentum: "SGD with momentum", rmsprop: "RMSprop", adam: "Adam", adamw: "AdamW",
    },
  },
  lr: { label: "learning rate", values: RATES, initial: 0.1 },
  momentum: { label: "momentum β", values: [0, 0.5, 0.8, 0.9, 0.95], initial: 0.9 },
  batch: { label: "batch size", values: [1, 2, 4, "all"], initial: "all" },
  width: { label: "width", values: [2, 4, 8, 16, 24, 48], initial: 24 },
  seed: { label: "seed", values: [0, 1, 2, 3, 4, 5, 6, 7], initial: 0 },
};
const LEAD =
  "Drag the diamond: each bar is what one training point did to the answer there.";
const SPEED = 60; // steps a second

class Playground {
  constructor(root, settings) {
    this.study = new Study();
    Object.assign(this, { query: 1.2, steps: 60, chosen: 6, owed: 0, edited: false, moved: null });
    this.frame = new Frame(root, {
      name: "playground", label: "Playground: a network trained in this page", lead: LEAD,
      controls: CONTROLS, change: (key, told) => this.change(key, told), draw: () => this.draw(),
      player: {
        advance: (seconds) => this.advance(seconds),
        step: () => this.study.advance(1),
        reset: () => this.study.train(this.frame.values, 0),
      },
      state: this.state(),
    });
    this.frame.take(settings);
    this.usual(settings);
    this.picture = new Picture(this.frame);
    this.more = [
      this.frame.button("Leave out", () => this.leaveOut(this.chosen)),
      this.frame.button("Add a point", () => this.add(this.query, 0.9)),
    ];
    this.compared = element("p", { class: "pk-compared" });
    this.frame.below.append(this.compared);
    this.listen();
    this.frame.start();
  }

  /** What the address keeps beside the controls. */
  state() {
    const write = ({ x, y, left }) => `${x},${y}${left ? ",0" : ""}`;
    return {
      query: { read: (text) => this.ask(Number(text)), write: () => String(this.query) },
      steps: {
        read: (text) => {
          this.steps = Math.min(MOST_STEPS, Math.max(0, Math.round(Number(text)) || 0));
        },
        write: () => String(this.study.steps),
      },
      points: {
        read: (text) => {
          const told = text.split(";").map((one) => one.split(",").map(Number));
          const good = told.filter(([x, y]) => Math.abs(x) <= 3 && Math.abs(y) <= 1.6);
          if (good.length < 2) return;
          this.given = good.slice(0, MOST_POINTS).map(([x, y, on]) => ({ x, y, left: on === 0 }));
        },
        write: () => (this.edited ? this.study.points.map(write).join(";") : ""),
      },
    };
  }

  ask(query) {
    const [low, high] = INTERVAL;
    if (Number.isFinite(query)) this.query = rounded(Math.min(high, Math.max(low, query)));
  }

  /** Where an optimizer is given without a learning rate, its usual one. */
  usual({ optimizer, lr }) {
    if (optimizer in USUAL && lr === undefined) this.frame.set("lr", USUAL[optimizer]);
  }

  /** A control was moved: train again, for as many steps as there were. */
  change(key, told) {
    const { frame, study } = this, { values } = frame;
    this.moved = null;
    if (key === "data" || key === null) {
      study.points = (key === null && this.given) || DATA[values.data].make();
      this.edited = key === null && Boolean(this.given);
      this.chosen = Math.min(this.chosen, study.points.length - 1);
    }
    this.usual(key === "optimizer" ? { optimizer: values.optimizer } : (told ?? {}));
    frame.enable("momentum", ["momentum", "adam", "adamw"].includes(values.optimizer));
    study.train(values, key === null ? this.steps : Math.max(1, study.steps || this.steps));
  }

  advance(seconds) {
    if (this.study.steps >= MOST_STEPS) this.study.train(this.frame.values, 0);
    this.owed += seconds * SPEED;
    const steps = Math.max(1, Math.floor(this.owed));
    this.owed = Math.max(0, this.owed - steps);
    return this.study.advance(steps);
  }

  /** The query follows the pointer on the picture; a double click adds a point. */
  listen() {
    const { svg } = this.picture.main;
    const follow = (event) => {
      if (event.type === "pointermove" && !(event.buttons & 1)) return;
      this.ask(this.picture.main.under("fit", event.clientX, event.clientY)[0]);
      this.frame.redraw();
      this.frame.changed();
    };
    svg.addEventListener("pointerdown", follow);
    svg.addEventListener("pointermove", follow);
    svg.addEventListener("dblclick", (event) => {
      const [x, y] = this.picture.main.under("fit", event.clientX, event.clientY);
      if (Math.abs(y) <= 1.6) this.add(x, y);
    });
  }

  /** Change the points by `how`, train again, and remember what the answer was. */
  edit(what, how) {
    const before = this.told?.final, part = this.told?.parts[this.chosen];
    how(this.study.points);
    this.edited = true;
    if (this.moved?.what !== what) this.moved = { what, before, part };
    this.study.train(this.frame.values, Math.max(1, this.study.steps));
    this.frame.changed();
  }

  add(x, y) {
    const { points } = this.study;
    if (points.length >= MOST_POINTS) {
      this.frame.changed(`There is room for ${MOST_POINTS} points.`);
      return;
    }
    this.edit(`A new point at ${number(x, 1)}`, () => {
      points.push({ x: rounded(x), y: rounded(y), left: false });
    });
    this.chosen = points.length - 1;
    this.frame.redraw(true);
  }

  leaveOut(i) {
    const point = this.study.points[i];
    const there = this.study.points.filter((other) => !other.left).length;
    if (!point.left && there <= 1) return; // one point stays
    this.chosen = i;
    const what = `Point ${i + 1} ${point.left ? "put back" : "left out"}`;
    this.edit(what, () => (point.left = !point.left));
    this.frame.redraw(true);
  }

  move(i, x, y, done) {
    const point = this.study.points[i];
    this.edit(`Point ${i + 1} moved`, () => {
      Object.assign(point, { x: rounded(x), y: rounded(y) });
    });
    this.frame.redraw(done);
  }

  choose(i) {
    if (this.chosen === i) return;
    this.chosen = i;
    this.frame.redraw();
  }

  draw() {
    const { frame, study, picture, query, chosen } = this, { values } = frame;
    if (study.diverged) {
      frame.caption(
        `Learning rate ${values.lr}, momentum ${values.momentum}, batch size ${values.batch}, ` +
          `width ${values.width}, seed ${values.seed}: training left every bound after ` +
          `${study.steps} steps. Take a smaller learning rate.`,
      );
      this.compared.textContent = "";
      return;
    }
    this.told = study.tell(query);
    picture.draw(study, this.told, query, chosen);
    this.handles();
    this.sentences();
    if (!this.told.effects && !frame.playing) this.wait();
  }

  /** Retrain without each point, one at a time, when nothing else is asked for. */
  wait() {
    clearTimeout(this.waiting);
    this.waiting = setTimeout(() => {
      if (this.frame.playing || !this.study.retrain()) return;
      if (this.study.alone.length === this.study.points.length) this.frame.redraw();
      else this.wait();
    }, this.study.alone ? 0 : 120);
  }

  handles() {
    const { main } = this.picture, { told, query } = this;
    this.study.points.forEach((point, i) => {
      main.handle("fit", `point ${i}`, {
        label: `training point ${i + 1} of ${this.study.points.length}`, x: point.x, y: point.y,
        text: `input ${number(point.x, 1)}, target ${number(point.y, 1)}, ` +
          (point.left ? "left out" : `contribution ${signed(told.parts[i])}`),
        style: `pk-point ${point.left ? "pk-left" : told.parts[i] < 0 ? "pk-minus" : "pk-plus"}` +
          (i === this.chosen ? " pk-chosen" : ""),
        step: [0.1, 0.1], stop: i === this.chosen,
        move: (x, y, { done }) => this.move(i, x, y, done),
        choose: () => this.choose(i), key: (event) => this.key(event, i),
      });
    });
    const { length } = this.study.points;
    for (let i = length; `point ${i}` in main.handles; i++) main.dropHandle(`point ${i}`);
    main.handle("fit", "query", {
      label: "query", x: query, y: told.final, style: "pk-query", step: [0.1, 0],
      text: `input ${number(query, 2)}, answer ${number(told.final)}`,
      move: (x, _, { done }) => {
        this.ask(x);
        this.frame.redraw(done);
        this.frame.changed();
      },
    });
  }

  /** On a point: Delete leaves it out or puts it back, Page Up and Down go to its neighbours. */
  key(event, i) {
    const { length } = this.study.points;
    const next = { PageDown: (i + 1) % length, PageUp: (i + length - 1) % length }[event.key];
    if (event.key === "Delete" || event.key === "Backspace") this.leaveOut(i);
    else if (next === undefined) return;
    else this.picture.main.handles[`point ${next}`].node.focus();
    event.preventDefault();
  }

  sentences() {
    const { told, query, study, chosen, frame, moved } = this;
    const change = told.final - told.initial;
    frame.caption(
      `After ${study.steps} steps the answer at ${number(query)} is ${number(told.final)}; ` +
        `it was ${number(told.initial)} before training. The points pushed it by ` +
        `${signed(told.up)} and ${signed(told.down)}, in all ${signed(change - told.other)}.` +
        (moved && Number.isFinite(moved.before)
          ? ` ${moved.what}: the answer was ${number(moved.before)} before.` : ""),
    );
    const point = study.points[chosen], effect = told.effects?.[chosen];
    const name = `Point ${chosen + 1}`, low = name.toLowerCase();
    this.more[0].textContent = point.left ? `Put ${low} back` : `Leave ${low} out`;
    if (!point.left) {
      this.compared.textContent =
        `${name} (circled): its bar says ${signed(told.parts[chosen])}. The diamond on it says ` +
        `${effect === undefined ? "…" : signed(effect)}: so much the answer loses when the point ` +
        "is left out and the network trained again. The others make up for the rest.";
      return;
    }
    const was = moved?.what === `${name} left out` ? moved : null;
    this.compared.textContent = `${name} is left out.` + (was
      ? ` Its bar said ${signed(was.part)}. Trained again without it, the answer changed by ` +
        `${signed(told.final - was.before)}.` : "");
  }
}

/** Start the playground in `root`; `settings` are initial values of controls. */
export function start(root, settings = {}) {
  return new Playground(root, settings);
}
