// The page: fill masks, see surprise, and follow masked language modelling step by step.
// All text is written with textContent, so nothing of a text or an answer is read as HTML.

import * as backend from "./backend.js";
import { drawFill, drawSteps, drawSurprise, make } from "./draw.js";

const byId = (id) => document.getElementById(id);
const chosen = (name) => document.querySelector(`input[name=${name}]:checked`).value;
const segmenter = "Segmenter" in Intl ? new Intl.Segmenter(undefined, { granularity: "word" }) : null;
const state = { models: [], shown: new Set(), masked: new Set(), tab: "fill", last: null, asked: 0 };

// --- models ---------------------------------------------------------------------------------------------------------

function askForKey(errors) {
  if (!errors.some((error) => error?.wantsKey)) return;
  byId("key").hidden = false;
  byId("key-value").focus();
}

const warn = () => (byId("warning").textContent = backend.warnings.join(" "));

async function loadModels() {
  try {
    state.models = await backend.models();
  } catch (error) {
    byId("error").textContent = error.message;
    askForKey([error]);
    return;
  }
  byId("error").textContent = "";
  byId("key").hidden = true;
  warn();
  state.shown = new Set(state.models.map((model) => model.name));
  const choices = state.models.map((model) => {
    const box = make("input", { type: "checkbox", checked: true });
    box.addEventListener("change", () => (box.checked ? state.shown.add(model.name) : state.shown.delete(model.name)));
    return make("label", {}, box, ` ${model.name}`);
  });
  byId("models").append(...choices);
  byId("models").hidden = state.models.length < 2;
  if (!state.masked.size) drawWords(); // the mask tokens are known now
  for (const node of document.querySelectorAll(".mask-token")) node.textContent = state.models[0].mask_token;
}

const shownModels = () => state.models.filter((model) => state.shown.has(model.name));

// --- words -----------------------------------------------------------------------------------------------------------

// The parts of a text and where they begin; a mask token that was typed is one part.
function wordsOf(text) {
  const masks = state.models.map((model) => model.mask_token.replace(/[$()*+./?[\\\]^{|}]/g, "\\$&"));
  const pieces = masks.length ? text.split(new RegExp(`(${masks.join("|")})`, "u")) : [text];
  let at = 0;
  return pieces.flatMap((piece, number) => {
    const begin = at;
    at += piece.length;
    const parts = number % 2 ? [{ text: piece, at: 0, word: false, mask: true }] : partsOf(piece);
    return parts.map((part) => ({ ...part, at: begin + part.at }));
  });
}

function partsOf(text) {
  if (segmenter) {
    return [...segmenter.segment(text)].map((part) => ({ text: part.segment, at: part.index, word: part.isWordLike }));
  }
  return [...text.matchAll(/[\p{L}\p{M}\p{N}'’-]+|[^\p{L}\p{M}\p{N}'’-]+/gu)].map((part) => ({
    text: part[0], at: part.index, word: /[\p{L}\p{N}]/u.test(part[0]),
  }));
}

function drawWords() {
  state.masked.clear();
  const shown = wordsOf(byId("text").value).filter((part) => part.text.trim() !== "");
  byId("words").replaceChildren(
    ...shown.map((part) => {
      if (!part.word) return make("span", {}, part.text);
      const button = make("button", { type: "button", "aria-pressed": "false" }, part.text);
      button.addEventListener("click", () => {
        const masked = !state.masked.has(part.at);
        if (masked) state.masked.add(part.at);
        else state.masked.delete(part.at);
        button.setAttribute("aria-pressed", String(masked));
      });
      return button;
    }),
  );
}

function maskedText(model) {
  const gap = backend.blanks && chosen("gap") === "word" ? "___" : model.mask_token;
  return wordsOf(byId("text").value)
    .map((part) => (part.mask ? model.mask_token : state.masked.has(part.at) ? gap : part.text))
    .join("");
}

// --- what each tab asks, and how it shows the answer -------------------------------------------------------------------

const tabs = {
  fill: {
    task: "fill",
    body: (model) => ({ model: model.name, inputs: maskedText(model), parameters: { top_k: 8, ranking: chosen("ranking") } }),
    draw: drawFill,
  },
  surprise: {
    task: "score",
    body: (model) => ({ model: model.name, inputs: byId("text").value, parameters: { details: true } }),
    draw: drawSurprise,
  },
  explain: {
    task: "explain",
    body: (model) => ({
      model: model.name,
      inputs: byId("text").value,
      parameters: { seed: Number(byId("seed").value), mask_rate: Number(byId("rate").value) },
    }),
    draw: drawSteps,
  },
};

