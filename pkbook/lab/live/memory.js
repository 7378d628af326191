/**
 * Memory in time: the plane of t and s, how much the gradient of step s counts in step t.
 *
 * A row of the plane is the life of one gradient; below it stands the row that is chosen. A column
 * is what one step is made of; it stands aside.
 */
import { COLOURS, element, Frame, number, Plot, Sheet } from "./frame.js";
import { GRADIENTS, memory, STEPS } from "./memory/study.js";

const BETAS = [0, 0.5, 0.8, 0.9, 0.95];
const HEIGHTS = [1, 2, 4, 8, 16, 32, 64, 128];
const round = (reach) => HEIGHTS.find((height) => height >= reach) ?? 256;
const words = (options) => Object.fromEntries(
  Object.entries(options).map(([key, { words: text }]) => [key, text]),
);
const NAMES = {
  sgd: "SGD", momentum: "SGD with momentum", rmsprop: "RMSprop", adam: "Adam", adamw: "AdamW",
};
const CONTROLS = {
  optimizer: { label: "optimizer", options: NAMES, initial: "momentum" },
  gradients: { label: "gradients", options: words(GRADIENTS), initial: "one" },
  beta1: { label: "momentum β₁", values: BETAS, initial: 0.9 },
  beta2: { label: "squares β₂", values: [0.5, 0.8, 0.9, 0.99, 0.999], initial: 0.9 },
  decay: { label: "weight decay", values: [0, 0.2, 0.5, 1], initial: 0.5 },
  t: { label: "step t", values: Array.from({ length: STEPS }, (_, k) => k), initial: 25 },
};
const LEAD = "Drag the gradient of step s: it pushes at once, and goes on pushing in later steps.";
const SPEED = 8; // steps a second

class Memory {
  constructor(root, settings) {
    Object.assign(this, { s: 8, owed: 0 });
    this.frame = new Frame(root, {
      name: "memory", label: "Memory in time: what becomes of a gradient", lead: LEAD,
      controls: CONTROLS, change: () => this.change(), draw: () => this.draw(),
      player: {
        advance: (seconds) => this.advance(seconds),
        step: () => this.choose((this.s + 1) % STEPS),
        reset: () => this.choose(0),
      },
      state: { s: { read: (text) => this.choose(Number(text)), write: () => String(this.s) } },
    });
    this.frame.take(settings);
    this.place();
    this.frame.start();
  }

  place() {
    const { stage, side } = this.frame;
    const title = (text) => element("p", { class: "pk-subtitle", text });
    const box = element("div", { class: "pk-plane" });
    this.sheet = new Sheet(box, { label: "", ratio: 0.5 });
    stage.append(title("how much the gradient of step s (up) counts in step t (right)"), box);
    this.life = new Plot(stage, {
      label: "", x: [-0.5, STEPS - 0.5], xlabel: "step t",
      panels: {
        acts: { title: "what it does in step t", y: [0, 1], height: 60, ticks: 2 },
        push: { title: "what its push has become", y: [0, 1], height: 56, ticks: 2 },
      },
    });
    this.made = new Plot(side, {
      label: "", x: [-0.5, STEPS - 0.5], xlabel: "step s", ticks: 4,
      panels: {
        made: { title: "what step t is made of", y: [0, 1], height: 110 },
        g: { title: "the gradients", y: [-1, 1], height: 56 },
      },
    });
    const follow = (event) => {
      if (event.type === "pointermove" && !(event.buttons & 1)) return;
      const { left, top, width, height } = this.sheet.node.getBoundingClientRect();
      this.choose(Math.floor(STEPS * (1 - (event.clientY - top) / height)));
      const t = Math.floor((STEPS * (event.clientX - left)) / width);
      this.frame.set("t", Math.min(STEPS - 1, Math.max(0, t)));
      this.frame.redraw();
      this.frame.changed();
    };
    this.sheet.node.addEventListener("pointerdown", follow);
    this.sheet.node.addEventListener("pointermove", follow);
  }

  choose(s) {
    if (Number.isFinite(s)) this.s = Math.min(STEPS - 1, Math.max(0, Math.round(s)));
  }

  change() {
    const { frame } = this, { values } = frame, adam = values.optimizer.startsWith("adam");
    this.g = GRADIENTS[values.gradients].g;
    this.told = memory(values, this.g);
    frame.enable("beta1", adam || values.optimizer === "momentum");
    frame.enable("beta2", adam || values.optimizer === "rmsprop");
    frame.enable("decay", values.optimizer === "adamw");
  }

  advance(seconds) {
    this.owed += seconds * SPEED;
    const steps = Math.floor(this.owed);
    this.owed -= steps;
    this.choose((this.s + steps) % STEPS);
    return true;
  }

