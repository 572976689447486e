// The class x unit matrix: its cells can be read, enlarged and followed. A row is {name, file, units: {unit: frequency}}.
"use strict";
(() => {
  const matrix = document.querySelector("[data-matrix]");
  const { rows, columns } = JSON.parse(document.getElementById("routes").textContent);
  const image = matrix.querySelector("img");
  const output = document.querySelector("[data-cell]");
  const room = matrix.parentElement.clientWidth - matrix.querySelector("ol").offsetWidth - 50; // of main's padding
  let cell = Math.max(4, Math.min(22, Math.floor(560 / rows.length), Math.floor(room / columns.length)));
  const size = () => matrix.style.setProperty("--cell", `${cell}px`);

  function at(event) {
    const box = image.getBoundingClientRect();
    const row = rows[Math.floor(((event.clientY - box.top) / box.height) * rows.length)];
    const column = columns[Math.floor(((event.clientX - box.left) / box.width) * columns.length)];
    return row && column && { row, column };
  }

  image.addEventListener("pointermove", (event) => {
    const found = at(event);
    if (!found) return;
    const { row, column } = found;
    const often = row.units[column.unit] || 0;
    output.textContent = `${row.name} · unit ${column.unit}, ${column.name}: in ${(100 * often).toFixed(0)} % of its images`;
  });
  image.addEventListener("click", (event) => {
    const found = at(event);
    if (found) location.href = found.row.file;
  });
  for (const button of document.querySelectorAll("[data-zoom-by]")) {
    button.addEventListener("click", () => {
      cell = Math.max(3, Math.min(80, cell * Number(button.dataset.zoomBy)));
      size();
    });
  }
  size();
})();
