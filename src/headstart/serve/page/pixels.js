// Results that say something of each pixel: masks and heat maps over the picture, what they amount to, and files of them.

import { bar, el } from "./elements.js";
import { save } from "./files.js";

const LONGEST = 1024; // pixels of the longer side of what is laid over a picture
const NAMED = 3; // classes in the text of a result
export const numberOf = (value) => (typeof value === "number" && Number.isFinite(value) ? value : 0);
const short = (value) => String(Number(numberOf(value).toPrecision(4)));
export const stemOf = (name) => name.replace(/\.[^./\\]*$/, "") || "picture";

/** What is remembered of an entry between two drawings: how opaque the layer is, and which classes are hidden, at first the background. */
const layerOf = (entry) =>
  (entry.layer ??= {
    opacity: entry.answer?.kind === "score" ? 0.8 : 0.5,
    hidden: new Set(typeof entry.answer?.values.background === "string" ? [entry.answer.values.background] : []),
  });

/** The bytes of text in base 64, as a file. */
function fileOf(text, type) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Blob([bytes], { type });
}

/** The size at which a layer is drawn: that of the picture or smaller; with `enlarge` always the largest. */
export function drawnSize({ width, height }, { enlarge = false } = {}) {
  const scale = Math.min(enlarge ? Infinity : 1, LONGEST / Math.max(1, numberOf(width), numberOf(height)));
  return [Math.max(1, Math.round(numberOf(width) * scale)), Math.max(1, Math.round(numberOf(height) * scale))];
}

async function pictureOf(text) {
  const found = new Image();
  found.src = `data:image/png;base64,${text}`;
  await found.decode();
  return found;
}

export function layer(frame, size) {
  const canvas = el("canvas", { class: "layer", width: size[0], height: size[1], "aria-hidden": "true" });
  frame.append(canvas);
  return canvas;
}

/** A slider for how opaque a layer is. */
function slider(entry, canvas, words) {
  const state = layerOf(entry);
  canvas.style.opacity = state.opacity;
  const input = el("input", {
    type: "range", min: "0", max: "100", value: String(state.opacity * 100), "data-act": "opacity",
    oninput: () => {
      state.opacity = Number(input.value) / 100;
      canvas.style.opacity = state.opacity;
    },
  });
  return el("label", { class: "slider" }, el("span", { text: words.overlay }), input);
}

export const button = (text, act, onclick) => el("button", { type: "button", "data-act": act, text, onclick });

// --- masks ---

/** The classes that are there: name, share, pixels and colour, the largest first. */
function present({ areas = {}, shares = {}, colours = {} }) {
  return Object.keys(areas)
    .filter((name) => numberOf(areas[name]) > 0)
    .map((name) => ({
      name, share: numberOf(shares[name]), pixels: areas[name],
      colour: /^#[0-9a-f]{6}$/.test(colours[name]) ? colours[name] : "#808080",
    }))
    .sort((one, other) => other.share - one.share);
}

export function maskText({ values }, words) {
  const there = present(values);
  const shown = there.slice(0, NAMED).map(({ name, share }) => `${name} ${words ? words.percent(share) : `${(share * 100).toFixed(1)} %`}`);
  return shown.join(", ") + (there.length > NAMED ? ", …" : "");
}

/** Lay the mask over the picture in a frame; below it, how opaque it is. */
export function maskLayer(entry, { words }, frame) {
  const canvas = layer(frame, drawnSize(entry.answer.values));
  paintMask(entry, canvas);
  entry.canvas = canvas;
  return [slider(entry, canvas, words)];
}

async function paintMask(entry, canvas) {
  const { values } = entry.answer;
  const picture = await pictureOf(values.png).catch(() => null);
  if (!picture) return;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingEnabled = false; // classes have nothing between them
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  const { hidden } = layerOf(entry);
  const clear = new Set(present(values).filter(({ name }) => hidden.has(name)).map(({ colour }) => parseInt(colour.slice(1), 16)));
  if (clear.size) {
    const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
    const { data } = pixels;
    for (let at = 0; at < data.length; at += 4) {
      if (clear.has((data[at] << 16) | (data[at + 1] << 8) | data[at + 2])) data[at + 3] = 0;
    }
    context.putImageData(pixels, 0, 0);
  }
  canvas.dataset.painted = String((Number(canvas.dataset.painted) || 0) + 1);
}

export function maskDetails(entry, { words }) {
  const { values } = entry.answer;
  const state = layerOf(entry);
  const lines = present(values).map(({ name, share, pixels, colour }) => {
    const swatch = el("button", {
      type: "button", class: "swatch", "data-act": `class ${name}`, "aria-pressed": String(!state.hidden.has(name)), "aria-label": words.show(name),
      onclick: () => {
        if (!state.hidden.delete(name)) state.hidden.add(name);
        swatch.setAttribute("aria-pressed", String(!state.hidden.has(name)));
        paintMask(entry, entry.canvas);
      },
    });
    swatch.style.background = colour;
    return el("tr", { class: "in" },
      el("th", { scope: "row" }, swatch, el("span", { text: name })),
      el("td", {}, bar(share)),
      el("td", { class: "figure", title: words.pixels(pixels), text: words.percent(share) }));
  });
  return [
    el("h2", { text: words.areas }),
    el("table", { class: "bars areas" }, el("caption", { class: "unseen", text: words.areas }), el("tbody", {}, ...lines)),
    el("p", { class: "quiet", text: words.classesHint }),
    entry.shrunk && el("p", { class: "remark", text: words.shrunk(entry.shrunk) }),
    el("p", { class: "downloads" },
      button(words.downloadPng, "png", () => save(fileOf(values.png, "image/png"), `${stemOf(entry.name)}.png`)),
      button(words.downloadCoco, "coco", () => save(new Blob([JSON.stringify(cocoOf(entry))], { type: "application/json" }), `${stemOf(entry.name)}.json`))),
  ].filter(Boolean);
}

