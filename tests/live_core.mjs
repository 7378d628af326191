// Answers tests/test_live_core.py: reads one task as JSON, computes it with the pages' own modules.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const task = JSON.parse(readFileSync(0, "utf8"));
const core = await import(pathToFileURL(task.core).href);

const row = (values) => Float64Array.from(values);

function trained({ network, loss, x, y, start, batches, optimizer, settings, weights }) {
  const how = {
    network: new core.Network(network), loss: core.losses[loss], optimizer, settings,
    data: { x: row(x), y: row(y), n: x.length / (network.inputs ?? 1) }, start: row(start),
  };
  const run = new core.Run(how, { weights });
  for (const batch of batches) run.step(batch);
  return [run, how];
}

const jobs = {
  // One training: where it ends, its contributions to a query, its kernels.
  train({ query, direction, rule, left, ...rest }) {
    const [run, how] = trained(rest);
    const x = row(query), a = direction && row(direction);
    const told = core.contributions(run, x, {
      direction: a, rule: rule === "riemann" ? core.LEFT_END : core.GAUSS[3], bins: 4,
    });
    const mine = core.side(run.network, run.theta, run.data.x, a);
    const first = core.side(run.network, run.parameters[0], run.data.x, a);
    return {
      theta: [...run.theta], risk: run.risk(), ...told,
      parts: [...told.parts], byLayer: [...told.byLayer], byTime: [...told.byTime],
      kernel: [...core.kernelMatrix(mine)], normalised: [...core.normalisedKernel(mine)],
      twoTime: [...core.kernelMatrix(mine, first)],
      memory: [...core.memoryWeights(run.steps.slice(0, 6).map((s) => s.coefficients))],
      without: left ? [...core.without(how, rest.batches, left)] : null,
    };
  },

  // Random numbers in bulk, for their moments.
  draw({ seed, n }) {
    const generator = new core.Generator(seed);
    const uniform = Array.from({ length: n }, () => generator.uniform());
    const again = new core.Generator(seed);
    return {
      uniform, normal: [...generator.normals(n)], repeated: again.uniform() === uniform[0],
      batches: Array.from({ length: n / 10 }, () => core.batch(6, 2, generator)),
    };
  },

  // Where SGD and its diffusion are after one step, many times, driven by the same normals.
  step({ network, x, y, start, rate, size, paths, dt }) {
    const data = { x: row(x), y: row(y), n: y.length };
    const the = { network: new core.Network(network), loss: core.squared, data };
    const generator = new core.Generator(3);
    const ends = Array.from({ length: paths }, () => {
      const normals = generator.normals(data.n), batch = core.drivenBatch(normals, size);
      const sgd = core.sgdStep(the, row(start), { rate, batch });
      const diffusion = core.diffusionStep(the, row(start), { rate, size, dt }, normals);
      return { normals: [...normals], batch, sgd: [...sgd], diffusion: [...diffusion] };
    });
    return { ends, factor: core.covarianceFactor(data.n, size) };
  },
};

process.stdout.write(JSON.stringify(jobs[task.job](task.given)));
