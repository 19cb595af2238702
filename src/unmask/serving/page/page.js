// The page of the server: fill masks, see surprise, and follow masked language modelling step by step.
// All text is written with textContent, so nothing of a text or an answer is read as HTML.

const byId = (id) => document.getElementById(id);
const segmenter = "Segmenter" in Intl ? new Intl.Segmenter(undefined, { granularity: "word" }) : null;
const state = { models: [], shown: new Set(), masked: new Set(), tab: "fill", last: null, asked: 0 };

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== false && value !== null) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

// --- the server ------------------------------------------------------------------------------------------------------

async function call(path, body) {
  const headers = { "Content-Type": "application/json" };
  const key = sessionStorage.getItem("unmask-key");
  if (key) headers.Authorization = `Bearer ${key}`;
  let answer;
  try {
    answer = await fetch(path, body ? { method: "POST", headers, body: JSON.stringify(body) } : { headers });
  } catch {
    throw new Error("The server does not answer. Is it still running?");
  }
  if (answer.status === 401) {
    byId("key").hidden = false;
    byId("key-value").focus();
    throw new Error(key ? "The server does not know this key." : "This server wants its key.");
  }
  const found = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(found.field ? `${found.field}: ${found.error}` : found.error || `status ${answer.status}`);
  byId("key").hidden = true;
  return found;
}

async function loadModels() {
  try {
    state.models = await call("models");
  } catch (error) {
    byId("error").textContent = error.message;
    return;
  }
  byId("error").textContent = "";
  state.shown = new Set(state.models.map((model) => model.name));
  const choices = state.models.map((model) => {
    const box = make("input", { type: "checkbox", checked: true });
    box.addEventListener("change", () => (box.checked ? state.shown.add(model.name) : state.shown.delete(model.name)));
    return make("label", {}, box, ` ${model.name}`);
  });
  byId("models").append(...choices);
  byId("models").hidden = state.models.length < 2;
  for (const node of document.querySelectorAll(".mask-token")) node.textContent = state.models[0].mask_token;
}

const shownModels = () => state.models.filter((model) => state.shown.has(model.name));

// --- words -----------------------------------------------------------------------------------------------------------

function wordsOf(text) {
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
  const gap = document.querySelector("input[name=gap]:checked").value === "word" ? "___" : model.mask_token;
  return wordsOf(byId("text").value)
    .map((part) => (state.masked.has(part.at) ? gap : part.text))
    .join("");
}

// --- what each tab asks, and how it shows the answer -------------------------------------------------------------------

const tabs = {
  fill: {
    path: "fill",
    body: (model) => ({ model: model.name, inputs: maskedText(model), parameters: { top_k: 8 } }),
    draw: drawFill,
  },
  surprise: {
    path: "score",
    body: (model) => ({ model: model.name, inputs: byId("text").value, parameters: { details: true } }),
    draw: drawSurprise,
  },
  explain: {
    path: "explain",
    body: (model) => ({
      model: model.name,
      inputs: byId("text").value,
      parameters: { seed: Number(byId("seed").value), mask_rate: Number(byId("rate").value) },
    }),
    draw: drawSteps,
  },
};

function literal(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  return `{${Object.entries(value).map(([name, inner]) => `${JSON.stringify(name)}: ${literal(inner)}`).join(", ")}}`;
}

function pythonOf(path, bodies) {
  const url = new URL(path, document.baseURI).href;
  const calls = bodies.map((body) => `print(ask(${literal(body)}))`).join("\n");
  return `import json
from urllib.request import Request, urlopen


def ask(body):
    headers = {"Content-Type": "application/json"}
    return json.load(urlopen(Request(${JSON.stringify(url)}, json.dumps(body).encode(), headers)))


${calls}
`;
}

function percent(value) {
  return value >= 0.001 ? `${(100 * value).toFixed(1)}%` : value.toExponential(1);
}

function candidateRows(candidates, name) {
  const rows = candidates.map((one) =>
    make("tr", {}, make("th", { scope: "row", dir: "auto" }, name(one)),
      make("td", { class: "number" }, percent(one.probability)),
      make("td", { class: "bar", "aria-hidden": "true" }, barOf(one.probability))),
  );
  const head = make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "candidate"),
    make("th", { scope: "col", class: "number" }, "probability"), make("td", {})));
  return make("table", {}, head, make("tbody", {}, ...rows));
}

function barOf(share) {
  const bar = make("span");
  bar.style.width = `${100 * share}%`;
  return bar;
}

