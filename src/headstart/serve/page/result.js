// Draws one picture's result: its row in the table, and the details below it. Only ever text and elements, never markup from outside.

import { boxDetails, boxLayer, boxText } from "./boxes.js";
import { bar, el } from "./elements.js";
import { maskDetails, maskLayer, maskText, scoreDetails, scoreLayer, scoreText } from "./pixels.js";

const BARS = 5;
const NAMES = 12; // of a prediction set that are written out

/** What went wrong, in the reader's language as far as it is known; the server's own words are English. */
export function reasonOf(trouble, words) {
  if (trouble.reason) return trouble.reason;
  const sentence = words[trouble.word] ?? words.odd;
  return typeof sentence === "function" ? sentence(trouble.status ?? trouble.type ?? "") : sentence;
}

// How records of each kind are drawn: as text, as the cells of a row, in the details, and as layers over the picture, where there are such.
// Kinds that are not here are drawn as `plain`.
const plain = {
  text: ({ values }) => pairsOf(values).map(([name, value]) => `${name}: ${value}`).join(", "),
  cells: (entry, words) => [el("td", { class: "label", colspan: "4", text: labelOf(entry.answer, words) })],
  details: plainDetails,
};
const RENDERERS = {
  classes: { text: (answer, words) => answer.labels.join(", ") || words.noLabel, cells: classCells, details: verdict },
  columns: {
    text: ({ values }, words) => columnsOf(values).map(([name, one]) => `${name}: ${one.labels.join(", ") || words?.noLabel || ""}`).join("; "),
    cells: plain.cells,
    details: columnsDetails,
  },
  boxes: { text: boxText, cells: plain.cells, details: boxDetails, layer: boxLayer },
  mask: { text: maskText, cells: plain.cells, details: maskDetails, layer: maskLayer },
  score: { text: scoreText, cells: plain.cells, details: scoreDetails, layer: scoreLayer },
  number: { ...plain, text: ({ values }) => String(values.value ?? "") },
  text: { ...plain, text: ({ values }) => String(values.translation ?? "") },
};
const rendererOf = (answer) => (Object.hasOwn(RENDERERS, answer.kind) ? RENDERERS[answer.kind] : plain);

const SHOWN_ELSEWHERE = ["unlike", "nearest", "heat"]; // drawn alike for every kind

/** The values of a record that can be written on a line, with their names. */
const pairsOf = (values) =>
  Object.entries(values)
    .filter(([name, value]) => value !== null && !SHOWN_ELSEWHERE.includes(name))
    .map(([name, value]) => [name, typeof value === "object" ? JSON.stringify(value) : String(value)]);

/** An answer as text: the class, or the classes, or whatever records of its kind hold. */
export const labelOf = (answer, words) => rendererOf(answer).text(answer, words);

/** What is said aloud when an answer comes. */
export function spoken(entry, words) {
  if (entry.trouble) return words.spokenFailed(entry.name, reasonOf(entry.trouble, words));
  const { answer } = entry;
  if (answer.kind !== "classes") return [`${entry.name}: ${labelOf(answer, words)}.`, answer.unlike && words.unlikeSpoken].filter(Boolean).join(words.between);
  const share = answer.probability ?? answer.top[0]?.probability ?? 0;
  const first = words.spoken(entry.name, labelOf(answer, words), words.percent(share));
  return [first, answer.unlike && words.unlikeSpoken, setSentence(answer, words)].filter(Boolean).join(words.between);
}

function setSentence(answer, words) {
  if (answer.set === null) return "";
  if (answer.unlike) return words.setUnlike;
  if (answer.set.length === 0) return words.setNone;
  return answer.set.length === 1 && answer.labels.length === 1 && answer.set[0] === answer.labels[0]
    ? words.setOne
    : words.setMany(answer.set.length);
}

const namesOf = (set) => set.slice(0, NAMES).join(", ") + (set.length > NAMES ? `, … (${set.length})` : "");

function preview(entry, words, classes) {
  if (entry.unseen) return el("span", { class: `absent ${classes}`, text: classes === "thumb" ? "" : words.previewNone });
  return el("img", {
    class: classes, src: entry.url, alt: classes === "thumb" ? "" : words.alt(entry.name), loading: "lazy", decoding: "async",
    onerror: (event) => {
      entry.unseen = true;
      event.target.replaceWith(preview(entry, words, classes));
    },
  });
}

/** The small picture of a row; kept, so that it is decoded once however often the row is drawn. */
function thumb(entry, words) {
  if (!entry.thumb?.isConnected || entry.unseen) entry.thumb = preview(entry, words, "thumb");
  return entry.thumb;
}

