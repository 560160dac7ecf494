// The results as a table for a spreadsheet.

import { labelOf } from "./result.js";

const COLUMNS = [
  "name", "model", "label", "probability", "second", "second_probability", "set", "unlike", "unlikeness", "nearest", "error",
];

/** One cell: quoted where needed, and never a formula, whatever a file is called. */
export function cell(value) {
  if (value === null || value === undefined) return "";
  let text = String(value);
  if (typeof value === "string" && /^[=+\-@\t\r]/.test(text)) text = `'${text}`;
  return /[",\r\n;]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** The whole file, as text: UTF-8 with a byte order mark, as spreadsheets want it, and a row for each entry. */
export function csv(entries, reasonOf) {
  const rows = entries.map((entry) => {
    const { answer } = entry;
    if (!answer) return [entry.name, entry.model, ...Array(8).fill(null), entry.trouble ? reasonOf(entry.trouble) : null];
    const second = answer.top[1];
    return [
      entry.name, entry.model, answer.kind === "classes" ? answer.labels.join("; ") : labelOf(answer), answer.probability, second?.label, second?.probability,
      answer.set?.join("; "), answer.unlike, answer.unlikeness, answer.nearest.map((near) => near.name).join("; "), null,
    ];
  });
  return `\ufeff${[COLUMNS, ...rows].map((row) => row.map(cell).join(",")).join("\r\n")}\r\n`;
}
