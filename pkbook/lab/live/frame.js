/** The frame of the explorers, in one import. CONTRIBUTING.md says how to write one. */
export { element, drawn, number, signed, small } from "./frame/elements.js";
export { bounded } from "./frame/address.js";
export { Frame } from "./frame/frame.js";
export { Plot, ticks } from "./frame/plot.js";
export { Sheet, paintMatrix, COLOURS } from "./frame/sheet.js";
