// A list that can be searched, filtered and sorted, and whose images can be enlarged. All data are in the items'
// data attributes: data-text is searched, [data-filter=x] selects by data-x, [data-sort] sorts by the attribute that
// its value names ('-score': descending). Equal items keep the order of the file. A page may have several lists, one of
// them folded in a details[data-fold]: all are searched and filtered as one, and each is sorted in itself.
"use strict";
(() => {
  const lists = [...document.querySelectorAll("[data-list]")];
  if (!lists.length) return;
  const items = lists.flatMap((list) => [...list.children]);
  const folds = [...document.querySelectorAll("details[data-fold]")];
  const placeOf = new Map(items.map((item, place) => [item, place]));
  const search = document.querySelector("[data-search]");
  const filters = [...document.querySelectorAll("[data-filter]")];
  const sort = document.querySelector("[data-sort]");
  const shown = document.querySelector("[data-shown]");

  function select() {
    const words = search.value.toLowerCase().split(/[\s_]+/).filter(Boolean);
    let count = 0;
    for (const item of items) {
      const text = item.dataset.text.toLowerCase();
      const fits = words.every((word) => text.includes(word))
        && filters.every((filter) => !filter.value || item.dataset[filter.dataset.filter] === filter.value);
      item.hidden = !fits;
      count += fits;
    }
    // A folded part opens where it has what is asked for, and goes where it has nothing.
    const asked = words.length > 0 || filters.some((filter) => filter.value);
    for (const fold of folds) {
      fold.hidden = !fold.querySelector("[data-list] > :not([hidden])");
      fold.open = asked && !fold.hidden;
    }
    shown.textContent = count === items.length ? `${count}` : `${count} of ${items.length}`;
  }

  function arrange() {
    const descending = sort.value.startsWith("-");
    const key = sort.value.replace(/^-/, "");
    const value = (item) => item.dataset[key] || "";
    const numbers = items.every((item) => !Number.isNaN(Number(value(item))));
    const order = numbers ? (a, b) => value(a) - value(b) : (a, b) => value(a).localeCompare(value(b));
    items.sort((a, b) => (descending ? -1 : 1) * order(a, b) || placeOf.get(a) - placeOf.get(b));
    for (const list of lists) list.append(...items.filter((item) => item.parentElement === list));
  }

  // A link to an item that is filtered out shows it nevertheless. What follows a ? is for head.js.
  function reveal() {
    const target = location.hash && document.getElementById(location.hash.slice(1).split("?")[0]);
    if (!target || !items.includes(target)) return;
    if (target.hidden) {
      search.value = "";
      for (const filter of filters) filter.value = "";
      select();
    }
    const fold = target.closest("details[data-fold]");
    if (fold) fold.open = true;
    target.scrollIntoView();
    // Items above it that are laid out only now have other heights than were expected.
    requestAnimationFrame(() => requestAnimationFrame(() => target.scrollIntoView()));
  }

  // Enlarging: a [data-zoom] image shows one tile of a file of data-tiles tiles, data-tile; without it, all of them.
  // Its caption is data-zoom, or where that is empty its alt, and data-by; data-tiles and data-by may stand at what the
  // image is in.
  const dialog = document.querySelector("[data-zoomed]");
  let frames = [];
  let place = 0;

  const tilesOf = (image) => Number(image.closest("[data-tiles]").dataset.tiles);

  const framesOf = (image) => {
    const tiles = tilesOf(image);
    const one = image.dataset.tile !== undefined;
    const numbers = one ? [Number(image.dataset.tile)] : [...Array(tiles).keys()];
    const by = image.closest("[data-by]");
    const name = (image.dataset.zoom || image.alt) + (by ? ` (${by.dataset.by})` : "");
    return numbers.map((tile) => ({ image, tile, tiles, caption: name + (one ? "" : `, ${tile + 1} of ${tiles}`) }));
  };

  function show(number) {
    const frame = frames[number];
    if (!frame) return;
    place = number;
    const { style } = dialog.querySelector("[data-image]");
    style.backgroundImage = `url("${frame.image.src}")`;
    style.backgroundSize = `${100 * frame.tiles}% 100%`;
    style.backgroundPosition = `${frame.tiles > 1 ? (100 * frame.tile) / (frame.tiles - 1) : 0}% 0`;
    dialog.querySelector("[data-image]").setAttribute("aria-label", frame.image.alt);
    dialog.querySelector("[data-caption]").textContent = frame.caption;
    if (!dialog.open) dialog.showModal();
  }

  function open(image, tile) {
    frames = items.filter((item) => !item.hidden)
      .flatMap((item) => [...item.querySelectorAll("[data-zoom]")].flatMap(framesOf));
    show(frames.findIndex((frame) => frame.image === image && (tile === undefined || frame.tile === tile)));
  }

  if (dialog) {
    for (const image of document.querySelectorAll("[data-zoom]")) {
      image.tabIndex = 0;
      image.setAttribute("role", "button");
    }
    document.addEventListener("click", (event) => {
      const image = event.target.closest("[data-zoom]");
      if (!image) return;
      const box = image.getBoundingClientRect();
      const tiles = tilesOf(image);
      const tile = Math.min(tiles - 1, Math.max(0, Math.floor((tiles * (event.clientX - box.left)) / box.width)));
      open(image, image.dataset.tile === undefined ? tile : undefined);
    });
    document.addEventListener("keydown", (event) => {
      if (!["Enter", " "].includes(event.key) || !event.target.matches("[data-zoom]")) return;
      event.preventDefault();
      open(event.target);
    });
    dialog.addEventListener("click", () => dialog.close());
    dialog.addEventListener("keydown", (event) => {
      if (event.key === "ArrowRight" || event.key === "ArrowDown") show(place + 1);
      else if (event.key === "ArrowLeft" || event.key === "ArrowUp") show(place - 1);
      else return;
      event.preventDefault();
    });
  }

  // A strip with data-hover shows that file in its place while the pointer or the focus is on it.
  for (const [enter, leave] of [["pointerover", "pointerleave"], ["focusin", "focusout"]]) {
    document.addEventListener(enter, (event) => {
      const strip = event.target.closest("[data-hover]");
      if (!strip || strip.dataset.rest) return;
      strip.dataset.rest = strip.getAttribute("src");
      strip.src = strip.dataset.hover;
      strip.addEventListener(leave, () => {
        strip.src = strip.dataset.rest;
        delete strip.dataset.rest;
      }, { once: true });
    });
  }

  // On paper, all images are in view.
  window.addEventListener("beforeprint", () => {
    for (const image of document.images) image.loading = "eager";
  });

  const noun = document.querySelector("[data-one]");
  if (items.length === 1) noun.textContent = noun.dataset.one;
  search.addEventListener("input", select);
  for (const filter of filters) filter.addEventListener("change", select);
  sort.addEventListener("change", arrange);
  window.addEventListener("hashchange", reveal);
  select();
  reveal();
})();