/** Draw, or draw again, the row of an entry, and its details if it is open. `entry.body` is its <tbody>. */
export function paint(entry, context) {
  const { words } = context;
  const kept = entry.body.contains(document.activeElement) ? document.activeElement.dataset.act : null;
  const button = el("button", {
    type: "button", class: "open", "data-act": "open", "aria-expanded": String(entry.open), "aria-controls": `detail-${entry.id}`,
    onclick: () => context.toggle(entry),
  }, thumb(entry, words), el("span", { class: "name", text: entry.name, title: entry.name }));
  const cells = entry.answer ? rendererOf(entry.answer).cells(entry, words) : unanswered(entry, words);
  const row = el("tr", { class: "row" }, el("th", { scope: "row" }, button), ...cells);
  const detail = el("tr", { class: "detail", id: `detail-${entry.id}`, hidden: !entry.open });
  if (entry.open) detail.append(el("td", { colspan: "5" }, details(entry, context)));
  entry.body.className = `${entry.state}${entry.answer?.unlike ? " unlike" : ""}${entry.open ? " opened" : ""}`;
  entry.body.replaceChildren(row, detail);
  if (kept) entry.body.querySelector(`[data-act="${kept}"]`)?.focus();
}

function unanswered(entry, words) {
  if (entry.trouble) return [el("td", { class: "problem", colspan: "4", text: reasonOf(entry.trouble, words) })];
  return [el("td", { class: "quiet", colspan: "4", text: entry.state === "asking" ? words.working : words.waiting })];
}

function classCells(entry, words) {
  const { answer } = entry;
  const share = answer.probability ?? answer.top[0]?.probability ?? 0;
  const remark = [answer.unlike && words.unlikeShort].filter(Boolean).join(", ");
  return [
    el("td", { class: "label", text: labelOf(answer, words) }),
    el("td", { class: "sure" }, bar(share), el("span", { text: words.percent(share) })),
    el("td", { class: "set", text: answer.set === null ? "" : namesOf(answer.set) }),
    el("td", { class: "remarks", text: remark }),
  ];
}

function details(entry, context) {
  const { words } = context;
  const said = el("div", { class: "said" });
  const inside = el("div", { class: "result", lang: words.code }, figure(entry, context), said);
  if (entry.trouble) {
    said.append(
      el("h2", { text: words.failed }),
      el("p", { class: "serious", text: reasonOf(entry.trouble, words) }),
      el("button", { type: "button", "data-act": "retry", text: words.again, onclick: () => context.retry(entry) }),
    );
  } else if (entry.answer) said.append(...rendererOf(entry.answer).details(entry, context));
  else said.append(el("p", { class: "quiet", text: entry.state === "asking" ? words.working : words.waiting }));
  return inside;
}

function verdict(entry, context) {
  const { words, model } = context;
  const { answer } = entry;
  const multilabel = model?.multilabel || answer.labels.length !== 1;
  const label = el("h2", { class: answer.unlike ? "answer doubtful" : "answer" },
    el("span", { class: "label", text: answer.labels.length ? answer.labels.join(", ") : words.noLabelLong }),
    !multilabel && answer.probability !== null && el("span", { class: "headline", text: words.percent(answer.probability) }));
  const coverage = model?.coverage && !answer.unlike ? words.between + words.setCoverage(model.coverage) : "";
  return [
    answer.unlike && el("p", { class: "serious", text: words.unlikeLong }),
    label,
    bars(answer, { words, multilabel, classes: model?.classes.length ?? 0 }),
    answer.set !== null && el("p", { class: "in-set", text: setSentence(answer, words) + coverage }),
    answer.set !== null && answer.set.length > 1 && !answer.unlike && el("p", { class: "names", text: namesOf(answer.set) }),
    entry.shrunk && el("p", { class: "remark", text: words.shrunk(entry.shrunk) }),
    answer.nearest.length > 0 && nearest(answer, words),
  ].filter(Boolean);
}

/** What a record says of each column of labels, in the shape of an answer about classes. */
const columnsOf = ({ columns }) =>
  Object.entries(columns ?? {}).map(([name, one]) => [name, {
    labels: [one.label ?? []].flat().map(String),
    probability: typeof one.probability === "number" ? one.probability : null,
    top: (one.top ?? []).map(({ label, probability }) => ({ label: String(label), probability: Number(probability) })),
    set: Array.isArray(one.set) ? one.set.map(String) : null,
  }]);

function columnsDetails(entry, { words, model }) {
  const { answer } = entry;
  const parts = columnsOf(answer.values).flatMap(([name, one]) => {
    const about = model?.columns[name];
    const multilabel = about?.multilabel || one.labels.length !== 1;
    const said = { ...one, unlike: answer.unlike };
    const share = !multilabel && one.probability !== null && el("span", { class: "headline", text: words.percent(one.probability) });
    return [
      el("h3", { text: name }),
      el("p", { class: answer.unlike ? "answer doubtful" : "answer" },
        el("span", { class: "label", text: one.labels.length ? one.labels.join(", ") : words.noLabelLong }), share),
      bars(said, { words, multilabel, classes: about?.classes?.length ?? 0 }),
      one.set !== null && el("p", { class: "in-set", text: setSentence(said, words) }),
      one.set !== null && one.set.length > 1 && !answer.unlike && el("p", { class: "names", text: namesOf(one.set) }),
    ];
  });
  return [
    answer.unlike && el("p", { class: "serious", text: words.unlikeLong }),
    ...parts,
    entry.shrunk && el("p", { class: "remark", text: words.shrunk(entry.shrunk) }),
    answer.nearest.length > 0 && nearest(answer, words),
  ].filter(Boolean);
}

