/** What the digit memory draws: the digit, how it is read, who made it so, where and when. */
import { element, number, Plot, Sheet, signed, small } from "../frame.js";
import { BINS, counted, SIDE } from "./study.js";

const SHOWN = 8;
const HEIGHTS = [0.5, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 40, 48, 64, 80, 96, 128];
const round = (reach) => HEIGHTS.find((height) => height >= reach) ?? 256;
const place = (name, ...children) => element("div", { class: name }, ...children);
const title = (text) => element("p", { class: "pk-subtitle", text });

/** A picture of 14 x 14 shades in the page's ink. */
export function paint(context, x, width, ink) {
  const cell = width / SIDE;
  context.fillStyle = ink;
  for (let at = 0; at < x.length; at++) {
    if (x[at] === 0) continue;
    context.globalAlpha = x[at];
    const [left, top] = [(at % SIDE) * cell, Math.floor(at / SIDE) * cell];
    context.fillRect(left, top, cell + 0.4, cell + 0.4);
  }
  context.globalAlpha = 1;
}

/** Eight training digits as buttons, the strongest first. */
class Row {
  constructor(parent, style, press) {
    this.words = title("");
    this.box = place(`pk-digits ${style}`);
    this.cards = Array.from({ length: SHOWN }, () => this._card(press));
    parent.append(this.words, this.box);
  }

  _card(press) {
    const node = element("button", { type: "button", class: "pk-digit", hidden: "" });
    this.box.append(node);
    const sheet = new Sheet(node, { label: "", ratio: 1 });
    sheet.node.setAttribute("aria-hidden", "true");
    sheet.node.removeAttribute("role");
    const text = element("span");
    node.append(text);
    const card = { node, sheet, text, i: null };
    node.addEventListener("click", () => card.i !== null && press(card.i));
    return card;
  }

  draw(words, order, pushes, study) {
    this.words.textContent = words;
    this.cards.forEach((card, k) => {
      const i = order[k];
      card.node.hidden = i === undefined;
      if (i === undefined) return;
      const x = study.x.subarray(SIDE * SIDE * i, SIDE * SIDE * (i + 1)), out = study.left.has(i);
      card.i = i;
      card.text.textContent = signed(pushes[i]);
      card.node.setAttribute("aria-pressed", out);
      card.node.setAttribute(
        "aria-label",
        `training digit ${i + 1}, a ${study.y[i]}, push ${signed(pushes[i])}: ` +
          `${out ? "put it back" : "leave it out"}`,
      );
      card.node.classList.toggle("pk-out", out);
      card.sheet.draw((context, width, _, ink) => paint(context, x, width, ink));
    });
  }
}

export class Picture {
  constructor(frame, press) {
    const soon = (what) => `${what}: drawn when the network has learned`;
    this.pad = new Sheet(place("pk-pad"), { label: soon("a digit"), ratio: 1 });
    this.seen = new Sheet(place("pk-seen"), { label: "what the network sees", ratio: 1 });
    this.shares = new Plot(place("pk-shares"), {
      label: soon("the answer"), x: [-0.6, 9.6], ticks: 10, xlabel: "digit",
      panels: { shares: { title: "the network's answer", y: [0, 1], height: 84, ticks: 2 } },
    });
    const seen = place("pk-sight", this.seen.node.parentElement, title("as it is seen"));
    frame.stage.append(place(
      "pk-asked", this.pad.node.parentElement, seen, this.shares.box.parentElement,
    ));
    this.rows = [new Row(frame.stage, "pk-for", press), new Row(frame.stage, "pk-against", press)];
    this.sum = new Plot(frame.side, {
      label: soon("the pushes"), x: [-2, 2], xlabel: "lead of the first over the second", ticks: 4,
      panels: { sum: { title: "all pushes add up", y: [0, 3], height: 58, ticks: 0 } },
    });
    this.ledger = element("p", { class: "pk-ledger" });
    frame.side.append(this.ledger);
    this.time = new Plot(frame.side, {
      label: soon("when they pushed"), x: [0.4, BINS + 0.6], xlabel: "tenth of the training", ticks: 5,
      panels: { time: { title: "when they pushed", y: [-1, 1], height: 76, ticks: 3 } },
    });
    this.layers = element("p", { class: "pk-ledger" });
    frame.side.append(this.layers);
  }

