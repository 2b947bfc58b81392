"use strict";
// Adds what needs a script: sorting by column headings and searching. Without it the page is whole.
(() => {
  const key = (cell) => {
    const raw = cell.dataset.sort ?? cell.textContent.trim();
    const number = raw === "" ? NaN : Number(raw);
    return Number.isNaN(number) ? raw.toLowerCase() : number;
  };
  const compare = (a, b) => {
    if (a === "" || b === "") return (a === "") - (b === ""); // what is unavailable stays last
    if (typeof a === typeof b && typeof a === "number") return a - b;
    return String(a).localeCompare(String(b), undefined, { numeric: true });
  };
  const sort = (table, heading, index) => {
    const up = heading.getAttribute("aria-sort") === "descending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", up ? "ascending" : "descending");
    const rows = [...table.tBodies[0].rows];
    const keyed = rows.map((row) => [key(row.cells[index]), row]);
    keyed.sort(([a], [b]) => (a === "" || b === "" || up ? compare(a, b) : compare(b, a)));
    table.tBodies[0].append(...keyed.map(([, row]) => row));
  };
  const search = (before, items, what) => {
    const box = document.createElement("div");
    const label = document.createElement("label");
    const input = document.createElement("input");
    const count = document.createElement("output");
    box.className = "search";
    const where = document.createElement("span");
    where.className = "sr";
    where.textContent = ` ${what}`;
    label.append("Search", where, " ", input);
    input.type = "search";
    count.setAttribute("aria-live", "polite");
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const item of items) {
        const text = item.textContent.toLowerCase();
        item.hidden = !words.every((word) => text.includes(word));
        shown += !item.hidden;
      }
      count.textContent = words.length ? `${shown} of ${items.length}` : "";
    });
    box.append(label, count);
    before.before(box);
  };
  for (const table of document.querySelectorAll("table[data-sortable]")) {
    [...table.tHead.rows[0].cells].forEach((heading, index) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      button.addEventListener("click", () => sort(table, heading, index));
      heading.append(button);
    });
    const rows = [...table.tBodies[0].rows];
    if (rows.length > 12) search(table.closest(".scroll"), rows, table.caption.textContent);
  }
  for (const list of document.querySelectorAll("[data-search]")) {
    search(list, [...list.children], list.dataset.search);
  }
})();