/** COCO's document of one picture; the number of a category is the position of its class and one. */
export function cocoOf({ name, answer: { values } }) {
  const classes = Object.keys(values.areas ?? {});
  const annotations = Object.entries(values.masks ?? {}).map(([one, mask], index) => ({
    id: index + 1, image_id: 1, category_id: classes.indexOf(one) + 1, segmentation: mask, area: values.areas[one],
    bbox: boxOf(countsOf(mask.counts), mask.size[0]), iscrowd: 0,
  }));
  return {
    info: { description: "Written by Headstart" },
    images: [{ id: 1, file_name: name, height: values.height, width: values.width }],
    categories: classes.map((one, index) => ({ id: index + 1, name: one })),
    annotations,
  };
}

/** The run lengths of COCO's text: numbers in base 32 with a sign, from the fourth on as the difference to the one two before. */
export function countsOf(text) {
  const counts = [];
  for (let at = 0; at < text.length; ) {
    let [value, shift, digit] = [0, 0, 0];
    do {
      digit = text.charCodeAt(at++) - 48;
      value += (digit & 31) * 2 ** shift;
      shift += 5;
    } while (digit & 32);
    if (digit & 16) value -= 2 ** shift;
    counts.push(counts.length > 2 ? value + counts[counts.length - 2] : value);
  }
  return counts;
}

/** x, y, width and height of the rectangle around a mask, from its run lengths, which go down its columns. */
export function boxOf(counts, height) {
  let [at, left, top, right, bottom] = [0, Infinity, Infinity, -1, -1];
  counts.forEach((length, index) => {
    if (index % 2 && length) {
      const [first, last] = [at, at + length - 1];
      const [from, to] = [Math.floor(first / height), Math.floor(last / height)];
      [left, right] = [Math.min(left, from), Math.max(right, to)];
      [top, bottom] = from < to ? [0, height - 1] : [Math.min(top, first % height), Math.max(bottom, last % height)];
    }
    at += length;
  });
  return right < 0 ? [0, 0, 0, 0] : [left, top, right - left + 1, bottom - top + 1];
}

// --- scores with heat maps ---

export function scoreText({ values }, words) {
  const label = words?.scoreLabels[values.label] ?? String(values.label ?? "");
  return `${label} ${short(values.score)}`;
}

/** Lay the heat map over the picture in a frame, and the outlines of what is above the threshold over both. */
export function scoreLayer(entry, { words }, frame) {
  const { values } = entry.answer;
  const size = drawnSize(values);
  const [heat, lines] = [layer(frame, size), layer(frame, size)];
  if (typeof values.heat_map === "string") paintHeat(values.heat_map, heat);
  const context = lines.getContext("2d");
  const scale = size[0] / Math.max(1, numberOf(values.width));
  for (const [width, colour] of [[4, "#000"], [2, "#fff"]]) {
    Object.assign(context, { lineWidth: width * Math.max(0.5, Math.max(...size) / 500), strokeStyle: colour, lineJoin: "round" });
    for (const region of values.regions ?? []) {
      for (const ring of [region.outline ?? [], ...(region.holes ?? [])]) {
        context.beginPath();
        for (const [x, y] of ring) context.lineTo(x * scale, y * scale);
        context.closePath();
        context.stroke();
      }
    }
  }
  lines.dataset.painted = "1";
  return [slider(entry, heat, words)];
}

async function paintHeat(text, canvas) {
  const picture = await pictureOf(text).catch(() => null);
  if (picture) canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
  canvas.dataset.painted = "1";
}

export function scoreDetails(entry, { words }) {
  const { values } = entry.answer;
  const [score, threshold] = [numberOf(values.score), numberOf(values.threshold)];
  const most = Math.max(score, threshold) * 1.25 || 1;
  const line = (name, value, kind) =>
    el("tr", { class: kind }, el("th", { scope: "row", text: name }), el("td", {}, bar(value / most)), el("td", { class: "figure", text: short(value) }));
  const regions = values.regions ?? [];
  return [
    el("h2", { class: "answer" },
      el("span", { class: "label", text: words.scoreLabels[values.label] ?? String(values.label ?? "") }), el("span", { class: "headline", text: short(score) })),
    el("table", { class: "bars" }, el("caption", { class: "unseen", text: words.score }),
      el("tbody", {}, line(words.score, score, "in"), line(words.threshold, threshold, "out"))),
    el("p", { class: "in-set", text: regions.length ? words.regions(regions.length) : words.noRegions }),
    entry.shrunk && el("p", { class: "remark", text: words.shrunk(entry.shrunk) }),
    typeof values.heat_map === "string" && el("p", { class: "downloads" },
      button(words.downloadPng, "png", () => save(fileOf(values.heat_map, "image/png"), `${stemOf(entry.name)}.png`))),
  ].filter(Boolean);
}