function drawFill(found) {
  const result = found[0];
  if (result.error) throw new Error(result.error);
  const parts = [candidateRows(result.candidates, (one) => one.text)];
  if (result.per_mask.length > 1) {
    result.per_mask.forEach((candidates, number) => {
      parts.push(make("h3", {}, `Mask ${number + 1} alone`), candidateRows(candidates, (one) => one.text));
    });
  }
  if (!result.exact) parts.push(make("p", {}, "Approximate: the search may have missed a candidate."));
  if (result.window) parts.push(make("p", {}, "The text is longer than the model takes: it saw the part around the masks."));
  return parts;
}

function drawSurprise(found, model, answers) {
  const result = found[0];
  if (result.error) throw new Error(result.error);
  const all = answers.flatMap((answer) => answer[0].word_scores); // one scale for all models
  const most = all.reduce((highest, word) => Math.max(highest, -word.pll), 6);
  const words = result.word_scores.map((word) => {
    const item = make("li", { dir: "auto" }, word.text || "·", make("small", {}, (-word.pll).toFixed(1)));
    item.style.setProperty("--share", (0.55 * Math.min(1, -word.pll / most)).toFixed(3));
    return item;
  });
  const sum = `${(-result.pll).toFixed(1)} nats in all, ${(-result.per_token).toFixed(2)} per token of ${result.tokens}`;
  const parts = [make("ul", { class: "heat" }, ...words), make("p", {}, sum)];
  if (result.unknown) parts.push(make("p", {}, `${result.unknown} tokens are unknown to this model; their scores mean little.`));
  return parts;
}

function drawSteps(found, model) {
  const rows = found.tokens.map((token, at) => {
    const prediction = found.predictions.find((one) => one.position === at);
    const best = prediction ? prediction.top.slice(0, 3).map((one) => `${one.token} ${percent(one.probability)}`).join(", ") : "";
    const draw = found.random_draw ? found.random_draw[at].toFixed(3) : "";
    const cells = [found.input_ids[at], found.token_type_ids[at], found.attention_mask[at],
      found.special_tokens_mask[at] ? "special" : draw, found.mask[at] ? "masked" : "",
      found.labels[at], `${found.masked_tokens[at]} ${found.masked_input_ids[at]}`, best,
      prediction ? prediction.loss.toFixed(3) : ""];
    return make("tr", { class: found.mask[at] ? "chosen" : null }, make("th", { scope: "row", class: "token", dir: "auto" }, token),
      ...cells.map((cell) => make("td", {}, String(cell))));
  });
  const names = ["token", "input_ids", "token_type_ids", "attention_mask", "random draw", "selected", "labels", "model sees",
    "predictions", "loss"];
  const head = make("thead", {}, make("tr", {}, ...names.map((name) => make("th", { scope: "col" }, name))));
  const { rate, mask_share: masks, random_share: random } = found.masking;
  const share = (value) => `${Math.round(100 * value)}%`;
  const loss = found.loss === null ? "Nothing is predicted." : `The loss is the mean over the masked tokens: ${found.loss.toFixed(3)}.`;
  return [
    make("p", {}, `A token whose draw is below ${rate} is selected, special tokens never. Of those selected, ${share(masks)} become ` +
      `the mask token, ${share(random)} a random token, ${share(1 - masks - random)} stay. Labels are -100 where nothing is predicted. ${loss}` +
      (found.forced ? " No draw was below the rate, so the lowest was taken; training would predict nothing here." : "")),
    make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `Tokens, ${model.name}` },
      make("table", {}, head, make("tbody", {}, ...rows))),
  ];
}

// --- asking ----------------------------------------------------------------------------------------------------------

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
  try {
    const bodies = models.map(tab.body);
    const answers = await Promise.all(bodies.map((body) => call(tab.path, body)));
    if (number !== state.asked) return; // a later question was asked
    const columns = answers.map((found, at) =>
      make("section", { class: state.tab === "explain" ? "steps" : null, "aria-label": models[at].name },
        make("h2", {}, models[at].name), ...tab.draw(found, models[at], answers)));
    byId("results").replaceChildren(...columns);
    byId("status").textContent = "Done.";
    const json = JSON.stringify(answers.length === 1 ? answers[0] : answers, null, 2);
    state.last = { json, python: pythonOf(tab.path, bodies) };
    byId("copies").hidden = false;
  } catch (error) {
    if (number !== state.asked) return;
    byId("results").replaceChildren();
    byId("status").textContent = "";
    byId("error").textContent = error.message;
  }
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
  sessionStorage.setItem("unmask-key", byId("key-value").value);
  loadModels();
});
drawWords();
await loadModels();
