// The page: takes pictures, asks the server for each, and keeps the list of results.

import { csv } from "./csv.js";
import { el } from "./elements.js";
import { listen, mayBePicture, save, smaller } from "./files.js";
import { recall, remember } from "./memory.js";
import { labelOf, paint, reasonOf, spoken } from "./result.js";
import { Refusal, addressOf, alive, askWith, hasToken, models, pageOf, predict } from "./server.js";
import { LANGUAGES, languageOf } from "./words.js";

const AT_ONCE = 4; // requests under way: the server gathers them into one batch
const LONGER_SIDE = 2048; // of a picture made smaller because the server refused its size
const PERHAPS_TOO_LARGE = 1 << 20; // bytes: a server may hang up on a large body instead of answering

const $ = (id) => document.getElementById(id);
const state = {
  words: LANGUAGES.en, models: [], model: null,
  entries: [], // newest first; each has its file, its <tbody>, and what came of it
  heatOn: false, next: 0, busy: 0,
  batch: 0, // entries that came since nothing was under way
  stop: null, tooMuch: Infinity, // bytes that the server has refused
};

// --- words ---

function speakIn(code) {
  state.words = LANGUAGES[code];
  document.documentElement.lang = code;
  for (const part of document.querySelectorAll("[data-word]")) part.textContent = state.words[part.dataset.word];
  for (const part of document.querySelectorAll("[data-label]")) part.setAttribute("aria-label", state.words[part.dataset.label]);
  $("language").textContent = state.words.other;
  $("language").lang = state.words.otherCode;
  if ($("trouble").dataset.kind) trouble(new Refusal($("trouble").dataset.kind, $("trouble").dataset));
  describe();
  for (const entry of state.entries) draw(entry);
  count();
}

const say = (text) => ($("status").textContent = text);

function trouble(refusal) {
  $("trouble").hidden = refusal === null;
  $("trouble").dataset.kind = refusal?.word ?? "";
  $("trouble").dataset.reason = refusal?.reason ?? "";
  $("trouble").dataset.status = refusal?.status ?? "";
  if (refusal) $("trouble-text").textContent = reasonOf(refusal, state.words);
}

// --- models ---

async function start() {
  trouble(null);
  try {
    state.models = await models();
    if (!state.models.length) throw new Refusal("noModels");
  } catch (error) {
    trouble(error instanceof Refusal ? error : new Refusal("gone"));
    return;
  }
  const asked = new URLSearchParams(location.search).get("model");
  $("model").replaceChildren(...state.models.map((model) => new Option(model.title, model.name)));
  $("chooser").hidden = state.models.length < 2;
  $("title").classList.toggle("unseen", state.models.length > 1); // the choice stands in its place
  choose(state.models.find((model) => model.name === asked) ?? state.models[0]);
}

function choose(model) {
  state.model = model;
  $("model").value = model.name;
  $("links").hidden = false;
  for (const which of ["report", "card"]) {
    $(which).href = addressOf(model.name, which);
    $(which).hidden = !model[which];
  }
  describe();
  for (const entry of state.entries) renew(entry);
  fill();
}

/** Say before everything else that the last pictures of the server are none that the model knows. */
function warn() {
  const drift = state.model?.drift ?? null;
  $("drift").hidden = drift === null;
  $("drift").textContent = drift ? state.words.drift(drift.unlike, drift.images, drift.expected) : "";
}

function describe() {
  if (!state.model) return;
  warn();
  document.title = `${state.model.title} · Headstart`;
  $("title").textContent = state.model.title;
  const classes = state.model.kind === "classes";
  for (const part of document.querySelectorAll("[data-of-classes]")) part.hidden = !classes;
  $("kind").textContent = classes ? state.words.kind : state.words.kindOther;
  $("outcome").textContent = classes ? state.words.class : state.words.result;
  $("outcome").colSpan = classes ? 1 : 4;
  $("about").replaceChildren(...state.words.about(state.model).map((text) => el("span", { text })));
}

async function page(event, which) {
  if (!hasToken()) return; // a plain link does
  event.preventDefault();
  try {
    save(await pageOf(state.model.name, which), which === "report" ? `${state.model.name}-report.html` : `${state.model.name}-card.md`);
  } catch (error) {
    trouble(error instanceof Refusal ? error : new Refusal("gone"));
  }
}

// --- the token ---

function askForToken(refused) {
  const [dialog, field] = [$("asking"), $("token")];
  $("asking-why").textContent = refused ? state.words.tokenWrong : "";
  field.value = "";
  dialog.returnValue = "";
  dialog.showModal();
  field.focus();
  return new Promise((resolve) =>
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "given" ? field.value.trim() : null), { once: true }),
  );
}

// --- the list ---