  /** The life of the chosen gradient: { acts, push, half } from its own step on. */
  row() {
    const { told: { K, weights, pushes }, s } = this;
    const column = (all) => Array.from({ length: K }, (_, t) => all[t * K + s]);
    const acts = column(weights), push = column(pushes), most = Math.max(...push.map(Math.abs));
    return { acts, push, half: push.findIndex((value) => value >= most / 2) };
  }

  draw() {
    const { told: { K, weights }, life, made, frame, g, s } = this, { t } = frame.values;
    const steps = Array.from({ length: K }, (_, k) => k), row = this.row();
    this.plane();
    const most = Math.max(...weights), top = round(most);
    life.limits("acts", 0, top);
    life.limits("push", 0, round(Math.max(...this.told.pushes)));
    const wide = Math.max(3, (0.7 * life.inner) / K);
    life.bars("acts", "acts", steps, row.acts, wide, s);
    life.area("push", "push", steps, row.push, "pk-third");
    life.rule("push", "now", { x: t }, "pk-faint pk-dotted");
    made.limits("made", 0, top);
    const parts = steps.map((k) => weights[t * K + k]);
    made.bars("made", "made", steps, parts, Math.max(2, (0.7 * made.inner) / K), s);
    const reach = round(Math.max(...g.map(Math.abs)));
    made.limits("g", Math.min(...g) < 0 ? -reach : 0, reach);
    made.bars("g", "g", steps, [...g], Math.max(2, (0.7 * made.inner) / K), s);
    life.handle("acts", "s", {
      label: "gradient of step s", x: s, y: row.acts[s], style: "pk-query", step: [1, 0],
      text: `step ${s}, counts ${number(row.acts[s])} in its own step`,
      move: (x, _, { done }) => {
        this.choose(x);
        frame.redraw(done);
        frame.changed();
      },
    });
    this.sentences(row, parts);
  }

  plane() {
    const { K, weights } = this.told, { t } = this.frame.values, most = Math.max(...weights);
    this.sheet.draw((context, width, height, ink) => {
      const [wide, high] = [width / K, height / K];
      context.fillStyle = COLOURS.plus;
      for (let k = 0; k < K; k++) {
        for (let s = 0; s <= k; s++) {
          context.globalAlpha = Math.sqrt(Math.max(0, weights[k * K + s] / most));
          const [left, top] = [Math.round(k * wide), Math.round(height - (s + 1) * high)];
          const [right, bottom] = [(k + 1) * wide, height - s * high].map(Math.round);
          context.fillRect(left, top, right - left, bottom - top);
        }
      }
      context.globalAlpha = 1;
      context.strokeStyle = ink;
      context.strokeRect(0.5, 0.5, width - 1, height - 1);
      context.lineWidth = 1.5;
      context.strokeRect(0.75, height - (this.s + 1) * high, width - 1.5, high);
      context.setLineDash([3, 3]);
      context.strokeRect(t * wide, 0.75, wide, height - 1.5);
    });
    this.sheet.describe(
      `Plane of steps t and s for ${NAMES[this.frame.values.optimizer]}: full colour where the ` +
        "gradient of step s counts much in step t, empty above the diagonal: no step knows later ones.",
    );
  }

  sentences({ acts, push, half }, parts) {
    const { frame, s, told: { K } } = this, { values } = frame, { t, optimizer } = values;
    const used = [
      frame.inputs.beta1.disabled ? "" : `, β₁ ${values.beta1}`,
      frame.inputs.beta2.disabled ? "" : `, β₂ ${values.beta2}`,
      optimizer === "adamw" ? `, weight decay ${values.decay}` : "",
    ].join("");
    const all = parts.reduce((sum, w) => sum + w, 0), most = Math.max(...push);
    const own = all ? parts[t] / all : 0;
    const late = Math.min(K - 1, s + 10);
    frame.caption(
      `${NAMES[optimizer]}${used}, gradients ${GRADIENTS[values.gradients].words}. One unit ` +
        `of the gradient of step ${s} counts ${number(acts[s])} learning rates in its own step ` +
        `and ${number(acts[late])} in step ${late}. Its push grows to ${number(most)}` +
        (half > s ? `, half of it by step ${half}` : "") +
        (push.at(-1) < 0.99 * most ? ` and has shrunk to ${number(push.at(-1))} in the end` : "") +
        ". " +
        `Of the weights in step ${t}, ${number(100 * own, 0)} % are its own gradient's.`,
    );
    this.life.describe(`Row of step ${s}: it counts ${number(acts[s])} in its own step, ` +
      `${number(acts[late])} in step ${late}, and has pushed by ${number(push.at(-1))} at last.`);
    this.made.describe(`Column of step ${t}: its own gradient has ${number(parts[t])} of ` +
      `${number(all)}. Below, the gradients.`);
  }
}

/** Start memory in time in `root`; `settings` are initial values of controls. */
export function start(root, settings = {}) {
  return new Memory(root, settings);
}
