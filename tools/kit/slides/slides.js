// Starts reveal.js and makes what a slide holds smaller where it would not fit.
"use strict";

Reveal.initialize({ hash: true, width: 1120, height: 700, margin: 0.05, center: false,
  slideNumber: "c/t", transition: "none" });

const SMALLEST = 45; // percent; below that nobody in the last row reads it

function fit(section) {
  const box = section && section.querySelector(".fit");
  if (!box) return;
  let size = 100;
  box.style.fontSize = "";
  while (size > SMALLEST && (box.scrollHeight > 670 || box.scrollWidth > 1122)) {
    size -= 5;
    box.style.fontSize = `${size}%`;
  }
}

const fitCurrent = () => fit(Reveal.getCurrentSlide());
Reveal.on("ready", fitCurrent);
Reveal.on("slidechanged", fitCurrent);

// Slides that are not shown have no size, so mathematics is fitted when its slide is reached.
window.MathJax = {
  svg: { fontCache: "global" },
  startup: { pageReady: () => MathJax.startup.defaultPageReady().then(fitCurrent) },
};
