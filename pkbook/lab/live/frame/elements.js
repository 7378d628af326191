/** Elements of a page, made in one line each. */

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "text") node.textContent = value;
    else if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

/** An HTML element: `element("p", { class: "pk-caption", text: "..." }, ...children)`. */
export function element(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** An SVG element. */
export function drawn(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

/** A number for a reader: rounded, with a true minus sign. */
export function number(value, digits = 2) {
  if (!Number.isFinite(value)) return "beyond every bound";
  const text = value.toFixed(digits);
  return (Number(text) === 0 ? text.replace("-", "") : text).replace("-", "\u2212");
}

/** The same with its sign. */
export function signed(value, digits = 2) {
  const text = number(value, digits);
  return value > 0 && Number(text) !== 0 ? `+${text}` : text;
}

/** A power of ten in a reader's notation: 3e-13 becomes 3 x 10^-13 in Unicode. */
export function small(value) {
  if (value === 0) return "0";
  const [digits, power] = value.toExponential(0).split("e");
  if (Math.abs(Number(power)) < 3) return value.toPrecision(2);
  const raised = [...String(Number(power))].map((c) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(c)]);
  return `${digits} × 10${raised.join("")}`;
}
