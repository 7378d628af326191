/**
 * Digit memory: draw a digit; the page shows which training digits made the network read it so.
 *
 * The network is trained in the page. What is taken apart is the lead of the digit it names over
 * another one, a difference of two scores. A training digit that is clicked is left out, the
 * network trained again, and its push compared with what really changed.
 */
import { element, Frame, number, signed } from "./frame.js";
import { parsed, raster, written } from "./digits/ink.js";
import { Picture } from "./digits/picture.js";
import { BINS, firstTwo, OPTIMIZERS, PIXELS, Study } from "./digits/study.js";

const SLICE = 20; // milliseconds of training between two displays
const MOST_PLACES = 400; // of a drawing
const TENTHS = Array.from({ length: BINS }, (_, bin) => bin + 1);
const LEAD = "Draw a digit: below are the training digits that made the network read it so.";
const FIRST = 40; // the test digit at the start

const controls = (n) => ({
  digit: {
    label: "test digit", values: Array.from({ length: n }, (_, k) => k + 1), initial: FIRST,
  },
  rival: {
    label: "rather than", initial: "second",
    options: { second: "its second choice", ...Object.fromEntries(
      Array.from({ length: 10 }, (_, c) => [`is${c}`, `a ${c}`]),
    ) },
  },
  layer: {
    label: "where", initial: "both", options: { both: "both layers", 0: "first", 1: "last" },
  },
  tenth: {
    label: "when", values: ["all", ...TENTHS], initial: "all",
    text: (value) => (value === "all" ? "all" : `${value}/${BINS}`),
  },
  optimizer: {
    label: "optimizer", initial: "momentum",
    options: Object.fromEntries(Object.entries(OPTIMIZERS).map(([key, { words }]) => [key, words])),
  },
  seed: { label: "seed", values: [0, 1, 2, 3, 4, 5], initial: 0 },
});

class Digits {
  constructor(root, settings, data) {
    this.study = new Study(data);
    Object.assign(this, { strokes: [], drawn: null, touched: false, last: null });
    this.frame = new Frame(root, {
      name: "digits", label: "Digit memory: a network trained in this page", lead: LEAD,
      controls: controls(this.study.test.y.length), change: (key) => this.change(key),
      draw: () => this.draw(), state: this.state(),
    });
    this.frame.take(settings);
    this.picture = new Picture(this.frame, (i) => this.leaveOut(i));
    this.compared = element("p", { class: "pk-compared" });
    this.frame.below.append(this.compared);
    this.frame.button("Next digit", () => this.pick(this.frame.values.digit + 1));
    this.frame.button("Next mistake", () => this.mistake());
    this.clear = this.frame.button("Clear", () => this.erase());
    this.back = this.frame.button("Put all back", () => this.act(() => this.study.putBack()));
    this.listen();
    this.frame.start();
  }

  state() {
    return {
      drawn: {
        read: (text) => (this.drawn = parsed(text)),
        write: () => (this.drawn ? written(this.drawn) : ""),
      },
      left: {
        read: (text) => {
          const told = text.split(",").map((i) => Number(i) - 1);
          this.given = told.filter((i) => Number.isInteger(i) && this.study.y[i] !== undefined);
        },
        write: () => [...this.study.left].map((i) => i + 1).join(","),
      },
    };
  }

  change(key) {
    const { study, frame } = this;
    if (key === null || key === "optimizer" || key === "seed") study.train(frame.values);
    if (key === null) for (const i of this.given ?? []) study.toggle(i);
    else this.touched = true;
    if (key === "digit") this.erase(false);
  }

  /** The picture asked about: the drawing, or a test digit. */
  get x() {
    const at = this.frame.values.digit - 1;
    this.kept ??= {};
    return this.drawn ??
      (this.kept[at] ??= this.study.test.x.subarray(PIXELS * at, PIXELS * (at + 1)));
  }

  act(what) {
    what();
    this.touched = true;
    this.frame.redraw(true);
    this.frame.changed();
  }

  pick(digit) {
    const { length } = this.study.test.y;
    this.act(() => {
      this.erase(false);
      this.frame.set("digit", ((digit - 1 + length) % length) + 1);
    });
  }

  mistake() {
    if (!this.study.whole.done) return;
    const { wrong } = this.study.accuracy(), now = this.frame.values.digit - 1;
    if (wrong.length) this.pick((wrong.find((i) => i > now) ?? wrong[0]) + 1);
  }

  erase(told = true) {
    Object.assign(this, { strokes: [], drawn: null });
    if (told) this.act(() => {});
  }

