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
/** Everything that was found, also with a lower confidence than the model's threshold, with its number for the server; the most confident first. */
const found = ({ boxes, unsure }) => boxesOf([boxes, unsure].flatMap((list) => (Array.isArray(list) ? list : [])).map((one, number) => ({ ...one, number })));
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

/** Draw the boxes over the picture in a frame, and below them the heat map of the one that was chosen; below the frame, the slider. */
export function boxLayer(entry, context, frame) {
  const { words } = context;
  const state = stateOf(entry);
  if (entry.chosen !== null && entry.heat) frame.append(heatLayer(entry, words));
  entry.canvas = layer(frame, drawnSize(entry.answer.values, { enlarge: true })); // lines and letters are as sharp on a small picture
  entry.canvas.classList.add("lines");
  frame.onclick = (event) => {
    const hit = boxAt(entry, event);
    if (hit !== null) context.explain(entry, hit);
  };
  paintBoxes(entry);
  const value = el("output", { class: "figure", text: words.percent(state.least) });
  const input = el("input", {
    type: "range", min: String(100 * LOWEST), max: String(100 * HIGHEST), step: String(100 * STEP), value: String(Math.round(state.least * 100)), "data-act": "confidence",
    oninput: () => {
      state.least = Number(input.value) / 100;
      value.textContent = words.percent(state.least);
      paintBoxes(entry);
      entry.listed?.replaceChildren(...listing(entry, context));
    },
  });
  return [el("label", { class: "slider" }, el("span", { text: words.leastConfidence }), input, value)];
}

/** The heat map, a square of the whole picture, with the sides of the picture. */
function heatLayer(entry, words) {
  const canvas = el("canvas", { class: "layer warm", role: "img", "aria-label": words.altHeat(entry.name) });
  [canvas.width, canvas.height] = drawnSize(entry.answer.values, { enlarge: true });
  const picture = new Image();
  picture.onload = () => {
    canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
    canvas.dataset.painted = "1";
  };
  picture.src = entry.heat;
  return canvas;
}

/** The number of the smallest box that is shown where the pointer is; null where there is none. */
function boxAt(entry, { clientX, clientY }) {
  const { values } = entry.answer;
  const frame = entry.canvas.getBoundingClientRect();
  const scale = Math.min(frame.width / Math.max(1, numberOf(values.width)), frame.height / Math.max(1, numberOf(values.height))); // as object-fit: contain
  const x = (clientX - frame.left - (frame.width - numberOf(values.width) * scale) / 2) / scale;
  const y = (clientY - frame.top - (frame.height - numberOf(values.height) * scale) / 2) / scale;
  const inside = shownOf(entry).filter(({ box: [left, top, right, bottom] }) => x >= left && x <= right && y >= top && y <= bottom);
  const area = ({ box: [left, top, right, bottom] }) => (right - left) * (bottom - top);
  return inside.sort((one, other) => area(one) - area(other))[0]?.number ?? null;
}

function paintBoxes(entry) {
  const { canvas, answer: { values } } = entry;
  const context = canvas.getContext("2d");
  const scale = canvas.width / Math.max(1, numberOf(values.width));
  const line = Math.max(2, Math.max(canvas.width, canvas.height) / 200);
  const letters = Math.round(Math.max(canvas.width, canvas.height) / 28);
  context.clearRect(0, 0, canvas.width, canvas.height);
  Object.assign(context, { lineWidth: line, font: `${letters}px sans-serif`, textBaseline: "top" });
  for (const { label, confidence, box, number } of shownOf(entry).toReversed()) {
    if (entry.chosen !== null && entry.heat && number !== entry.chosen) continue; // the heat map is of one
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

export function boxDetails(entry, context) {
  const { words } = context;
  entry.listed = el("div", { class: "listed" }, ...listing(entry, context));
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

function listing(entry, context) {
  const { words } = context;
  const { values } = entry.answer;
  const shown = shownOf(entry);
  const counts = counted(shown);
  const line = ({ label, confidence, number }) => {
    const swatch = el("i", { class: "swatch", "aria-hidden": "true" });
    swatch.style.background = colourOf(values, label);
    return el("tr", { class: confidence >= numberOf(values.threshold) ? "in" : "out" },
      el("th", { scope: "row" }, swatch, el("button", {
        type: "button", class: "pick", "data-act": "box", "aria-pressed": String(number === entry.chosen), title: words.heatOfBox(label), text: label,
        onclick: () => context.explain(entry, number),
      })),
      el("td", {}, bar(confidence)),
      el("td", { class: "figure", text: words.percent(confidence) }));
  };
  return [
    el("h2", { text: counts.length ? counts.map(([label, count]) => `${count} ${label}`).join(", ") : words.nothingFound }),
    shown.length > 0 && el("table", { class: "bars areas" },
      el("caption", { class: "unseen", text: words.confidence }), el("tbody", {}, ...shown.slice(0, LISTED).map(line))),
    shown.length > LISTED && el("p", { class: "quiet", text: words.rest(shown.length - LISTED) }),
    shown.length > 0 && el("p", { class: "quiet hint", text: words.heatHint }),
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
