// Answers tests/test_live_maths.py: one task as JSON, computed with the pages' own modules.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const task = JSON.parse(readFileSync(0, "utf8"));
const load = (name) => import(new URL(name, pathToFileURL(`${task.folder}/`)).href);
const core = await load("core.js");
const row = (values) => Float64Array.from(values);

const jobs = {
  // Parts of a function, and the integral operator of a network that sees seen = x^2 / 3.
  async parity({ width, start, n, values }) {
    const { applied, energy, midpoints, part, waves } = await load("maths/parity.js");
    const x = midpoints(n, 3), seen = x.map((v) => (v * v) / 3);
    const mine = core.side(new core.Network({ width }), row(start), seen), g = row(values);
    const parts = [part(g, 1), part(g, -1)], kernel = core.kernelMatrix(mine);
    const { even, odd } = waves(x);
    return {
      x, parts, energies: parts.map(energy), applied: parts.map((p) => applied(kernel, p)),
      waves: [even, odd],
    };
  },

  // ReLU units trained on a line, their ranks, and a matrix taken apart.
  async relu({ t, a, x, y, other, rate, steps, trained, query, matrix }) {
    const line = await load("maths/relu_line.js");
    const { eigen, singularValues } = await load("maths/matrix.js");
    const units = { t: row(t), a: row(a) }, at = row(x);
    const first = line.features(units, at, trained);
    const pull = line.descend(units, at, row(y), { rate, steps, trained });
    return {
      first, pull, t: units.t, a: units.a, f: line.outputs(units, row(other)),
      ranks: line.rankGap(units, at, row(other), trained),
      through: line.throughUnit(units, 1, query, at, trained),
      singular: singularValues(matrix.flat(), matrix.length, matrix[0].length),
      eigen: eigen(matrix.slice(0, matrix[0].length).flat(), matrix[0].length),
    };
  },

  // What the kernel of the start forecasts, and how far another kernel is from it.
  async lazy({ width, scale, start, x, asked, residual, time, other }) {
    const lazy = await load("maths/lazy.js");
    const network = new core.Network({ width, scaling: "ntk", scale });
    const mine = core.side(network, row(start), row(x));
    const kernel = core.kernelMatrix(mine);
    const query = core.kernelMatrix(core.side(network, row(start), row(asked)), mine);
    return {
      ...lazy.forecast(kernel, row(residual), time, query), kernel,
      drift: lazy.drift(kernel, row(other)),
    };
  },

  // Schedule, embedding, rows, one step back; then a predictor trained and asked.
  async noising({ T, width, points, noise, x, predicted, xi, tau, run, direction }) {
    const noising = await load("maths/noising.js");
    const schedule = noising.linearSchedule(T, 0.1, 6), embedding = noising.sinusoidal(T, width);
    const rows = noising.noisedRows(row(points), schedule, embedding, width, row(noise));
    const network = new core.Network({ inputs: 2 + width, width: run.width, outputs: 2 });
    const settings = { lr: 0.02 };
    const how = { network, loss: core.squared, data: rows, optimizer: "adam", settings };
    const trained = new core.Run({ ...how, start: row(run.start) });
    for (const batch of run.batches) trained.step(batch);
    const query = noising.withLevel(row(x), tau, embedding, width);
    return {
      kept: schedule.kept, embedding, rows, theta: trained.theta,
      back: noising.stepBack(row(x), row(predicted), row(xi), tau, schedule),
      parts: core.contributions(trained, query, { row: 1, direction: row(direction) }).parts,
    };
  },

  // Feedback, what is sent through the kernel, and some steps of both networks.
  async game({ width, g, d, z, real, query, loss, steps }) {
    const maths = await load("maths/adversarial.js");
    const G = new core.Network({ inputs: 2, width, outputs: 2 });
    const D = new core.Network({ inputs: 2, width });
    const [theta, other, latents] = [row(g), row(d), row(z)], first = G.values(theta, latents);
    const { s, D: chance } = maths.feedback(D, other, first, loss);
    const sent = maths.sent(G, theta, row(query), latents, s);
    const learnG = new core.Optimizer("sgd", { lr: 0.1 }, G.size);
    const learnD = new core.Optimizer("adam", { lr: 0.02, beta1: 0.5 }, D.size);
    for (let k = 0; k < steps; k++) {
      const made = G.values(theta, latents), slope = new Float64Array(D.size);
      learnD.step(other, maths.discriminatorGradient(D, other, row(real), made, slope));
      const told = maths.feedback(D, other, made, loss).s;
      const g = maths.generatorGradient(G, theta, latents, told, new Float64Array(G.size));
      learnG.step(theta, g);
    }
    return { s, chance, sent, g: theta, d: other };
  },
};

const plain = (_, value) => (ArrayBuffer.isView(value) ? [...value] : value);
process.stdout.write(JSON.stringify(await jobs[task.job](task.given), plain));
