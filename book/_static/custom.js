// What the theme leaves to be mended in the page itself, for readers who use a screen reader or
// the keyboard, and for pages opened from a folder.
"use strict";

// A page opened from a folder may not fetch others, so the search shows titles without excerpts.
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;

const scrolling =
  ".cell_output .text_html, .cell_output > .output, .pk-scroll, pre, " +
  ".pst-scrollable-table-container, div.math mjx-container";
const followed = new WeakSet();

function fade(box) {
  const more = box.scrollLeft + box.clientWidth < box.scrollWidth - 2;
  box.classList.toggle("pk-more", more);
}

function near(box) {
  return !box.checkVisibility || box.checkVisibility({ contentVisibilityAuto: true });
}

const mendings = {
  // These buttons show their own words; another label would hide them from a screen reader.
  labels() {
    for (const summary of document.querySelectorAll("details > summary[aria-label]")) {
      summary.removeAttribute("aria-label");
    }
  },

  // Citations carry a role that was withdrawn from the standard, within a list of no items.
  citations() {
    for (const entry of document.querySelectorAll('[role="doc-biblioentry"]')) {
      entry.setAttribute("role", entry.closest('[role="list"]') ? "listitem" : "note");
    }
  },

  // What scrolls sideways must be reachable without a mouse, and must look as if it went on.
  // To ask a box for its width lays its section out, so those far away wait until they come near.
  scrollers() {
    for (const box of document.querySelectorAll(scrolling)) {
      if (!near(box)) continue;
      const wide = box.scrollWidth > box.clientWidth + 1;
      if (wide && !box.hasAttribute("tabindex")) box.tabIndex = 0;
      if (!wide && box.matches(".pk-scroll")) box.removeAttribute("tabindex"); // nothing to scroll
      if (wide && !followed.has(box)) {
        followed.add(box);
        box.addEventListener("scroll", () => fade(box), { passive: true });
      }
      fade(box);
    }
  },
};

const mend = () => Object.values(mendings).forEach((mending) => mending());
document.addEventListener("DOMContentLoaded", () => {
  mend();
  // Formulas and tables have their width only after MathJax, and another after a turn of the phone.
  const drawn = window.MathJax && MathJax.startup && MathJax.startup.promise;
  if (drawn) drawn.then(mendings.scrollers);
  window.addEventListener("load", mendings.scrollers);
  window.addEventListener("resize", mendings.scrollers);
  document.addEventListener("contentvisibilityautostatechange", mendings.scrollers);
});
