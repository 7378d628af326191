/**
 * The state of an explorer in the page's address, so that a link shows what its sender saw:
 * `#playground?lr=0.1&optimizer=adam`. Nothing is written before the reader has moved something,
 * and nothing at all in JupyterLab, whose address is not the notebook's.
 */

const inLab = () => document.body.hasAttribute("data-jp-theme-name");

/** What the address says of the explorer `name`: texts by key, none where it says nothing. */
export function readAddress(name) {
  const [whose, text] = location.hash.slice(1).split("?");
  return whose === name && text ? Object.fromEntries(new URLSearchParams(text)) : {};
}

/** Whether the address is about this explorer. */
export function isAddressed(name) {
  return location.hash.slice(1).split("?")[0] === name;
}

/** A part of an explorer's state: the number `owner[key]`, taken from an address within ±`most`. */
export function bounded(owner, key, most) {
  return {
    read: (text) => {
      if (text && Math.abs(Number(text)) <= most) owner[key] = Number(text);
    },
    write: () => String(owner[key]),
  };
}

/** Put `values`, an object of texts, into the address, without a step in the history. */
export function writeAddress(name, values) {
  if (inLab()) return;
  try {
    history.replaceState(history.state, "", `#${name}?${new URLSearchParams(values)}`);
  } catch {
    // A browser may refuse (pages in a frame, too many changes); the explorer works without.
  }
}
