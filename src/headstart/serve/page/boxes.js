// Results that are boxes: drawn over the picture, with a slider for the lowest confidence, counts by class, and files of them.

import { cell } from "./csv.js";
import { bar, el } from "./elements.js";
import { save } from "./files.js";
import { button, drawnSize, layer, numberOf, stemOf } from "./pixels.js";

const NAMED = 3; // classes in the text of a result
const LISTED = 12; // boxes in the details
const STEP = 0.01; // of the slider
const [LOWEST, HIGHEST] = [0.05, 0.95]; // of the slider
const ROUNDED = 0.00005; // confidence comes with four decimals
const LONGEST_NAME = 24; // letters of a class beside a box

const isBox = (one) => Array.isArray(one?.box) && one.box.length === 4 && [...one.box, one.confidence].every(Number.isFinite);
const boxesOf = (list) => (Array.isArray(list) ? list.filter(isBox).map((one) => ({ ...one, label: String(one.label) })) : []);
/** Everything that was found, also with a lower confidence than the model's threshold; the most confident first. */
const found = ({ boxes, unsure }) => [...boxesOf(boxes), ...boxesOf(unsure)];
/** What is remembered of an entry between two drawings: the lowest confidence that is shown, at first the model's threshold. */
const stateOf = (entry) => (entry.layer ??= { least: numberOf(entry.answer.values.threshold) || LOWEST });
const shownOf = (entry) => found(entry.answer.values).filter(({ confidence }) => confidence >= stateOf(entry).least - ROUNDED);
const colourOf = ({ colours }, label) => (/^#[0-9a-f]{6}$/.test(colours?.[label]) ? colours[label] : "#808080");

/** How many there are of each class, the most frequent first. */
function counted(boxes) {
  const counts = new Map();
  for (const { label } of boxes) counts.set(label, (counts.get(label) ?? 0) + 1);
  return [...counts].sort((one, other) => other[1] - one[1]);
}

export function boxText({ values }, words) {
  const counts = counted(boxesOf(values.boxes));
  if (!counts.length) return words?.nothingFound ?? "nothing found";
  return counts.slice(0, NAMED).map(([label, count]) => `${count} ${label}`).join(", ") + (counts.length > NAMED ? ", …" : "");
}

/** Draw the boxes over the picture in a frame; below it, the slider. */
export function boxLayer(entry, { words }, frame) {
  const state = stateOf(entry);
  entry.canvas = layer(frame, drawnSize(entry.answer.values, { enlarge: true })); // lines and letters are as sharp on a small picture
  entry.canvas.classList.add("lines");
  paintBoxes(entry);
  const value = el("output", { class: "figure", text: words.percent(state.least) });
  const input = el("input", {
    type: "range", min: String(100 * LOWEST), max: String(100 * HIGHEST), step: String(100 * STEP), value: String(Math.round(state.least * 100)), "data-act": "confidence",
    oninput: () => {
      state.least = Number(input.value) / 100;
      value.textContent = words.percent(state.least);
      paintBoxes(entry);
      entry.listed?.replaceChildren(...listing(entry, words));
    },
  });
  return [el("label", { class: "slider" }, el("span", { text: words.leastConfidence }), input, value)];
}

function paintBoxes(entry) {
  const { canvas, answer: { values } } = entry;
  const context = canvas.getContext("2d");
  const scale = canvas.width / Math.max(1, numberOf(values.width));
  const line = Math.max(2, Math.max(canvas.width, canvas.height) / 200);
  const letters = Math.round(Math.max(canvas.width, canvas.height) / 28);
  context.clearRect(0, 0, canvas.width, canvas.height);
  Object.assign(context, { lineWidth: line, font: `${letters}px sans-serif`, textBaseline: "top" });
  for (const { label, confidence, box } of shownOf(entry).toReversed()) {
    const [left, top, right, bottom] = box.map((side) => numberOf(side) * scale);
    const colour = colourOf(values, label);
    Object.assign(context, { strokeStyle: colour, fillStyle: colour });
    context.strokeRect(left + line / 2, top + line / 2, Math.max(1, right - left - line), Math.max(1, bottom - top - line));
    const name = label.length > LONGEST_NAME ? `${label.slice(0, LONGEST_NAME - 1)}…` : label;
    const text = `${name} ${Math.round(confidence * 100)} %`;
    const [wide, high] = [context.measureText(text).width + 2 * line, letters + 2 * line];
    const [x, y] = [Math.max(0, Math.min(left, canvas.width - wide)), Math.max(0, top >= high ? top - high : top)]; // inside the picture
    context.fillRect(x, y, wide, high);
    context.fillStyle = light(colour) ? "#000" : "#fff";
    context.fillText(text, x + line, y + line, canvas.width - 2 * line);
  }
  canvas.dataset.painted = String((Number(canvas.dataset.painted) || 0) + 1);
}

/** Whether black is easier to read on a colour than white. */
function light(colour) {
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  return 0.299 * red + 0.587 * green + 0.114 * blue > 140;
}

export function boxDetails(entry, { words }) {
  entry.listed = el("div", { class: "listed" }, ...listing(entry, words));
  return [
    entry.answer.unlike && el("p", { class: "serious", text: words.unlikeLong }),
    entry.listed,
    entry.shrunk && el("p", { class: "remark", text: words.shrunk(entry.shrunk) }),
    el("p", { class: "downloads" },
      button(words.downloadCoco, "coco", () => save(fileOf(JSON.stringify(cocoOf(entry)), "application/json"), `${stemOf(entry.name)}.json`)),
      button(words.downloadBoxes, "boxes", () => save(fileOf(csvOf(entry), "text/csv"), `${stemOf(entry.name)}.csv`))),
  ].filter(Boolean);
}

const tenth = (pixels) => Math.round(10 * pixels) / 10;
const fileOf = (text, type) => new Blob([text], { type });

function listing(entry, words) {
  const { values } = entry.answer;
  const shown = shownOf(entry);
  const counts = counted(shown);
  const line = ({ label, confidence }) => {
    const swatch = el("i", { class: "swatch", "aria-hidden": "true" });
    swatch.style.background = colourOf(values, label);
    return el("tr", { class: confidence >= numberOf(values.threshold) ? "in" : "out" },
      el("th", { scope: "row" }, swatch, el("span", { text: label })),
      el("td", {}, bar(confidence)),
      el("td", { class: "figure", text: words.percent(confidence) }));
  };
  return [
    el("h2", { text: counts.length ? counts.map(([label, count]) => `${count} ${label}`).join(", ") : words.nothingFound }),
    shown.length > 0 && el("table", { class: "bars areas" },
      el("caption", { class: "unseen", text: words.confidence }), el("tbody", {}, ...shown.slice(0, LISTED).map(line))),
    shown.length > LISTED && el("p", { class: "quiet", text: words.rest(shown.length - LISTED) }),
  ].filter(Boolean);
}

/** The boxes that are shown, in pixels of the file, also where a smaller picture was sent. */
function inFile(entry) {
  const [across, down] = entry.shrunk ? entry.enlarge : [1, 1];
  const enlarged = ([left, top, right, bottom]) => [left * across, top * down, right * across, bottom * down].map(tenth);
  return shownOf(entry).map((one) => (entry.shrunk ? { ...one, box: enlarged(one.box) } : one));
}

/** COCO's list of results for the boxes that are shown. */
export function cocoOf(entry) {
  return inFile(entry).map(({ label, confidence, box: [left, top, right, bottom] }) => ({
    image_id: entry.name, category_id: entry.answer.values.ids?.[label] ?? null, category_name: label,
    bbox: [left, top, tenth(right - left), tenth(bottom - top)], score: confidence,
  }));
}

/** The boxes that are shown as a table. */
export function csvOf(entry) {
  const rows = inFile(entry).map(({ label, confidence, box }) => [entry.name, label, confidence, ...box]);
  const lines = [["name", "label", "confidence", "left", "top", "right", "bottom"], ...rows];
  return `\ufeff${lines.map((row) => row.map(cell).join(",")).join("\r\n")}\r\n`;
}
