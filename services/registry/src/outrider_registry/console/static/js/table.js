// A table that is read with the keyboard: arrows move, Enter opens, Home and End jump.
import { html, useRef } from "./core.js";
import { Icon } from "./icons.js";

/**
 * `columns`: {key, title, render(row), align: "end", width, sort: name, wide: true (hidden on phones), grow}.
 * `onOpen(row)` makes rows focusable. `sort` is "name" or "-name"; `onSort(next)` is told which one is wanted.
 */
export function Table({ columns, rows, rowKey = (row) => row.id, onOpen, sort, onSort, label, busy, selected }) {
  const body = useRef();
  const keys = (event) => {
    const focused = event.target.closest("tr");
    if (!focused || event.target !== focused) return;
    const step = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
    if (step || event.key === "Home" || event.key === "End") {
      event.preventDefault();
      const next = step ? focused[step] : event.key === "Home" ? body.current.firstElementChild : body.current.lastElementChild;
      if (!next) return;
      focused.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
      next.scrollIntoView({ block: "nearest" });
    } else if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      onOpen(rows[[...body.current.children].indexOf(focused)]);
    }
  };
  const open = (row, event) => {
    if (!onOpen || event.target.closest("a, button, input, select, label")) return;
    if (String(getSelection())) return; // text was being marked
    onOpen(row);
  };
  return html`
    <div class=${busy ? "table-box busy" : "table-box"}>
      <table class=${onOpen ? "table opens" : "table"} aria-label=${label} aria-busy=${busy ? "true" : undefined}>
        <thead><tr>${columns.map((column) => {
          const direction = column.sort && sort === column.sort ? "ascending" : column.sort && sort === `-${column.sort}` ? "descending" : undefined;
          return html`
            <th key=${column.key} scope="col" class=${classes(column)} style=${column.width ? { width: column.width } : undefined} aria-sort=${direction}>
              ${column.sort && onSort
                ? html`<button type="button" class="sort" onClick=${() => onSort(direction === "ascending" ? `-${column.sort}` : column.sort)}>
                    ${column.title}<span class="sort-mark" aria-hidden="true">${direction === "ascending" ? "↑" : direction === "descending" ? "↓" : ""}</span></button>`
                : column.title}
            </th>`;
        })}</tr></thead>
        <tbody ref=${body} onKeyDown=${onOpen && keys}>
          ${rows.map((row, i) => html`
            <tr key=${rowKey(row)} tabindex=${onOpen ? (i === 0 ? 0 : -1) : undefined} onClick=${(event) => open(row, event)}
              aria-selected=${selected && selected(row) ? "true" : undefined}>
              ${columns.map((column) => html`<td key=${column.key} class=${classes(column)}>${column.render ? column.render(row) : row[column.key]}</td>`)}
            </tr>`)}
        </tbody>
      </table>
    </div>`;
}

const classes = (column) => [column.align === "end" ? "end" : "", column.wide ? "wide-only" : "", column.grow ? "grow" : "", column.class ?? ""].join(" ").trim() || undefined;

/** "Load more" below a list that has a next page. */
export const More = ({ next, onMore, busy }) => next && html`
  <div class="more"><button type="button" class="button" disabled=${busy} onClick=${onMore}><${Icon} name="down" /><span>More</span></button></div>`;
