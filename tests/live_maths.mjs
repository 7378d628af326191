// Answers tests/test_live_maths.py: reads one task as JSON, computes it with the pages' own modules.
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
    const parts = [part(g, 1), part(g, -1)], kernel = core.kernelMatrix(mine), { even, odd } = waves(x);
    return {
      x, parts, energies: parts.map(energy), applied: parts.map((p) => applied(kernel, p)),
      waves: [even, odd],
    };
  },
};

const plain = (_, value) => (ArrayBuffer.isView(value) ? [...value] : value);
process.stdout.write(JSON.stringify(await jobs[task.job](task.given), plain));
