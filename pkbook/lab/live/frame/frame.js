/**
 * The frame of an explorer: its controls, its clock, its words, its state in the address.
 *
 * An explorer says what it has and what to do; the frame does what all have in common. It pauses
 * out of view, starts nothing by itself, draws at most once a display frame, keeps the state in the
 * address and speaks to screen readers when the numbers have come to rest.
 */
import { isAddressed, readAddress, writeAddress } from "./address.js";
import { element } from "./elements.js";

const QUIET = 700; // milliseconds of rest before the words are spoken and the address written

export class Frame {
  /**
   * @param {HTMLElement} root where the explorer stands; its still picture is put away
   * @param {object} what
   *   name      of the explorer, as in the address
   *   label     what a screen reader calls it
   *   lead      one sentence above it: what to do and what to see (may be empty)
   *   controls  by key: { label, values, initial, text, title } makes a slider over the values,
   *             { label, options: { value: words }, initial } a choice
   *   state     more that belongs into the address: { key: { read(text), write() -> text } }
   *   change(key, told) a control was moved: recompute, it is drawn afterwards; at the start key is
   *             null and `told` what the address says
   *   draw()            bring the picture up to date
   *   player            { advance(seconds) -> whether to go on, step(), reset() } for the buttons
   */
  constructor(root, what) {
    this.root = root;
    this.what = { controls: {}, state: {}, lead: "", change() {}, draw() {}, ...what };
    this.values = {};
    this.playing = this.asked = false;
    this.visible = true;
    this.frames = 0; // displays drawn so far, for whoever counts them
    this.reduced = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this._build();
    root.pkFrame = this;
  }

  /** After the explorer has made its plots: read the address, draw, watch what the page does. */
  start() {
    const told = readAddress(this.what.name);
    for (const [key, text] of Object.entries(told)) {
      if (key in this.what.controls) this._choose(key, text);
      else this.what.state[key]?.read(text);
    }
    this.what.change(null, told);
    this.redraw(true);
    this._watch();
    if (isAddressed(this.what.name)) this.root.scrollIntoView({ block: "nearest" });
    return this;
  }

  _build() {
    const { label, lead, controls, player } = this.what;
    const place = (name) => element("div", { class: name });
    this.stage = place("pk-stage");
    this.side = place("pk-side");
    this.buttons = place("pk-buttons");
    this.knobs = place("pk-knobs");
    this.words = element("p", { class: "pk-caption" });
    this.live = element("p", { class: "pk-spoken", "aria-live": "polite" });
    if (player) this._player(player);
    this.inputs = {};
    for (const [key, control] of Object.entries(controls)) this._control(key, control);
    this.root.setAttribute("data-lm-suppress-shortcuts", "true"); // JupyterLab's own keys wait
    this.root.setAttribute("role", "group");
    this.root.setAttribute("aria-label", label);
    this.below = element("div", { class: "pk-below" }, this.buttons, this.words);
    this.root.replaceChildren(
      ...(lead ? [element("p", { class: "pk-lead", text: lead })] : []),
      element("div", { class: "pk-main" }, this.stage, this.below), this.side, this.knobs,
      this.live,
    );
    this.root.classList.add("pk-ready");
  }

  _player(player) {
    const act = (action) => () => {
      this.pause();
      action();
      this.redraw(true);
      this.changed();
    };
    this.playButton = this.button("Play", () => (this.playing ? this.pause() : this.play()));
    this.playButton.classList.add("pk-play");
    this.button("Step", act(() => player.step()));
    this.button("Reset", act(() => player.reset()));
  }

  /** A button in the row of buttons (or `into` another place). */
  button(label, action, into = this.buttons) {
    const made = element("button", { type: "button", text: label, onclick: action });
    into.append(made);
    return made;
  }

  _control(key, control) {
    const input = control.options ? this._choice(key, control) : this._slider(key, control);
    this.inputs[key] = input;
    this._choose(key, String(control.initial));
    input.addEventListener(control.options ? "change" : "input", () => {
      this._choose(key, control.options ? input.value : String(control.values[input.value]));
      this.what.change(key);
      this.redraw(true);
      this.changed();
    });
  }

