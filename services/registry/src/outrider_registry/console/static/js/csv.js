// CSV as spreadsheets write it: commas, semicolons or tabs, quotes, a byte order mark; and back.

/** Rows of cells. The separator is the one that the first line has most of. Throws a sentence for a quote without end. */
export function parseCsv(text) {
  const source = text.replace(/^\uFEFF/, "");
  const first = source.slice(0, (source.search(/[\r\n]/) + 1 || source.length + 1) - 1);
  const separator = [",", ";", "\t"].reduce((best, one) => (first.split(one).length > first.split(best).length ? one : best));
  const rows = [];
  let row = [];
  let cell = "";
  let quoted = false;
  for (let i = 0; i < source.length; i++) {
    const c = source[i];
    if (quoted) {
      if (c !== '"') cell += c;
      else if (source[i + 1] === '"') cell += source[++i];
      else quoted = false;
    } else if (c === '"' && cell === "") quoted = true;
    else if (c === separator) {
      row.push(cell.trim());
      cell = "";
    } else if (c === "\n" || c === "\r") {
      if (c === "\r" && source[i + 1] === "\n") i++;
      row.push(cell.trim());
      if (row.some(Boolean)) rows.push(row);
      row = [];
      cell = "";
    } else cell += c;
  }
  if (quoted) throw new Error("A quoted cell has no end: a closing \" is missing.");
  row.push(cell.trim());
  if (row.some(Boolean)) rows.push(row);
  return rows;
}

const quote = (cell) => {
  const text = cell === null || cell === undefined ? "" : String(cell);
  // A cell that a spreadsheet would take for a formula is kept text; but a negative number, and a secret, stay what they are.
  const safe = /^[=+@\t\r-]/.test(text) && !/^(-\d+([.,]\d+)?|[\w-]{43})$/.test(text) ? `'${text}` : text;
  return /[",;\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
};

/** CSV with a line for the names of the columns. */
export const writeCsv = (columns, rows) => [columns, ...rows].map((row) => row.map(quote).join(",")).join("\r\n") + "\r\n";
