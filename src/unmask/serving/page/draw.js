// How answers are shown.

export function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== false && value !== null) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
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

export function drawFill(found) {
  const result = found[0];
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

export function drawSurprise(found, answers) {
  const result = found[0];
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

// The tokens of an explanation side by side, each with its position and some lines below it.
function cellsOf(tokens, names, linesAt, chosen = [], positions = tokens.map((_, at) => at)) {
  const cell = (at) =>
    make("li", { class: chosen[at] ? "chosen" : null }, make("small", {}, String(at)),
      make("span", { class: "token", dir: "auto" }, tokens[at]), ...linesAt(at).map((line) => make("small", {}, String(line))));
  const lines = ["position", "token", ...names];
  const key = make("li", { class: "key", "aria-hidden": "true" }, ...lines.map((line) => make("small", {}, line)));
  return make("ol", { class: "cells", "aria-label": lines.join(", ") }, key, ...positions.map(cell));
}

function predictionOf({ position, original, top, loss }) {
  const cost = `The original has probability ${percent(Math.exp(-loss))}: loss −ln p = ${loss.toFixed(3)}.`;
  return make("div", {}, make("h4", { dir: "auto" }, `${position}: ${original}`),
    candidateRows(top, (one) => (one.token === original ? `✓ ${one.token}` : one.token)), make("p", {}, cost));
}

export function drawSteps(found) {
  const { tokens, mask, masking, random_draw: draws, predictions } = found;
  const share = (value) => `${Math.round(100 * value)}%`;
  const step = (title, text, ...rest) => {
    steps.push(make("li", {}, make("h3", {}, title), make("p", {}, text), ...rest));
  };
  const steps = [];
  step("Tokens", "The tokenizer splits the text into tokens of its vocabulary; special tokens begin and end the sequence.",
    cellsOf(tokens, [], () => []));
  step("Three tensors", "The ids of the tokens (input_ids); 0 for the first and only segment (token_type_ids); 1 for a real " +
    "token, 0 for padding, of which there is none here (attention_mask).",
    cellsOf(tokens, ["input_ids", "token_type_ids", "attention_mask"],
      (at) => [found.input_ids[at], found.token_type_ids[at], found.attention_mask[at]]));
  step("Labels", "The id to predict where a token is masked; everywhere else -100, which the loss ignores.",
    cellsOf(tokens, ["label"], (at) => [found.labels[at]], mask));
  step("Random draw", `Each token draws a number from 0 to 1 that depends on the seed (${found.seed}), the text and the position. ` +
    `Below the rate, ${masking.rate}, it is masked; special tokens never are.` +
    (found.forced ? " No draw was below the rate, so the lowest was taken; training would predict nothing here." : ""),
    cellsOf(tokens, ["draw"], (at) => [found.special_tokens_mask[at] ? "special" : draws[at].toFixed(3)], mask));
  if (predictions.length === 0) {
    step("Selected positions", "None: there is nothing to predict.");
    return [make("ol", { class: "lesson" }, ...steps)];
  }
  step("Selected positions", "The model has to predict these.", cellsOf(tokens, [], () => [], mask, found.selected));
  step("Replaced ids", found.forced ? "The selected token becomes the mask token." :
    `A second draw: ${share(masking.mask_share)} of the selected tokens become the mask token, ${share(masking.random_share)} a ` +
    `random token, ${share(1 - masking.mask_share - masking.random_share)} stay as they are. This is what the model sees.`,
    cellsOf(found.masked_tokens, ["id"], (at) => [found.masked_input_ids[at]], mask));
  step("Predictions", "A probability for each token of the vocabulary at each selected position; these are the highest.",
    make("div", { class: "columns" }, ...predictions.map((one) => predictionOf(one))));
  step("Loss", `The mean over the selected positions: (${predictions.map((one) => one.loss.toFixed(3)).join(" + ")}) / ` +
    `${predictions.length} = ${found.loss.toFixed(3)}.`);
  return [make("ol", { class: "lesson" }, ...steps)];
}