function plainDetails(entry, { words }) {
  const { answer } = entry;
  const pairs = pairsOf(answer.values);
  return [
    answer.unlike && el("p", { class: "serious", text: words.unlikeLong }),
    el("h2", { class: answer.unlike ? "answer doubtful" : "answer" }, el("span", { class: "label", text: labelOf(answer, words) })),
    pairs.length > 1 && el("dl", {}, ...pairs.flatMap(([name, value]) => [el("dt", { text: name }), el("dd", { text: value })])),
    entry.shrunk && el("p", { class: "remark", text: words.shrunk(entry.shrunk) }),
    answer.nearest.length > 0 && nearest(answer, words),
  ].filter(Boolean);
}

function bars(answer, { words, multilabel, classes }) {
  const set = new Set(answer.set ?? []);
  const marked = answer.set !== null && !answer.unlike;
  const line = (label, share, kind, spokenKind) =>
    el("tr", { class: kind },
      el("th", { scope: "row", text: label }),
      el("td", {}, bar(share)),
      el("td", { class: "figure" }, words.percent(share), spokenKind && el("span", { class: "unseen", text: ` (${spokenKind})` })));
  const shown = answer.top.slice(0, BARS);
  const lines = shown.map(({ label, probability }) => {
    if (!marked) return line(label, probability, answer.unlike ? "out" : "in", "");
    return set.has(label) ? line(label, probability, "in", words.inSet) : line(label, probability, "out", words.outOfSet);
  });
  const rest = 1 - shown.reduce((sum, { probability }) => sum + probability, 0);
  const others = classes - shown.length;
  if (!multilabel && others > 0) lines.push(line(words.rest(others), Math.max(0, rest), "rest", ""));
  const table = el("table", { class: "bars" },
    el("caption", { class: "unseen", text: words.probability }), el("tbody", {}, ...lines));
  if (!marked) return table;
  return el("div", {}, table, el("p", { class: "key quiet", "aria-hidden": "true" },
    el("i", { class: "in" }), words.inSet, el("i", { class: "out" }), words.outOfSet));
}

function nearest(answer, words) {
  // In multi-label runs the labels of one image come joined.
  const shares = (label) => answer.labels.includes(label) || label.split(";").some((one) => answer.labels.includes(one));
  const items = answer.nearest.map(({ name, label }) =>
    el("li", { class: shares(label) ? "same" : "other" },
      el("b", { text: answer.labels.includes(label) ? label : label.split(";").join(", ") }), " ",
      el("span", { class: "quiet", text: name })));
  return el("div", { class: "nearest" }, el("h3", { text: words.nearest }), el("ol", {}, ...items));
}

function figure(entry, context) {
  const { words, heatOn } = context;
  const made = el("figure", {});
  const frame = el("div", { class: "frame" });
  const ofClass = entry.answer?.kind === "classes"; // others lay heat maps of their own over the picture
  const showsHeat = heatOn && ofClass && entry.heat;
  frame.append(showsHeat ? el("img", { class: "heat", src: entry.heat, alt: words.altHeat(entry.name) }) : preview(entry, words, "whole"));
  made.append(frame, el("figcaption", { class: "name", text: entry.name, title: entry.name }));
  const layer = entry.answer && rendererOf(entry.answer).layer;
  if (layer) made.append(...layer(entry, context, frame));
  if (entry.answer && entry.chosen !== null) made.append(heatNote(entry, words, words.heatBox));
  if (!ofClass) return made;
  made.append(el("button", {
    type: "button", class: "switch", "data-act": "heat", "aria-pressed": String(heatOn), text: words.heat,
    onclick: () => context.heat(entry),
  }));
  const { labels } = entry.answer;
  if (heatOn) made.append(heatNote(entry, words, labels.length === 1 ? words.heatCaption(labels[0]) : words.heatPlain));
  return made;
}

function heatNote(entry, words, caption) {
  if (entry.heatTrouble) return el("p", { class: "quiet", role: "status", text: words.heatFailed(reasonOf(entry.heatTrouble, words)) });
  if (!entry.heat) return el("p", { class: "quiet", role: "status", text: words.heatWaiting });
  return el("div", { class: "quiet" },
    el("p", { class: "ramp" },
      el("span", { text: words.heatLow }), el("i", { "aria-hidden": "true" }), el("span", { text: words.heatHigh })),
    el("p", { text: caption }));
}
