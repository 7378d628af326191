/** What the digit memory computes: a network of 32 units learns 600 digits, here, in slices. */
import { Generator, batch, Network, crossEntropy, softmax, Run, contributions } from "../core.js";

export const SIDE = 14;
export const PIXELS = SIDE * SIDE;
export const BINS = 10; // tenths of the training
const WIDTH = 32, SIZE = 50, STEPS = 240;
export const OPTIMIZERS = {
  momentum: { words: "SGD with momentum", settings: { lr: 0.02, momentum: 0.9 } },
  sgd: { words: "SGD", settings: { lr: 0.2 } },
  adam: { words: "Adam", settings: { lr: 0.004 } },
};

/** Pictures of 14 x 14 with 16 shades, two pixels a byte, to numbers in 0 ... 1. */
export function unpacked(text) {
  const bytes = atob(text), x = new Float64Array(2 * bytes.length);
  for (let k = 0; k < bytes.length; k++) {
    const byte = bytes.charCodeAt(k);
    x[2 * k] = (byte >> 4) / 15;
    x[2 * k + 1] = (byte & 15) / 15;
  }
  return x;
}

/** The scores' greatest and second greatest. */
export function firstTwo(scores) {
  const order = [...scores.keys()].sort((a, b) => scores[b] - scores[a]);
  return [order[0], order[1]];
}

/** One training, done in slices of time so that the page stays awake. */
class Training {
  constructor(how, batches, also) {
    this.batches = batches;
    this.run = new Run(how, also);
    this.milliseconds = 0;
  }

  get done() {
    return this.run.length >= this.batches.length;
  }

  /** Steps for about `budget` milliseconds. */
  work(budget) {
    const start = performance.now();
    while (!this.done && performance.now() - start < budget) {
      this.run.step(this.batches[this.run.length]);
    }
    this.milliseconds += performance.now() - start;
  }
}

export class Study {
  /** @param {object} data { train, test: packed pictures; trainLabels, testLabels: digits } */
  constructor({ train, trainLabels, test, testLabels }) {
    const labels = (text) => Uint8Array.from(text, Number);
    this.x = unpacked(train);
    this.y = labels(trainLabels);
    this.test = { x: unpacked(test), y: labels(testLabels) };
    this.left = new Set();
  }

  /** A fresh training; nothing is left out any more. */
  train({ optimizer, seed }, steps = STEPS) {
    const network = new Network({ inputs: PIXELS, width: WIDTH, outputs: 10 });
    const generator = new Generator(100 + seed), data = { x: this.x, y: this.y, n: this.y.length };
    const { settings } = OPTIMIZERS[optimizer];
    const start = network.start(generator);
    this.how = { network, loss: crossEntropy, data, optimizer, settings, start };
    this.batches = Array.from({ length: steps }, () => batch(data.n, SIZE, generator));
    this.whole = new Training(this.how, this.batches, {});
    this.left.clear();
    this.without = this.told = this.score = null;
  }

  /** Leave a training digit out, or put it back; `work` then trains again without. */
  toggle(i) {
    if (!this.left.delete(i)) this.left.add(i);
    this.again();
  }

  putBack() {
    this.left.clear();
    this.again();
  }

  again() {
    const weights = Float64Array.from(this.y, (_, i) => (this.left.has(i) ? 0 : 1));
    this.without = this.left.size
      ? new Training(this.how, this.batches, { weights, record: false }) : null;
  }

  /** Go on with what is to be trained. Returns how far that is, 1 at the end. */
  work(budget) {
    const now = this.whole.done ? this.without : this.whole;
    if (!now) return 1;
    now.work(budget);
    return now.run.length / this.batches.length;
  }

  /** The ten scores of a picture, and the shares that softmax makes of them. */
  read(x, run = this.whole.run) {
    const scores = this.how.network.values(run.theta, x);
    return { scores, shares: softmax(scores, new Float64Array(10)) };
  }

  /** How many test digits are read rightly, and which are not. */
  accuracy() {
    if (this.score) return this.score;
    const { x, y: { length: n } } = this.test;
    const scores = this.how.network.values(this.whole.run.theta, x);
    const wrong = [];
    for (let i = 0; i < n; i++) {
      if (firstTwo(scores.subarray(10 * i, 10 * i + 10))[0] !== this.test.y[i]) wrong.push(i);
    }
    return (this.score = { right: n - wrong.length, n, wrong });
  }

  /** The score of `winner` less that of `rival`, taken apart into what each digit did to it. */
  explain(x, winner, rival) {
    const { told } = this;
    if (told && told.x === x && told.winner === winner && told.rival === rival) return told;
    const direction = new Float64Array(10), start = performance.now();
    direction[winner] += 1;
    direction[rival] -= 1;
    const account = contributions(this.whole.run, x, { direction, bins: BINS });
    this.told = { ...account, x, winner, rival, milliseconds: performance.now() - start };
    return this.told;
  }

  /** What leaving out has really done to that difference; null while nothing is left out. */
  change(x, winner, rival) {
    if (!this.without?.done) return null;
    const [now, before] = [this.read(x, this.without.run), this.read(x)].map(
      ({ scores }) => scores[winner] - scores[rival],
    );
    return now - before;
  }
}

/** What each digit did in a layer (0, 1 or null for both) and a tenth (or null for all): [N]. */
export function counted({ cells, parts }, layer, tenth) {
  return parts.map((_, i) => {
    let sum = 0;
    for (let bin = 0; bin < BINS; bin++) {
      if (tenth !== null && bin !== tenth) continue;
      for (let l = 0; l < 2; l++) {
        if (layer === null || l === layer) sum += cells[2 * (i * BINS + bin) + l];
      }
    }
    return sum;
  });
}
