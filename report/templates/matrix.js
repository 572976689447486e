// The class x unit matrix: its cells can be read, enlarged and followed, by mouse, touch and keys. A row is
// {name, file, units: {unit: frequency}}, a column {unit, name}.
"use strict";
(() => {
  const matrix = document.querySelector("[data-matrix]");
  const { rows, columns } = JSON.parse(document.getElementById("routes").textContent);
  const cells = matrix.querySelector("[data-cells]");
  const mark = cells.querySelector("i");
  const output = document.querySelector("[data-cell]");
  const LEGIBLE = 16;  // pixels of a cell whose row and column have a name beside it
  let cell = 0;
  let marked = null;  // {x, y}: the cell that is read
  let armed = false;  // whether the pointer went down on the cell that was read already

  function resize(pixels) {
    cell = Math.max(2, Math.min(80, pixels));
    matrix.style.setProperty("--cell", `${cell}px`);
    matrix.classList.toggle("nameless", cell < 10);
  }

  // The size at which all of it is in view.
  function fitting() {
    const names = cell < 10 ? 0 : cells.offsetLeft;
    return Math.floor(Math.min(0.7 * innerHeight / rows.length, (matrix.parentElement.clientWidth - 60 - names) / columns.length));
  }

  function at(event) {
    const box = cells.getBoundingClientRect();
    const x = Math.floor(((event.clientX - box.left) / box.width) * columns.length);
    const y = Math.floor(((event.clientY - box.top) / box.height) * rows.length);
    return rows[y] && columns[x] ? { x, y } : null;
  }

  const same = (one, other) => one && other && one.x === other.x && one.y === other.y;

  function read(found) {
    if (!found) return;
    marked = found;
    mark.hidden = false;
    mark.style.translate = `calc(${found.x} * var(--cell)) calc(${found.y} * var(--cell))`;
    const row = rows[found.y];
    const column = columns[found.x];
    const number = `unit ${column.unit}`;
    const often = row.units[column.unit] || 0;
    const unit = column.name === number ? number : `${column.name} (${number})`;
    output.textContent = `${row.name} · ${unit}: in ${(100 * often).toFixed(0)} % of its images`;
  }

  function follow() {
    if (marked) location.href = rows[marked.y].file;
  }

  cells.addEventListener("pointermove", (event) => {
    if (event.pointerType === "mouse") read(at(event));
  });
  cells.addEventListener("pointerdown", (event) => { armed = same(at(event), marked); });
  cells.addEventListener("click", (event) => {
    if (armed) follow();
    else read(at(event));
  });

  const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  cells.addEventListener("keydown", (event) => {
    if (event.key === "Enter") return follow();
    const step = STEPS[event.key];
    if (!step) return;
    event.preventDefault();
    const { x, y } = marked || { x: -step[0], y: -step[1] };
    read({
      x: Math.max(0, Math.min(columns.length - 1, x + step[0])),
      y: Math.max(0, Math.min(rows.length - 1, y + step[1])),
    });
    mark.scrollIntoView({ block: "nearest", inline: "nearest" });
  });
  cells.addEventListener("focus", () => { if (!marked) read({ x: 0, y: 0 }); });

  for (const button of document.querySelectorAll("[data-zoom-by]"))
    button.addEventListener("click", () => resize(cell * Number(button.dataset.zoomBy)));
  document.querySelector("[data-zoom-fit]").addEventListener("click", () => resize(fitting()));

  resize(LEGIBLE);
  resize(Math.max(LEGIBLE, Math.min(22, fitting())));
})();
