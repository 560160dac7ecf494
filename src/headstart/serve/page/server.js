// Talks with the server: models, predictions, pages. Everything goes to the address that the page came from.

import { recall, remember } from "./memory.js";

const TRIES = 6; // of a request that a busy server puts off
const LONGEST_WAIT = 8000; // ms
const STORE = "headstart.token";

/** A request that brought nothing: `word` names a sentence of words.js, `reason` is the server's own, where it gave one. */
export class Refusal extends Error {
  constructor(word, { reason = "", status = 0 } = {}) {
    super(reason || word);
    this.word = word;
    this.reason = reason;
    this.status = status;
  }
}

let token = recall("sessionStorage", STORE);
let question = null; // the one open dialogue; all requests that wait for a token share it
let ask = async () => null;

/** Say how to ask a person for the token: a function of whether one was just refused, which resolves to it, or to null. */
export function askWith(how) {
  ask = how;
}

/** Whether requests carry a token, so that plain links do not work. */
export const hasToken = () => token !== "";

async function newToken(refused) {
  question ??= ask(refused).finally(() => (question = null));
  const given = await question;
  if (given === null) return false;
  token = given;
  remember("sessionStorage", STORE, token);
  return true;
}

const pause = (milliseconds, signal) =>
  new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)), { once: true });
  });

function waitOf(response, tried) {
  const asked = Number(response.headers.get("Retry-After"));
  return Math.min(LONGEST_WAIT, asked > 0 ? asked * 1000 : 250 * 2 ** tried) * (0.8 + 0.4 * Math.random());
}

async function send(path, options = {}) {
  for (let tried = 0; ; ) {
    const used = token;
    let response;
    try {
      response = await fetch(path, { ...options, headers: { ...options.headers, ...(used && { Authorization: `Bearer ${used}` }) } });
    } catch (error) {
      if (options.signal?.aborted) throw error;
      throw new Refusal("gone");
    }
    if (response.ok) return response;
    if (response.status === 401) {
      if (used !== token || (await newToken(used !== ""))) continue;
      throw new Refusal("refusedToken", { status: 401 });
    }
    const later = response.status === 429 || response.status === 503;
    if (!later || ++tried === TRIES) throw await refusalOf(response);
    await pause(waitOf(response, tried), options.signal);
  }
}

async function refusalOf(response) {
  const word = { 413: "tooLarge", 429: "busy", 503: "busy" }[response.status] ?? "odd";
  let said = null;
  try {
    said = await response.json();
  } catch {
    // No JSON, as a proxy before the server may answer: the status has to do.
  }
  return new Refusal(word, { reason: textOf(said?.reason ?? said?.error ?? said?.detail), status: response.status });
}

/** The text of what a server gave as a reason: a string, or an object that holds one. */
function textOf(said) {
  if (typeof said === "string") return said;
  return said && typeof said === "object" ? textOf(said.reason ?? said.message ?? said.msg ?? said[0]) : "";
}

async function json(path, options) {
  try {
    return await (await send(path, options)).json();
  } catch (error) {
    if (error instanceof SyntaxError || (error instanceof TypeError && !options?.signal?.aborted)) throw new Refusal("gone");
    throw error;
  }
}

/**
 * The models: {name, title, kind, classes, columns, accuracy, meanIou, ap50, images, created, coverage, multilabel, report, card} each.
 *
 * What the server does not tell is null or empty; a page that it does not mention is taken to be there.
 */
export async function models() {
  const said = await json("models");
  return (Array.isArray(said) ? said : (said.models ?? [])).map((model) => ({
    name: String(model.name),
    title: String(model.title ?? model.name),
    kind: String(model.kind ?? "classes"), // of its records
    classes: Array.isArray(model.classes) ? model.classes.map(String) : [],
    columns: model.columns && typeof model.columns === "object" ? model.columns : {}, // of labels, where there are several
    accuracy: numberOr(model.accuracy),
    meanIou: numberOr(model.mean_iou),
    ap50: numberOr(model.ap50),
    images: numberOr(model.test_images),
    created: String(model.created ?? "").slice(0, 10),
    coverage: numberOr(model.coverage),
    multilabel: model.multilabel === true,
    drift: driftOf(model.recent),
    report: model.report !== false,
    card: model.card !== false,
  }));
}

const numberOr = (value) => (typeof value === "number" && Number.isFinite(value) ? value : null);

/**
 * Ask for one picture.
 *
 * Resolves to the server's entry for it, with every field there. Rejects with a Refusal, or as fetch does when `signal` aborts it.
 */
export async function predict(file, { name, model, explain = false, box = null, signal }) {
  const body = new FormData();
  body.append("file", file, name);
  const query = new URLSearchParams({ model, nearest: "3", ...(explain && { explain: "1" }), ...(box !== null && { box: String(box) }) });
  const said = await json(`predict?${query}`, { method: "POST", body, signal });
  const entry = (Array.isArray(said) ? said : (said.predictions ?? said.images ?? said.results ?? [said]))[0] ?? {};
  if (entry.error) throw new Refusal("odd", { reason: textOf(entry.error), status: 422 });
  const { name: _, kind = "classes", ...values } = entry;
  return {
    kind,
    values, // as the server sent them; what follows is of classes, and empty elsewhere
    labels: [entry.label ?? []].flat().map(String),
    probability: numberOr(entry.probability),
    top: (entry.top ?? []).map(({ label, probability }) => ({ label: String(label), probability: Number(probability) })),
    set: Array.isArray(entry.set) ? entry.set.map(String) : null,
    unlike: entry.unlike === true,
    unlikeness: numberOr(entry.unlikeness),
    nearest: (entry.nearest ?? []).map((near) => ({ name: String(near.name ?? ""), label: String(near.label ?? "") })),
    drift: driftOf(said.drift),
    heat: typeof entry.heat === "string" && entry.heat.startsWith("data:image/png;base64,") ? entry.heat : null,
  };
}

/** How many of the last images are unlike the training images, where that is far too many; null elsewhere. */
function driftOf(recent) {
  const [unlike, images, expected] = [recent?.unlike, recent?.images, recent?.expected].map(numberOr);
  return recent?.drifted === true && unlike !== null && images !== null && expected !== null ? { unlike, images, expected } : null;
}

/** Whether the server is there at all. */
export async function alive() {
  try {
    return (await fetch("healthz", { cache: "no-store" })).ok;
  } catch {
    return false;
  }
}

/** A page of a model, `report` or `card`, as a Blob: for when a link cannot carry the token. */
export async function pageOf(model, which) {
  return (await send(addressOf(model, which))).blob();
}

/** The address of that page. */
export const addressOf = (model, which) => `models/${encodeURIComponent(model)}/${which}`;
