// Turns the pages of every flipbook above this script that has no script working yet.
(() => {
  for (const book of document.querySelectorAll(".pk-flipbook:not([data-ready])")) {
    book.dataset.ready = "";
    const inputs = [...book.querySelectorAll("input")];
    const frames = [...book.querySelectorAll("[data-frame]")];
    const caption = book.querySelector(".pk-caption");
    const turn = () => {
      let place = 0;
      for (const input of inputs) {
        const texts = JSON.parse(input.dataset.texts);
        place = place * texts.length + Number(input.value);
        const text = texts[input.value];
        input.setAttribute("aria-valuetext", text);
        input.parentElement.querySelector(".pk-value").textContent = text;
      }
      frames.forEach((frame, index) => { frame.hidden = index !== place; });
      const words = frames[place].querySelector("svg").getAttribute("aria-label");
      if (caption.textContent !== words) caption.textContent = words;
    };
    for (const input of inputs) input.addEventListener("input", turn);
    turn();
    book.querySelector(".pk-controls").hidden = false;
  }
})();
