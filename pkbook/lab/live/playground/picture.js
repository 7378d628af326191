/** What the playground draws: fit, kernel and contributions over one x axis, three things aside. */
import { element, number, paintMatrix, Plot, Sheet, signed, small } from "../frame.js";
import { INTERVAL, MOST_STEPS } from "./study.js";

const HEIGHTS = [0.25, 0.5, 1, 2, 4, 8, 16, 32, 64];

const round = (reach) => HEIGHTS.find((height) => height >= reach) ?? 128;

export class Picture {
  constructor(frame) {
    this.frame = frame;
    this.main = new Plot(frame.stage, {
      label: "", x: INTERVAL, xlabel: "input x",
      panels: {
        fit: { title: "the network's answer", y: [-1.6, 1.6], height: 170 },
        likeness: {
          title: "how alike it finds each x and the query", y: [-1, 1], height: 44, ticks: 2,
        },
        parts: {
          title: "what each point did to the answer (◇ what it is worth)", y: [-1, 1], height: 110,
        },
      },
    });
    this.sum = new Plot(frame.side, {
      label: "", x: [-2, 2], xlabel: "answer at the query", ticks: 4,
      panels: { sum: { title: "the bars add up", y: [0, 3], height: 58, ticks: 0 } },
    });
    this.ledger = element("p", { class: "pk-ledger" });
    frame.side.append(this.ledger);
    const loss = { loss: { title: "loss", y: [0, 0.5], height: 56, ticks: 2 } };
    this.loss = new Plot(frame.side, {
      label: "", x: [0, 100], xlabel: "step", ticks: 3, panels: loss,
    });
    const title = element("p", { class: "pk-subtitle", text: "likeness of the points" });
    this.matrix = new Sheet(element("div", { class: "pk-matrix" }), { label: "", ratio: 1 });
    frame.side.append(element("div", { class: "pk-matrix-box" }, title, this.matrix.node));
  }

  draw(study, told, query, chosen) {
    this._fit(study, told, query);
    this._parts(study, told, query, chosen);
    this._sum(told);
    this._loss(study);
    this.matrix.draw((context, width, _, ink) =>
      paintMatrix(context, told.matrix, study.points.length, width, ink),
    );
    this._words(study, told, query);
  }

  _fit({ grid, first }, told, query) {
    const { main } = this;
    main.line("fit", "before", grid, first, "pk-faint pk-dashed");
    main.line("fit", "fit", grid, told.fit, "pk-strong");
    for (const name of ["fit", "likeness", "parts"])
      main.rule(name, "query", { x: query }, "pk-faint pk-dotted");
    main.text("fit", "answer", query, told.final, number(told.final));
    main.area("likeness", "likeness", grid, told.likeness, "pk-third");
  }

  _parts({ points }, told, query, chosen) {
    const { main } = this, xs = points.map((point) => point.x);
    const largest = Math.max(0, ...told.parts.map(Math.abs), ...(told.effects ?? []).map(Math.abs));
    const most = round(largest * 1.05);
    main.limits("parts", -most, most);
    main.bars("parts", "parts", xs, told.parts, Math.min(16, main.inner / 24), chosen);
    const real = told.effects ? xs : [];
    main.dots("parts", "effects", real, told.effects ?? [], "pk-real", 6, "diamond");
  }

  _sum(told) {
    const { sum } = this, top = told.initial + told.up, end = told.initial + told.up + told.down;
    const low = Math.min(0, told.initial, end, told.final), high = Math.max(0, top, told.final);
    sum.span(-round(-low * 1.05), round(high * 1.05));
    sum.rule("sum", "zero", { x: 0 }, "pk-faint");
    sum.line("sum", "up", [told.initial, top], [2.3, 2.3], "pk-thick pk-plus");
    sum.line("sum", "down", [top, end], [1.5, 1.5], "pk-thick pk-minus pk-dashed");
    sum.line("sum", "end", [told.final, told.final], [0.2, 2.8], "pk-strong");
    sum.dots("sum", "start", [told.initial], [2.3], "pk-hollow", 4);
    sum.dots("sum", "answer", [told.final], [0.6], "pk-query", 6, "diamond");
    const change = told.final - told.initial;
    this.ledger.textContent =
      `before ${number(told.initial)}, up ${signed(told.up)}, down ${signed(told.down)}` +
      `${told.other ? `, weight decay ${signed(told.other)}` : ""} = ${number(told.final)}. ` +
      `Left over: ${Math.abs(change) > 1e-9 ? small(told.gap) : "0"} of the change.`;
    sum.describe(this.ledger.textContent);
  }

  _loss({ risks }) {
    const { loss } = this, every = Math.max(1, Math.floor(risks.length / 150));
    const kept = risks.map((_, k) => k).filter((k) => k % every === 0 || k === risks.length - 1);
    loss.span(0, [100, 200, 400, MOST_STEPS].find((most) => most >= risks.length - 1));
    loss.limits("loss", 0, Math.max(0.05, ...risks.slice(0, 3).filter(Number.isFinite)) * 1.1);
    loss.line("loss", "risk", kept, kept.map((k) => risks[k]), "pk-strong");
    loss.dots("loss", "now", [risks.length - 1], [risks.at(-1)], "pk-query", 4);
    loss.describe(`Loss against step: from ${number(risks[0], 3)} to ${number(risks.at(-1), 4)}.`);
  }

  _words({ points, steps, grid }, told, query) {
    const order = [...told.parts.keys()].sort((i, j) => told.parts[j] - told.parts[i]);
    const [best, worst] = [order[0], order.at(-1)];
    const where = (i) => `the point at ${number(points[i].x, 1)} (${signed(told.parts[i])})`;
    this.main.describe(
      `Fit after ${steps} steps, likeness to the query, and one bar a point. At ${number(query)} ` +
        `the answer is ${number(told.final)}. Furthest up pushed ${where(best)}, furthest down ` +
        `${where(worst)}.`,
    );
    const near = told.likeness.reduce((top, v, i) => (v < told.likeness[top] ? i : top), 0);
    this.matrix.describe(
      `Normalised kernel between all ${points.length} points: a matrix, orange where alike, blue ` +
        `where opposed. The query is least like inputs near ${number(grid[near], 1)}.`,
    );
  }
}
