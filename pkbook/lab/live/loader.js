// The modules of the explorers, also on a page opened from a folder, where browsers refuse import.
// Every explorer brings this; only the first of a version counts.
(() => {
  const all = (window.pkLive ??= {});
  if (all[VERSION]) return;
  const makers = {}, made = {};
  const need = (name) => {
    if (!made[name]) makers[name]((made[name] = {}), need);
    return made[name];
  };
  const define = (name, maker) => { makers[name] ??= maker; };
  // Every explorer above the running script that stands there still.
  const start = () => {
    const waiting = `.pk-live[data-version="${VERSION}"]:not(.pk-ready)`;
    for (const root of document.querySelectorAll(waiting)) {
      if (!makers[`${root.dataset.explorer}.js`]) continue;
      const still = root.firstElementChild, { explorer, settings } = root.dataset;
      try {
        const data = makers[`${explorer}.data`] ? need(`${explorer}.data`) : {};
        need(`${explorer}.js`).start(root, JSON.parse(settings), data);
      } catch (error) {
        root.replaceChildren(still); // the picture is better than nothing
        root.classList.add("pk-ready");
        console.error(error);
      }
    }
  };
  const style = document.createElement("style");
  style.textContent = STYLE;
  document.head.append(style);
  all[VERSION] = { define, need, start };
})();
