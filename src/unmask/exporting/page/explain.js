// Masked language modelling on one text, with the draw of training: unmask/inference/explain.py in JavaScript.

import { hash, randomBits, streamOf, threshold, uniform } from "./random.js";
import { SPACE, unusable } from "./reader.js";

const TOP = 5;

export async function explain(model, text, { seed, mask_rate: rate }) {
  if (!(rate > 0 && rate <= 1)) throw new Error("the mask rate must be more than 0 and at most 1");
  if (!Number.isInteger(seed) || seed < 0) throw new Error("the seed must be a whole number, 0 or more");
  const { facts, reader } = model;
  const ids = tokenized(model, text);
  const special = ids.map((id) => Number(reader.special.has(id)));
  const drawn = draw(model, text, ids, special, seed, rate);
  const selected = drawn.mask.flatMap((chosen, at) => (chosen ? [at] : []));
  const logs = await model.logs(drawn.seen, ids.map((_, at) => at));
  const losses = ids.map((id, at) => -logs[at][id]);
  const loss = selected.length ? selected.reduce((sum, at) => sum + losses[at], 0) / selected.length : null;
  const named = (numbers) => numbers.map((id) => reader.name(id));
  const [tokens, shown] = [named(ids), named(drawn.seen)];
  return {
    text,
    tokens,
    input_ids: ids,
    token_type_ids: ids.map(() => 0),
    attention_mask: ids.map(() => 1),
    labels: ids.map((id, at) => (drawn.mask[at] ? id : -100)),
    random_draw: drawn.draws,
    special_tokens_mask: special,
    mask: drawn.mask,
    selected,
    masked_input_ids: drawn.seen,
    masked_tokens: shown,
    predictions: selected.map((at) => ({
      position: at,
      original: tokens[at],
      shown: shown[at],
      top: model.best(logs[at], TOP, null).map(([id, log]) => ({ token: reader.name(id), token_id: id, probability: Math.exp(log) })),
      loss: losses[at],
    })),
    token_loss: losses.map((value, at) => (drawn.mask[at] ? value : null)),
    loss,
    labels_mode: "masked",
    mask_positions_given: false,
    forced: drawn.forced,
    chances: ids.map(() => Number(threshold(rate)) * 2 ** -64),
    units: ids.map((_, at) => at),
    masking: { ...facts.masking, rate },
    seed,
    mask_token_id: facts.mask_id,
    takes_token_types: facts.takes_token_types,
    model: facts.name,
  };
}

function tokenized(model, text) {
  const error = unusable(text);
  if (error) throw new Error(error);
  const body = model.reader.ids(text);
  if (!body.length) throw new Error("the text is empty: expected at least one token to mask");
  const { prefix, suffix, max_length: most } = model.facts;
  const overhead = prefix.length + suffix.length;
  if (body.length + overhead > most) {
    throw new Error(`the text has ${body.length + overhead} tokens, ${overhead} special ones included, and the model takes ${most}; give a shorter text`);
  }
  return model.reader.framed(body);
}

// Select tokens and replace them, as training does in its first epoch with this seed.
function draw({ facts }, text, ids, special, seed, rate) {
  const key = documentKey(text);
  const bits = (purpose) => {
    const stream = streamOf(seed, purpose);
    return (at) => randomBits(key, stream, at - facts.prefix.length);
  };
  const [select, kind, token] = ["select", "kind", "token"].map(bits);
  const draws = ids.map((_, at) => uniform(select(at)));
  const mask = ids.map((_, at) => !special[at] && select(at) < threshold(rate));
  const seen = [...ids];
  if (!mask.some(Boolean) && special.some((one) => !one)) {
    const lowest = draws.reduce((best, one, at) => (!special[at] && (best < 0 || one < draws[best]) ? at : best), -1);
    mask[lowest] = true;
    seen[lowest] = facts.mask_id;
    return { draws, mask, seen, forced: true };
  }
  const { mask_share: masks, random_share: random } = facts.masking;
  mask.forEach((chosen, at) => {
    if (!chosen) return;
    if (kind(at) < threshold(masks)) seen[at] = facts.mask_id;
    else if (kind(at) < threshold(masks + random)) seen[at] = replacement(facts, token(at));
  });
  return { draws, mask, seen, forced: false };
}

function replacement(facts, bits) {
  const never = new Set(facts.never_drawn);
  const allowed = Array.from({ length: facts.size }, (_, id) => id).filter((id) => !never.has(id));
  return allowed[Number(((bits >> 32n) * BigInt(allowed.length)) >> 32n)];
}

// The hash by which a document is masked.
function documentKey(text) {
  const plain = /^[\0-\x7f]*$/.test(text) ? text : text.normalize("NFKC");
  const words = plain.toLowerCase().split(SPACE).filter(Boolean);
  return hash(new TextEncoder().encode(words.join(" ")));
}
