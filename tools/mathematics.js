// Draw formulas with MathJax, without a browser: node tools/mathematics.js FOLDER_OF_MATHJAX
//
// Standard input: a JSON list of [TeX, whether it is displayed]. Standard output: {"html": [...],
// "css": "..."} with one mjx-container for each formula and the rules that they all share.
// MathML for screen readers stands in each container beside what is seen.
"use strict";

const path = require("path");
const mathjax = require(path.join(path.resolve(process.argv[2]), "node-main.js"));

// The size of the text around a formula, as the theme's fonts have it: letters half an em high.
const AROUND = { em: 16, ex: 8, containerWidth: 1280 };

// What every container would repeat stands once in the style sheet of mathematics.py instead.
const spare = [
  [' class="MathJax" jax="CHTML"', ' jax="CHTML"'],
  [' style="position: relative;"', ""],
  [' class=" MJX-TEX"', ""],
  [' xmlns="http://www.w3.org/1998/Math/MathML"', ""],
  [/ style="font-size: [\d.]+%; position: relative;"/, ""],
];

async function main() {
  const formulas = JSON.parse(require("fs").readFileSync(0, "utf8"));
  const load = ["input/tex", "output/chtml", "a11y/assistive-mml"];
  const engine = await mathjax.init({ loader: { load } });
  const { adaptor } = engine.startup;
  const html = [];
  for (const [tex, display] of formulas) {
    const node = await engine.tex2chtmlPromise(tex, { display, ...AROUND });
    html.push(spare.reduce((text, [old, now]) => text.replace(old, now), adaptor.outerHTML(node)));
  }
  process.stdout.write(JSON.stringify({ html, css: adaptor.textContent(engine.chtmlStylesheet()) }));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