  /** The digit that is asked about: strokes while one is drawn, else its pixels. */
  digit(x, strokes, words) {
    this.pad.describe(words);
    this.pad.draw((context, width, _, ink) => {
      if (!strokes.length) {
        paint(context, x, width, ink);
        return;
      }
      Object.assign(context, { strokeStyle: ink, lineWidth: width / 11, lineCap: "round" });
      context.lineJoin = "round";
      for (const stroke of strokes) {
        context.beginPath();
        stroke.forEach(([px, py], k) => context[k ? "lineTo" : "moveTo"](px * width, py * width));
        if (stroke.length === 1) context.lineTo(stroke[0][0] * width + 0.1, stroke[0][1] * width);
        context.stroke();
      }
    });
    this.seen.draw((context, width, _, ink) => paint(context, x, width, ink));
  }

  /** How the network reads it. */
  answer(shares, winner, rival) {
    const { shares: plot } = this, wide = Math.max(8, plot.inner / 16);
    plot.bars("shares", "shares", [...shares.keys()], [...shares], wide, winner);
    plot.describe(
      `Shares of the ten digits: ${winner} has ${number(100 * shares[winner], 0)} %, ` +
        `${rival} has ${number(100 * shares[rival], 0)} %.`,
    );
  }

  /** Who made it so. `asked` is { winner, rival, layer, tenth }. */
  account(study, told, asked, change) {
    const pushes = counted(told, asked.layer, asked.tenth), { winner, rival } = asked;
    const order = [...pushes.keys()].sort((a, b) => pushes[b] - pushes[a]);
    const end = [...order].reverse();
    const made = (more, less) => `made it more a ${more} than a ${less}`;
    this.rows[0].draw(
      `For: these ${made(winner, rival)}`, order.slice(0, SHOWN).filter((i) => pushes[i] > 0),
      pushes, study,
    );
    this.rows[1].draw(
      `Against: these ${made(rival, winner)}`, end.slice(0, SHOWN).filter((i) => pushes[i] < 0),
      pushes, study,
    );
    this._sum(told, change);
    this._time(told, asked);
    return order;
  }

  _sum(told, change) {
    const { sum, ledger } = this;
    const up = told.parts.reduce((all, part) => all + Math.max(0, part), 0);
    const down = told.parts.reduce((all, part) => all + Math.min(0, part), 0);
    const top = told.initial + up, end = top + down;
    const again = change === null ? told.final : told.final + change;
    sum.span(
      -round(-Math.min(-0.2, told.initial, end, again) * 1.05),
      round(Math.max(0.2, top, again) * 1.05),
    );
    sum.rule("sum", "zero", { x: 0 }, "pk-faint");
    sum.line("sum", "up", [told.initial, top], [2.3, 2.3], "pk-thick pk-plus");
    sum.line("sum", "down", [top, end], [1.5, 1.5], "pk-thick pk-minus pk-dashed");
    sum.line("sum", "end", [told.final, told.final], [0.2, 2.8], "pk-strong");
    sum.dots("sum", "answer", [told.final], [0.6], "pk-query", 6, "diamond");
    sum.dots("sum", "again", change === null ? [] : [again], [0.6], "pk-real", 6, "diamond");
    ledger.textContent =
      `before ${number(told.initial)}, for ${signed(up)}, against ${signed(down)} = ` +
      `${number(told.final)}. Left over: ${small(told.gap)} of the change.`;
    sum.describe(ledger.textContent);
  }

  _time(told, { layer, tenth }) {
    const { time } = this, at = Array.from({ length: BINS }, (_, bin) => counted(told, layer, bin));
    const sums = (keep) => at.map((pushes) => pushes.reduce((all, v) => all + keep(v, 0), 0));
    const ups = sums(Math.max), downs = sums(Math.min), xs = at.map((_, bin) => bin + 1);
    const most = round(Math.max(0.1, ...ups, ...downs.map(Math.abs)) * 1.05);
    time.limits("time", -most, most);
    const wide = Math.max(6, time.inner / 18);
    time.bars("time", "up", xs, ups, wide, tenth ?? -1);
    time.bars("time", "down", xs, downs, wide, tenth ?? -1);
    const first = counted(told, 0, tenth), last = counted(told, 1, tenth);
    const total = (pushes) => signed(pushes.reduce((all, v) => all + v, 0));
    this.layers.textContent = `where: first layer ${total(first)}, last layer ${total(last)}.`;
    const busiest = ups.indexOf(Math.max(...ups)) + 1;
    time.describe(`Pushes by tenth of the training; those for were greatest in tenth ${busiest}.`);
  }
}