// --- asking ----------------------------------------------------------------------------------------------------------

// An answer about a text that cannot be computed is an error.
function checked(answer) {
  if (answer[0]?.error) throw new Error(answer[0].error);
  return answer;
}

// What went wrong with each model, once where it is the same with all.
function errorsOf(models, outcomes) {
  const failed = outcomes.flatMap((outcome, at) => (outcome.status === "rejected" ? [[models[at].name, outcome.reason.message]] : []));
  const different = new Set(failed.map(([, message]) => message)).size;
  if (failed.length === outcomes.length && different === 1) return failed[0][1];
  return failed.map(([name, message]) => `${name}: ${message}`).join(" — ");
}

async function run() {
  const tab = tabs[state.tab];
  const number = ++state.asked;
  const models = shownModels();
  byId("error").textContent = "";
  byId("copies").hidden = true;
  if (models.length === 0) {
    byId("results").replaceChildren();
    byId("error").textContent = state.models.length ? "Choose a model." : "The models are not known yet.";
    return;
  }
  byId("status").textContent = "Computing …";
  const bodies = models.map(tab.body);
  const report = (text) => number === state.asked && (byId("status").textContent = text);
  const outcomes = await Promise.allSettled(bodies.map(async (body) => checked(await backend.ask(tab.task, body, report))));
  if (number !== state.asked) return; // a later question was asked
  const good = outcomes.flatMap((outcome, at) => (outcome.status === "fulfilled" ? [at] : []));
  const answers = good.map((at) => outcomes[at].value);
  byId("results").replaceChildren(...good.map((at, column) =>
    make("section", { class: state.tab === "explain" ? "steps" : null, "aria-label": models[at].name },
      make("h2", {}, models[at].name), ...tab.draw(answers[column], answers))));
  byId("error").textContent = errorsOf(models, outcomes);
  askForKey(outcomes.map((outcome) => outcome.reason));
  byId("status").textContent = good.length ? "Done." : "";
  const json = JSON.stringify(answers.length === 1 ? answers[0] : answers, null, 2);
  state.last = { json, python: backend.pythonOf(tab.task, good.map((at) => bodies[at])) };
  byId("copies").hidden = good.length === 0;
  warn();
}

async function copy(kind, button) {
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(state.last[kind]);
    button.textContent = "Copied";
  } catch {
    button.textContent = "The browser does not allow it";
  }
  setTimeout(() => (button.textContent = before), 1500);
}

function choose(name) {
  state.tab = name;
  state.asked++; // an answer for another tab comes too late
  for (const tab of document.querySelectorAll("[role=tab]")) {
    const chosen = tab.id === `tab-${name}`;
    tab.setAttribute("aria-selected", String(chosen));
    tab.tabIndex = chosen ? 0 : -1;
    byId(tab.getAttribute("aria-controls")).hidden = !chosen;
  }
  byId("results").replaceChildren();
  byId("status").textContent = byId("error").textContent = "";
  byId("copies").hidden = true;
}

const order = Object.keys(tabs);
for (const name of order) {
  const tab = byId(`tab-${name}`);
  tab.addEventListener("click", () => choose(name));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = order[(order.indexOf(name) + step + order.length) % order.length];
    choose(next);
    byId(`tab-${next}`).focus();
  });
  byId(`run-${name}`).addEventListener("click", run);
}
byId("text").addEventListener("input", drawWords);
byId("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) run();
});
byId("next-draw").addEventListener("click", () => {
  byId("seed").value = Number(byId("seed").value) + 1;
  run();
});
byId("copy-json").addEventListener("click", (event) => copy("json", event.target));
byId("copy-python").addEventListener("click", (event) => copy("python", event.target));
byId("key").addEventListener("submit", (event) => {
  event.preventDefault();
  backend.useKey(byId("key-value").value);
  loadModels();
});
for (const node of document.querySelectorAll("[data-needs=blanks]")) node.hidden = !backend.blanks;
drawWords();
await loadModels();
byId("note").append(backend.note, ...Object.entries(backend.links).flatMap(([text, href]) => [" ", make("a", { href }, text)]));
