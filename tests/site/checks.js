// Checks that run inside an open page. Each returns a list of sentences; empty means good.
window.pkChecks = {
  images() {
    return [...document.images]
      .filter((image) => !(image.complete && image.naturalWidth > 0))
      .map((image) => `broken image: ${image.getAttribute("src")}`);
  },

  alternatives() {
    // Formulas have their own hidden MathML; an icon hidden from readers needs no words, and one
    // in a button is named by the button (whose name axe checks).
    const hidden = (node) => node.closest('[aria-hidden="true"], mjx-container, button');
    const bare = [];
    for (const image of document.images) {
      if (!hidden(image) && !(image.getAttribute("alt") || "").trim())
        bare.push(`image without alt text: ${image.getAttribute("src")}`);
    }
    for (const svg of document.querySelectorAll("svg")) {
      if (hidden(svg) || svg.closest('svg[role="img"] svg')) continue;
      if (svg.getAttribute("role") !== "img") bare.push("svg that is neither role=img nor hidden");
      else if (!(svg.getAttribute("aria-label") || "").trim() && !svg.querySelector(":scope > title"))
        bare.push("svg[role=img] without a label");
    }
    return bare;
  },

  overflow() {
    const wide = document.scrollingElement.scrollWidth;
    if (wide <= window.innerWidth) return [];
    const inScroller = (node) => {
      for (let up = node.parentElement; up && up !== document.body; up = up.parentElement) {
        if (getComputedStyle(up).overflowX !== "visible") return true;
      }
      return false;
    };
    const guilty = [...document.body.querySelectorAll("*")]
      .filter((node) => node.getBoundingClientRect().right > window.innerWidth + 1)
      .filter((node) => !inScroller(node))
      .slice(0, 5)
      .map((node) => `${node.tagName.toLowerCase()}.${node.getAttribute("class") || ""}`);
    return [`page is ${wide} px wide in a window of ${window.innerWidth}: ${guilty.join(", ")}`];
  },

  mathematics() {
    const found = [];
    const skip = "code, pre, script, style, textarea, mjx-container, svg, .tex2jax_ignore";
    const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walk.nextNode()) {
      const text = walk.currentNode.nodeValue;
      if (walk.currentNode.parentElement.closest(skip)) continue;
      if (/\$|\\\(|\\\[|\\begin\{/.test(text)) found.push(`raw mathematics: ${text.trim().slice(0, 80)}`);
    }
    for (const node of document.querySelectorAll("mjx-merror, [data-mjx-error], merror"))
      found.push(`mathematics in error: ${node.getAttribute("data-mjx-error") || node.textContent}`);
    // An undefined macro is no error to MathJax: it sets the bare name in red.
    for (const node of document.querySelectorAll('mjx-container [fill="red"], mjx-container [mathcolor="red"]'))
      found.push(`undefined macro in red: ${node.textContent}`);
    for (const node of document.querySelectorAll(".math")) {
      if (!node.querySelector("mjx-container"))
        found.push(`not rendered: ${node.textContent.trim().slice(0, 80)}`);
    }
    return found;
  },

  missingAnchors() {
    // Links within this page must have a target in it.
    return [...document.querySelectorAll('a[href^="#"]')]
      .map((link) => decodeURIComponent(link.getAttribute("href").slice(1)))
      .filter((id) => id && id !== "top" && !document.getElementById(id))
      .map((id) => `link to a missing anchor: #${id}`);
  },
};