  leaveOut(i) {
    this.last = i;
    this.act(() => this.study.toggle(i));
  }

  /** Draw on the pad with mouse, pen or finger. */
  listen() {
    const { node } = this.picture.pad;
    const at = (event) => {
      const box = node.getBoundingClientRect();
      return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    };
    node.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      node.setPointerCapture(event.pointerId);
      this.inking = true;
      this.strokes.push([at(event)]);
      this.ink(event);
    });
    node.addEventListener("pointermove", (event) => {
      if (!this.inking || this.strokes.flat().length > MOST_PLACES) return;
      this.strokes.at(-1).push(at(event));
      this.ink(event);
    });
    const lift = (event) => {
      if (!this.inking) return;
      this.inking = false;
      this.ink(event);
      this.frame.changed();
    };
    node.addEventListener("pointerup", lift);
    node.addEventListener("pointercancel", lift);
  }

  ink(event) {
    event.preventDefault();
    this.touched = true;
    this.drawn = raster(this.strokes);
    this.frame.redraw();
  }

  draw() {
    const { study, frame, picture, x } = this, { values } = frame;
    const from = this.drawn ? "the digit you drew"
      : `test digit ${values.digit}, a ${study.test.y[values.digit - 1]}`;
    picture.digit(x, this.strokes, `${from}; draw here with mouse or finger`);
    this.clear.hidden = !this.drawn;
    this.back.hidden = !study.left.size;
    const far = study.work(SLICE);
    if (!study.whole.done) {
      frame.caption(
        `${OPTIMIZERS[values.optimizer].words}, seed ${values.seed}: the network is learning ` +
          `${study.y.length} digits in this page, ${number(100 * far, 0)} % done. The question ` +
          `is ${from}.`,
      );
      frame.redraw();
      this.waited = true;
      return;
    }
    this.explain(x, from);
    if (far < 1 || (study.without && !study.without.done)) {
      this.waited = true;
      frame.redraw();
    } else if (this.waited) {
      this.waited = false;
      if (this.touched) frame.changed();
    }
  }

  explain(x, from) {
    const { study, picture, frame } = this, { values } = frame;
    const { scores, shares } = study.read(x), [winner, second] = firstTwo(scores);
    const named = values.rival === "second" ? second : Number(values.rival.slice(2));
    const rival = named === winner ? second : named;
    picture.answer(shares, winner, rival);
    if (this.inking) { // the account waits until the pen is lifted
      frame.caption(`So far this is read as a ${winner}.`);
      return;
    }
    const told = study.explain(x, winner, rival);
    const asked = {
      winner, rival, layer: values.layer === "both" ? null : Number(values.layer),
      tenth: values.tenth === "all" ? null : values.tenth - 1,
    };
    const change = study.change(x, winner, rival);
    picture.account(study, told, asked, change);
    this.sentences(told, from, change);
  }

  sentences(told, from, change) {
    const { study, frame } = this, { winner, rival } = told, score = study.accuracy();
    const truth = this.drawn ? null : study.test.y[frame.values.digit - 1];
    const { words } = OPTIMIZERS[frame.values.optimizer];
    const judged = truth === null || truth === winner ? "" : ", wrongly";
    frame.caption(
      `${from[0].toUpperCase()}${from.slice(1)}, is read as a ${winner}${judged}. It leads over ` +
        `a ${rival} by ${number(told.final)}, and ${study.y.length} training digits made that ` +
        `lead (${words}, seed ${frame.values.seed}). The network reads ${score.right} of ` +
        `${score.n} new digits rightly. Trained here in ` +
        `${number(study.whole.milliseconds / 1000, 1)} s, explained in ` +
        `${number(told.milliseconds / 1000)} s.`,
    );
    const left = [...study.left];
    if (!left.length) {
      this.compared.textContent =
        "Click a training digit to leave it out: the network is trained again without it, and " +
        "its push compared with what really changes.";
      return;
    }
    const push = left.reduce((sum, i) => sum + told.parts[i], 0), one = left.length === 1;
    const who = one
      ? `Training digit ${left[0] + 1}, a ${study.y[left[0]]}, is left out. Its push was `
      : `${left.length} training digits are left out. Their pushes add up to `;
    this.compared.textContent = `${who}${signed(push)}. Trained again without ` +
      `${one ? "it" : "them"}, the lead changes by ${change === null ? "…" : signed(change)}` +
      `${one ? "" : " in all"}: the others make up for the rest.`;
  }
}

/** Start the digit memory in `root`; `data` are the packed digits. */
export function start(root, settings = {}, data = {}) {
  return new Digits(root, settings, data);
}
