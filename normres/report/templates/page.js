"use strict";
// Tables: a click on a title sorts by that column, numbers as numbers; a second click turns the order.
for (const table of document.querySelectorAll("table.sortable")) {
  const titles = [...table.tHead.rows[0].cells];
  titles.forEach((title, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...title.childNodes);
    title.append(button);
    button.addEventListener("click", () => {
      const down = title.getAttribute("aria-sort") === "ascending";
      titles.forEach((other) => other.removeAttribute("aria-sort"));
      title.setAttribute("aria-sort", down ? "descending" : "ascending");
      const body = table.tBodies[0];
      const key = (row) => {
        const text = row.cells[column].textContent.trim();
        const number = parseFloat(text.replaceAll(",", "").replace("−", "-").match(/[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?/i)?.[0]);
        return [Number.isNaN(number) ? Infinity : number, text];
      };
      const rows = [...body.rows].map((row) => [key(row), row]);
      rows.sort(([a], [b]) => a[0] - b[0] || a[1].localeCompare(b[1]));
      if (down) rows.reverse();
      body.append(...rows.map(([, row]) => row));
    });
  });
}

for (const box of document.querySelectorAll("details.copy")) {
  const button = box.querySelector("button");
  button.addEventListener("click", async () => {
    const text = box.querySelector("pre");
    try {
      await navigator.clipboard.writeText(text.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(text); // a page from a file may not write to the clipboard
      button.textContent = "Selected: press Ctrl-C";
    }
  });
}

// A link to a run opens its details.
const open = () => {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target && target.matches("details")) target.open = true;
};
addEventListener("hashchange", open);
open();

const dark = matchMedia("(prefers-color-scheme: dark)");
const colours = () => {
  const style = getComputedStyle(document.documentElement);
  return { text: style.getPropertyValue("--text").trim(), line: style.getPropertyValue("--line").trim() };
};

// The figures.  The boxes below each one hide lines and change axes with the keyboard, too.
for (const element of document.querySelectorAll("figure .chart")) {
  const { data, layout } = JSON.parse(element.dataset.figure);
  const axes = Object.keys(layout).filter((name) => /^[xy]axis/.test(name));
  const ranges = Object.fromEntries(axes.map((name) => [name, layout[name].range?.slice()]));
  const paint = () => {
    const { text, line } = colours();
    layout.font = { ...layout.font, color: text };
    const around = { linecolor: line, zerolinecolor: line, tickcolor: line, gridcolor: line };
    for (const name of axes) Object.assign(layout[name], around);
    for (const trace of data) {
      const color = trace.meta[dark.matches ? 1 : 0];
      for (const part of [trace.line, trace.marker, trace.error_y, trace.error_x]) if (part) part.color = color;
    }
    return Plotly.react(element, data, layout, { responsive: true, displaylogo: false });
  };
  paint();
  dark.addEventListener("change", paint);
  const figure = element.closest("figure");
  const boxes = [...figure.querySelectorAll(".lines input")];
  const follow = () => {
    const shown = boxes.filter((box) => box.checked).map((box) => box.value);
    for (const trace of data) trace.visible = shown.includes(trace.legendgroup) || "legendonly";
    paint();
  };
  for (const box of boxes) box.addEventListener("change", follow);
  element.on("plotly_restyle", () => {
    const hidden = new Set(data.filter((trace) => trace.visible === "legendonly").map((trace) => trace.legendgroup));
    for (const box of boxes) box.checked = !hidden.has(box.value);
  });
  for (const box of figure.querySelectorAll(".axes input")) {
    box.addEventListener("change", () => {
      for (const name of axes.filter((axis) => axis.startsWith(box.value))) {
        const range = box.checked ? undefined : ranges[name];
        Object.assign(layout[name], { type: box.checked ? "log" : "linear", autorange: !range, range });
      }
      paint();
    });
  }
}