const context = {
  get words() { return state.words; },
  get model() { return state.model; },
  get heatOn() { return state.heatOn; },
  toggle(entry) {
    entry.open = !entry.open;
    draw(entry);
    if (entry.open) warm(entry);
  },
  retry(entry) {
    renew(entry);
    fill();
  },
  heat(entry) {
    state.heatOn = !state.heatOn;
    if (entry.heatTrouble) entry.heatTrouble = null;
    for (const other of state.entries.filter((one) => one.open)) {
      draw(other);
      warm(other);
    }
  },
  /** Show the heat map of one of the things that were found, by its number; of the one whose map is shown already, show it no longer. */
  explain(entry, number) {
    Object.assign(entry, { chosen: entry.chosen === number ? null : number, heat: null, heatTrouble: null });
    draw(entry);
    warm(entry);
  },
};

const draw = (entry) => paint(entry, context);

function add(files) {
  if (!files.length) return;
  state.batch = state.entries.some((entry) => entry.state === "waiting" || entry.state === "asking") ? state.batch : 0;
  const fresh = [...files].map((file) => {
    const entry = { id: state.next++, file, name: file.name || "picture", url: URL.createObjectURL(file), body: el("tbody"), open: false };
    renew(entry);
    return entry;
  });
  state.batch += fresh.length;
  if (files.length === 1) {
    for (const entry of state.entries.filter((one) => one.open)) {
      entry.open = false;
      draw(entry);
    }
    fresh[0].open = true;
  }
  state.entries.unshift(...fresh);
  for (const entry of fresh) draw(entry);
  order();
  fill();
  if (fresh.every((entry) => entry.trouble)) tell(fresh.at(-1));
  if (files.length === 1 && state.entries.length > 1) fresh[0].body.scrollIntoView({ block: "nearest" });
}

/** Make an entry wait for an answer, as if it had just come; what cannot be a picture is refused here. */
function renew(entry) {
  entry.round = (entry.round ?? 0) + 1;
  Object.assign(entry, { state: "waiting", model: state.model?.name ?? "", answer: null, trouble: null, shrunk: 0 });
  Object.assign(entry, { heat: null, heatTrouble: null, warming: false, layer: null, chosen: null });
  if (!mayBePicture(entry.file)) entry.trouble = { word: "notPicture", type: entry.file.type };
  else if (entry.file.size === 0) entry.trouble = { word: "empty" };
  if (entry.trouble) entry.state = "failed";
  if (entry.body.firstChild) draw(entry);
}

/** Ask for as many waiting entries as may be under way; called whenever one comes or one is done. */
function fill() {
  state.stop ??= new AbortController();
  const waiting = state.model ? state.entries.filter((entry) => entry.state === "waiting") : [];
  for (const entry of waiting) {
    if (state.busy >= AT_ONCE) break;
    state.busy += 1;
    answer(entry, entry.round, state.stop.signal).finally(() => {
      state.busy -= 1;
      fill();
    });
  }
  count();
}

async function answer(entry, round, signal) {
  entry.state = "asking";
  if (entry.open) draw(entry);
  let [found, problem] = [null, null];
  try {
    found = await asked(entry, { signal });
  } catch (error) {
    problem = signal.aborted ? { word: "stopped" } : error instanceof Refusal ? error : { word: "gone" };
  }
  if (round !== entry.round || !state.entries.includes(entry)) return; // asked again, or cleared, in the meantime
  Object.assign(entry, { state: found ? "done" : "failed", answer: found, trouble: problem });
  const model = found && state.models.find((one) => one.name === entry.model);
  if (model) model.drift = found.drift;
  warn();
  draw(entry);
  tell(entry);
  warm(entry);
}

/** Say what came of an entry if it came alone; of several, say when they are through. */
function tell(entry) {
  const open = state.entries.some((one) => one.state === "waiting" || one.state === "asking");
  if (state.batch === 1) say(spoken(entry, state.words));
  else if (!open) say(state.words.spokenDone(state.entries.length, refused()));
  if (!open) order();
}

/** The server's answer; a picture that is too large for it is made smaller and sent once more. */
async function asked(entry, { signal, explain = false, box = null }) {
  const request = { name: entry.name, model: state.model.name, explain, box, signal };
  if (entry.shrunk) return predict(entry.small, request);
  let problem = null;
  if (entry.file.size < state.tooMuch) {
    try {
      return await predict(entry.file, request);
    } catch (error) {
      if (!(error instanceof Refusal) || !(await tooLarge(error, entry.file))) throw error;
      problem = error;
      if (error.status === 413) state.tooMuch = Math.min(state.tooMuch, entry.file.size); // need not be tried again
    }
  }
  const made = await smaller(entry.file, LONGER_SIDE);
  if (!made) throw problem ?? new Refusal("tooLarge");
  [entry.small, entry.enlarge] = [made.blob, made.enlarge];
  const found = await predict(entry.small, request);
  entry.shrunk = LONGER_SIDE;
  return found;
}

