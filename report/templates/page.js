// A list that can be searched, filtered and sorted, whose pictures can be enlarged. All data stand in the items'
// data attributes: data-text is searched, [data-filter=x] selects by data-x, [data-sort] sorts by the attribute that
// its value names ('-score': descending), and a [data-zoom] picture is a strip of data-tiles equal squares.
"use strict";
(() => {
  const list = document.querySelector("[data-list]");
  if (!list) return;
  const items = [...list.children];
  const search = document.querySelector("[data-search]");
  const filters = [...document.querySelectorAll("[data-filter]")];
  const sort = document.querySelector("[data-sort]");
  const shown = document.querySelector("[data-shown]");

  function select() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const item of items) {
      const text = item.dataset.text.toLowerCase();
      const fits = words.every((word) => text.includes(word))
        && filters.every((filter) => !filter.value || item.dataset[filter.dataset.filter] === filter.value);
      item.hidden = !fits;
      count += fits;
    }
    shown.textContent = count === items.length ? `${count}` : `${count} of ${items.length}`;
  }

  function arrange() {
    const descending = sort.value.startsWith("-");
    const key = sort.value.replace(/^-/, "");
    const value = (item) => item.dataset[key];
    const numbers = items.every((item) => value(item) !== "" && !Number.isNaN(Number(value(item))));
    const order = numbers ? (a, b) => value(a) - value(b) : (a, b) => value(a).localeCompare(value(b));
    items.sort((a, b) => (descending ? -1 : 1) * order(a, b) || a.dataset.unit - b.dataset.unit);
    list.append(...items);
  }

  // A link to an item that is not selected shows it all the same.
  function reveal() {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target || !items.includes(target)) return;
    if (target.hidden) {
      search.value = "";
      for (const filter of filters) filter.value = "";
      select();
    }
    target.scrollIntoView();
  }

  const dialog = document.querySelector("[data-zoomed]");
  const picture = dialog.querySelector("[data-picture]");
  const caption = dialog.querySelector("[data-caption]");
  let place = null; // {strip, tile}

  const strips = () => items.filter((item) => !item.hidden).map((item) => item.querySelector("[data-zoom]"));

  function show(strip, tile) {
    place = { strip, tile };
    const tiles = Number(strip.dataset.tiles);
    picture.style.backgroundImage = `url("${strip.src}")`;
    picture.style.backgroundSize = `${100 * tiles}% 100%`;
    picture.style.backgroundPosition = `${tiles > 1 ? (100 * tile) / (tiles - 1) : 0}% 0`;
    picture.setAttribute("aria-label", strip.alt);
    caption.textContent = `${strip.dataset.zoom}, ${tile + 1} of ${tiles}`;
    if (!dialog.open) dialog.showModal();
  }

  function step(by) {
    const all = strips();
    let { strip, tile } = place;
    tile += by;
    if (tile < 0 || tile >= Number(strip.dataset.tiles)) {
      strip = all[all.indexOf(strip) + by];
      if (!strip) return;
      tile = by > 0 ? 0 : Number(strip.dataset.tiles) - 1;
    }
    show(strip, tile);
  }

  list.addEventListener("click", (event) => {
    const strip = event.target.closest("[data-zoom]");
    if (!strip) return;
    const box = strip.getBoundingClientRect();
    const tiles = Number(strip.dataset.tiles);
    show(strip, Math.min(tiles - 1, Math.max(0, Math.floor((tiles * (event.clientX - box.left)) / box.width))));
  });
  list.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && event.target.matches("[data-zoom]")) show(event.target, 0);
  });
  dialog.addEventListener("click", () => dialog.close());
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowRight" || event.key === "ArrowDown") step(1);
    else if (event.key === "ArrowLeft" || event.key === "ArrowUp") step(-1);
    else return;
    event.preventDefault();
  });

  // Hovering over a strip with data-hover shows that file in its place.
  list.addEventListener("pointerover", (event) => {
    const strip = event.target.closest("[data-hover]");
    if (!strip || strip.dataset.rest) return;
    strip.dataset.rest = strip.getAttribute("src");
    strip.src = strip.dataset.hover;
    strip.addEventListener("pointerleave", () => {
      strip.src = strip.dataset.rest;
      delete strip.dataset.rest;
    }, { once: true });
  });

  search.addEventListener("input", select);
  for (const filter of filters) filter.addEventListener("change", select);
  sort.addEventListener("change", arrange);
  window.addEventListener("hashchange", reveal);
  select();
  reveal();
})();