  _slider(key, { label, values, title }) {
    const input = element("input", {
      type: "range", min: 0, max: values.length - 1, step: 1, autocomplete: "off",
    });
    const value = element("span", { class: "pk-value", "aria-hidden": "true" });
    this.knobs.append(
      element("label", { class: "pk-knob", title }, element("span", { text: label }), input, value),
    );
    return input;
  }

  _choice(key, { label, options, title }) {
    const made = Object.entries(options).map(([value, text]) => element("option", { value, text }));
    const input = element("select", { autocomplete: "off" }, ...made);
    this.knobs.append(
      element("label", { class: "pk-knob", title }, element("span", { text: label }), input),
    );
    return input;
  }

  /** Set a control to the value that is written `text`; unknown texts change nothing. */
  _choose(key, text) {
    const control = this.what.controls[key], input = this.inputs[key];
    if (control.options) {
      if (!(text in control.options)) return;
      input.value = this.values[key] = text;
      return;
    }
    const place = control.values.findIndex((value) => String(value) === text);
    if (place < 0) return;
    this.values[key] = control.values[place];
    input.value = place;
    const words = (control.text ?? String)(this.values[key]);
    input.setAttribute("aria-valuetext", words);
    input.parentElement.querySelector(".pk-value").textContent = words;
  }

  /** Set a control from the explorer itself. */
  set(key, value) {
    this._choose(key, String(value));
  }

  /** The initial values that a cell gave, by key. */
  take(settings) {
    for (const [key, value] of Object.entries(settings)) this.set(key, value);
  }

  /** Grey a control out where it has no meaning (momentum without momentum). */
  enable(key, whether) {
    this.inputs[key].disabled = !whether;
    this.inputs[key].parentElement.classList.toggle("pk-off", !whether);
  }

  play() {
    this.playing = true;
    this.playButton.textContent = "Pause";
    this.before = null;
    this._next();
  }

  pause() {
    if (!this.playing) return;
    this.playing = false;
    this.playButton.textContent = "Play";
    this.changed();
  }

  /** Ask for one drawing: at once, or with the next display. */
  redraw(now = false) {
    if (now) {
      this.what.draw();
      return;
    }
    this.asked = true;
    this._next();
  }

  _next() {
    if (this.waiting || !this.visible) return;
    this.waiting = requestAnimationFrame((time) => this._display(time));
  }

  _display(time) {
    this.waiting = null;
    if (this.playing) {
      const seconds = Math.min(0.1, this.before === null ? 1 / 60 : (time - this.before) / 1000);
      this.before = time;
      this.asked = true;
      if (!this.what.player.advance(seconds)) this.pause();
    }
    if (this.asked) {
      this.asked = false;
      this.frames += 1;
      this.what.draw();
    }
    if (this.playing) this._next();
  }

  /** The visible sentence below the picture. */
  caption(text) {
    if (this.words.textContent !== text) this.words.textContent = text;
  }

  /** After a change by the reader: when it rests, speak the caption and write the address. */
  changed(spoken = null) {
    if (spoken) this.next = spoken;
    clearTimeout(this.resting);
    this.resting = setTimeout(() => {
      if (!this.playing) this.live.textContent = this.next ?? this.words.textContent;
      this.next = null;
      const state = Object.entries(this.what.state).map(([key, { write }]) => [key, write()]);
      const kept = [...Object.entries(this.values), ...state].filter(([, text]) => text !== "");
      writeAddress(this.what.name, Object.fromEntries(kept));
      this.root.dispatchEvent(new CustomEvent("pk-rest"));
    }, QUIET);
  }

  _watch() {
    new IntersectionObserver((seen) => {
      this.visible = seen.at(-1).isIntersecting;
      this.before = null;
      if (this.visible && (this.playing || this.asked)) this._next();
    }).observe(this.root);
    let width = this.root.clientWidth;
    new ResizeObserver(() => {
      if (this.root.clientWidth === width) return;
      width = this.root.clientWidth;
      this.redraw();
    }).observe(this.root);
    const repaint = () => this.redraw(); // canvases do not follow the theme by themselves
    const dressed = { attributes: true, attributeFilter: ["data-theme", "data-jp-theme-name"] };
    new MutationObserver(repaint).observe(document.documentElement, dressed);
    new MutationObserver(repaint).observe(document.body, dressed);
  }
}