const tooLarge = async (error, file) => error.status === 413 || (error.word === "gone" && file.size > PERHAPS_TOO_LARGE && (await alive()));

/** Fetch the heat map of an open entry, if heat maps are wanted: for its class, or for the one of its boxes that was chosen. */
async function warm(entry) {
  if (!entry.open || !entry.answer || entry.heat || entry.heatTrouble || entry.warming) return;
  if (!(entry.chosen !== null || (state.heatOn && entry.answer.kind === "classes"))) return;
  entry.warming = true;
  const { round, chosen } = entry;
  let [heat, problem] = [null, null];
  try {
    heat = (await asked(entry, { explain: true, box: chosen })).heat;
    if (!heat) problem = { word: "odd", status: 200 };
  } catch (error) {
    problem = error instanceof Refusal ? error : { word: "gone" };
  }
  if (round !== entry.round) return;
  entry.warming = false;
  if (chosen !== entry.chosen) { // another was chosen in the meantime, or none
    warm(entry);
    return;
  }
  Object.assign(entry, { heat, heatTrouble: problem });
  draw(entry);
}

const refused = () => state.entries.filter((entry) => entry.trouble).length;

function count() {
  const all = state.entries.length;
  const open = state.entries.filter((entry) => entry.state === "waiting" || entry.state === "asking").length;
  $("results").hidden = all === 0;
  $("take").classList.toggle("small", all > 0);
  $("list").classList.toggle("alone", all === 1);
  $("ordering").hidden = all < 2;
  const running = open > 0 && state.batch > 1;
  $("count").textContent = running ? state.words.countSoFar(all - open, all) : state.words.count(all, refused());
  $("progress").hidden = $("stop").hidden = !running;
  $("progress").max = state.batch;
  $("progress").value = Math.max(0, state.batch - open);
  $("csv").disabled = open === all;
  if (all === 1 && !state.entries[0].open) context.toggle(state.entries[0]);
}

const doubt = (entry) => (entry.trouble ? -2 : !entry.answer ? 2 : (entry.answer.probability ?? 0) - (entry.answer.unlike ? 1 : 0));
const named = (entry) => (entry.answer ? labelOf(entry.answer, state.words) : "\uffff");
const ORDERS = { given: () => 0, doubt: (a, b) => doubt(a) - doubt(b), class: (a, b) => named(a).localeCompare(named(b)) };

function order() {
  const held = document.activeElement;
  const sorted = [...state.entries].sort(ORDERS[$("order").value]);
  const shown = [...$("list").tBodies];
  if (sorted.length !== shown.length || sorted.some((entry, place) => entry.body !== shown[place])) {
    for (const entry of sorted) $("list").append(entry.body);
    if ($("list").contains(held)) held.focus();
  }
}

function stop() {
  state.stop?.abort();
  state.stop = null;
  for (const entry of state.entries.filter((one) => one.state === "waiting")) {
    Object.assign(entry, { state: "failed", trouble: { word: "stopped" } });
    draw(entry);
  }
  count();
}

function clear() {
  stop();
  for (const entry of state.entries) {
    URL.revokeObjectURL(entry.url);
    entry.body.remove();
  }
  state.entries = [];
  count();
  say(state.words.spokenCleared);
  $("choose").focus();
}

/** Arrow keys go from row to row. */
function move(event) {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  const here = event.target.closest("button.open");
  if (!step || !here) return;
  const buttons = [...$("list").querySelectorAll("button.open")];
  const next = buttons[buttons.indexOf(here) + step];
  if (next) {
    event.preventDefault();
    next.focus();
  }
}

// --- the page ---

function wire() {
  $("language").addEventListener("click", () => {
    remember("localStorage", "headstart.language", state.words.otherCode);
    speakIn(state.words.otherCode);
  });
  $("model").addEventListener("change", () => choose(state.models.find((model) => model.name === $("model").value)));
  for (const which of ["report", "card"]) $(which).addEventListener("click", (event) => page(event, which));
  $("again").addEventListener("click", start);
  $("order").addEventListener("change", order);
  $("list").addEventListener("keydown", move);
  $("stop").addEventListener("click", stop);
  $("clear").addEventListener("click", clear);
  $("csv").addEventListener("click", () => {
    const text = csv(state.entries, (problem) => reasonOf(problem, state.words));
    save(new Blob([text], { type: "text/csv;charset=utf-8" }), `${state.model.name}.csv`);
  });
  $("asking").querySelector("form").addEventListener("submit", (event) => {
    event.preventDefault();
    $("asking").close("given");
  });
  $("asking-no").addEventListener("click", () => $("asking").close(""));
}

askWith(askForToken);
wire();
listen({ add, nothing: (where) => say(where === "drop" ? state.words.nothing : state.words.noPicture) });
speakIn(languageOf(navigator.languages, recall("localStorage", "headstart.language")));
start();
