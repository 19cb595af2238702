// The pseudo-log-likelihood of a text: each token is masked alone (the method "original" of unmask/scoring/scorer.py).

import { isEmpty, unusable } from "./reader.js";

export async function score(model, text, parameters, report) {
  if (isEmpty(text)) throw new Error("an empty text, nothing to score");
  const error = unusable(text);
  if (error) throw new Error(error);
  const { facts, reader } = model;
  const { ids, tokens } = reader.encode(text);
  if (!ids.length) throw new Error("the tokenizer finds no token in this text");
  const scored = ids.flatMap((id, at) => (!reader.special.has(id) || id === facts.unknown_id ? [at] : []));
  if (!scored.length) throw new Error("this text has only special tokens, which are not scored");
  requireMeasurable(ids, facts);
  const logs = [];
  for (const [done, at] of scored.entries()) {
    await report(`Computing … ${done} of ${scored.length} tokens`);
    logs.push(await logOf(model, ids, at));
  }
  return [result(model, text, { ids, tokens }, scored, logs)];
}

// As unmask/data/unknown.py: a score of mostly unknown tokens would be that of the unknown token.
function requireMeasurable(ids, facts) {
  const share = unknownIn(ids, facts) / ids.length;
  if (share <= facts.unmeasurable) return;
  const percent = (100 * share).toFixed(1);
  throw new Error(`${percent}% of the tokens are unknown to the tokenizer, so a metric would be of the unknown token, not of the text`);
}

const unknownIn = (ids, facts) => ids.filter((id) => id === facts.unknown_id).length;

// The log-probability of a token in the middle of as much of the text as the model takes.
async function logOf(model, ids, at) {
  const { facts, reader } = model;
  const room = facts.max_length - facts.prefix.length - facts.suffix.length;
  const begin = Math.min(Math.max(at - Math.floor(room / 2), 0), Math.max(0, ids.length - room));
  const shown = ids.slice(begin, begin + room);
  shown[at - begin] = facts.mask_id;
  const [row] = await model.logs(reader.framed(shown), [at - begin + facts.prefix.length]);
  return row[ids[at]];
}

function result(model, text, { ids, tokens }, scored, logs) {
  const { facts, reader } = model;
  const starts = reader.starts(ids);
  let word = -1;
  const wordOf = scored.map((at, number) => (number === 0 || starts[at] ? ++word : word));
  const words = reader.words(text, scored.map((at) => ids[at]), wordOf).map((written) => ({ text: written, tokens: 0, pll: 0 }));
  wordOf.forEach((number, at) => {
    words[number].tokens += 1;
    words[number].pll += logs[at];
  });
  const total = logs.reduce((sum, log) => sum + log, 0);
  const bytes = new TextEncoder().encode(text).length;
  return {
    text,
    pll: rounded(total),
    tokens: logs.length,
    words: words.length,
    bytes,
    method: "original",
    unknown: unknownIn(ids, facts),
    per_token: rounded(total / logs.length),
    per_word: rounded(total / words.length),
    per_byte: rounded(total / bytes),
    bits_per_byte: rounded(-total / bytes / Math.LN2),
    token_scores: scored.map((at, number) => ({ token: tokens[at], word: wordOf[number], pll: rounded(logs[number]) })),
    word_scores: words.map((one) => ({ ...one, pll: rounded(one.pll) })),
  };
}

const rounded = (value) => Number(value.toFixed(6));
