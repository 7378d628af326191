// Answers tests/test_live_explorers.py: what the explorers compute beyond the core.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const { job, given, live } = JSON.parse(readFileSync(0, "utf8"));
const from = (name) => import(pathToFileURL(`${live}/${name}`).href);
const core = await from("core.js");

const jobs = {
  // The digit memory: a training of a few steps, an account, and one digit left out.
  async digits({ data, settings, steps, query, left, pair: [winner, rival] }) {
    const { Study, counted, unpacked } = await from("digits/study.js");
    const study = new Study(data);
    study.train(settings, steps);
    study.work(Infinity);
    const x = study.test.x.subarray(196 * query, 196 * (query + 1));
    const told = study.explain(x, winner, rival), { run } = study.whole;
    study.toggle(left);
    study.work(Infinity);
    return {
      pixels: [...unpacked(data.train)], start: [...run.parameters[0]], theta: [...run.theta],
      batches: study.batches, parts: [...told.parts],
      layers: [0, 1].map((layer) => [...counted(told, layer, null)]),
      tenths: Array.from({ length: 10 }, (_, bin) => [...counted(told, null, bin)]),
      gap: told.gap, change: study.change(x, winner, rival), right: study.accuracy().right,
      answer: [told.initial, told.final],
    };
  },

  // Drawings to pictures.
  async ink({ drawings }) {
    const { parsed, raster, written } = await from("digits/ink.js");
    const pictures = drawings.map(raster);
    const again = pictures.map((x) => [...parsed(written(x))]);
    return { pictures: pictures.map((x) => [...x]), again, refused: parsed("zz") };
  },

  // The plane of t and s.
  async memory({ settings, g }) {
    const { memory, RATE } = await from("memory/study.js");
    const { weights, pushes } = memory(settings, Float64Array.from(g));
    return { weights: [...weights], pushes: [...pushes], rate: RATE };
  },

  // One pair of paths, and the normals that drove both.
  async pair({ rate, size, steps, inner }) {
    const { pair, task } = await from("paths/study.js");
    const drawn = [];
    class Kept extends core.Generator {
      normals(n) {
        const normals = super.normals(n);
        drawn.push([...normals]);
        return normals;
      }
    }
    const the = task(), told = pair(the, { rate, size, steps, inner }, new Kept(3));
    return { ...told, normals: drawn, start: [...the.start], x: [...the.data.x] };
  },

  // Means and distances of a cloud, by themselves.
  async cloud({ values }) {
    const { Cloud } = await from("paths/study.js");
    const cloud = new Cloud({ rate: 0.4, batch: 2, seed: 0 });
    cloud.pairs = values.map(([sgd, diffusion]) => ({ sgd: [sgd], diffusion: [diffusion] }));
    cloud.times = [0];
    return { ...cloud.apart(0), sgd: cloud.middle("sgd") };
  },
};

process.stdout.write(JSON.stringify(await jobs[job](given)));
