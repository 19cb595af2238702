// Fill the masks of a text, one token each: unmask/inference/fill.py and beam.py in JavaScript.

import { isEmpty, unusable } from "./reader.js";

const BEAM = 16;

export async function fill(model, text, { top_k, ranking }) {
  const { body, places } = read(model, text);
  const window = windowOf(model, body, places);
  const ids = model.reader.framed(window.body);
  const at = window.places.map((place) => place + model.facts.prefix.length);
  const beam = Math.max(BEAM, top_k);
  const most = at.length === 1 ? top_k : ranking === "joint" ? beam : top_k;
  const alone = (await model.logs(ids, at)).map((logs) => model.best(logs, most));
  const search = ranking === "joint" ? joint : independent;
  const { fillings, dropped } = await search(model, ids, at, alone, top_k, beam);
  const full = fillings.length === top_k && fillings.at(-1).score >= dropped;
  return [{
    text,
    masks: window.places.map((place) => place + model.facts.prefix.length + window.begin),
    candidates: fillings.map((one) => candidate(model, one, ranking)),
    per_mask: alone.map((tokens) => tokens.slice(0, top_k).map(([id, log]) => ({
      token: model.reader.token(id), text: model.reader.text(id), token_id: id, probability: Math.exp(log),
    }))),
    error: null,
    ranking,
    exact: full || dropped === -Infinity,
    window: window.body.length === body.length ? null : [window.begin, window.begin + window.body.length],
    unknown: window.body.filter((id) => id === model.facts.unknown_id).length,
  }];
}

// --- reading -----------------------------------------------------------------------------------------------------------

function read(model, text) {
  const { facts, reader } = model;
  if (isEmpty(text)) throw new Error("the text is empty");
  const error = unusable(text);
  if (error) throw new Error(error);
  const markers = [...new Set(["[MASK]", "<mask>", facts.mask_token])];
  const longest = [...markers].sort((a, b) => b.length - a.length);
  const parts = text.split(new RegExp(longest.map((marker) => marker.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&")).join("|"), "u"));
  if (parts.length === 1) {
    const more = /___|\{[1-8]/.test(text) ? " (___ and {1-4} are taken as text; Python fills them)" : "";
    throw new Error(`no mask in this text: write ${markers.join(" or ")} where a token is wanted${more}`);
  }
  const body = reader.idsAround(parts);
  const places = body.flatMap((id, at) => (id === facts.mask_id ? [at] : []));
  if (places.length !== parts.length - 1) {
    throw new Error(`the text has ${parts.length - 1} mask(s), but its tokens have ${places.length}; put spaces around them`);
  }
  return { body, places };
}

// As many tokens as the model takes, the masks in the middle of them.
function windowOf({ facts }, body, places) {
  const room = facts.max_length - facts.prefix.length - facts.suffix.length;
  if (body.length <= room) return { body, places, begin: 0 };
  const span = places.at(-1) + 1 - places[0];
  if (span > room) {
    throw new Error(`the masks of this text take ${span} tokens from the first to the last, and the model takes ${room} at once; ` +
      "put them nearer to one another, or into texts of their own");
  }
  const begin = Math.max(0, Math.min(places[0] - Math.floor((room - span) / 2), body.length - room));
  return { body: body.slice(begin, begin + room), places: places.map((place) => place - begin), begin };
}

// --- searching ---------------------------------------------------------------------------------------------------------

// The chain rule: first the mask at which some token is most probable, then the next, as the masks before are filled.
async function joint(model, ids, places, alone, topK, beam) {
  const order = places.map((_, mask) => mask).sort((a, b) => alone[b][0][1] - alone[a][0][1] || a - b);
  const enough = places.length === 1 ? topK : beam;
  let kept = [{ score: 0, ids: [], logs: [] }];
  let dropped = -Infinity;
  for (let step = 0; step < order.length; step++) {
    const best = [];
    for (const partial of step ? kept : []) {
      const filled = [...ids];
      partial.ids.forEach((id, at) => (filled[places[order[at]]] = id));
      const [logs] = await model.logs(filled, [places[order[step]]]);
      best.push(model.best(logs, enough));
    }
    if (step === 0) best.push(alone[order[0]].slice(0, enough));
    const longer = kept.flatMap((old, row) => best[row].map(([id, log]) => (
      { score: old.score + log, ids: [...old.ids, id], logs: [...old.logs, log] })));
    longer.sort((a, b) => b.score - a.score || compared(a.ids, b.ids));
    const ends = kept.flatMap((old, row) => (best[row].length === enough ? [old.score + best[row].at(-1)[1]] : []));
    const keep = step + 1 === order.length ? topK : beam;
    dropped = Math.max(dropped, longer[keep]?.score ?? -Infinity, ...ends);
    kept = longer.slice(0, keep);
  }
  const back = order.map((_, mask) => order.indexOf(mask));
  const fillings = kept.map(({ score, ids: found, logs }) => ({ score, ids: back.map((at) => found[at]), logs: back.map((at) => logs[at]) }));
  return { fillings, dropped };
}

const compared = (a, b) => {
  const at = a.findIndex((id, place) => id !== b[place]);
  return at < 0 ? 0 : a[at] - b[at];
};

// The prediction at each mask with all the others masked: combinations by falling sum.
async function independent(model, ids, places, alone, topK) {
  const scores = alone.map((tokens) => tokens.slice(0, topK).map(([, log]) => log));
  const sum = (ranks) => ranks.reduce((total, rank, mask) => total + scores[mask][rank], 0);
  const waiting = [{ ranks: places.map(() => 0), last: 0 }].map((one) => ({ ...one, score: sum(one.ranks) }));
  const fillings = [];
  let dropped = -Infinity;
  while (waiting.length) {
    const { ranks, last, score } = waiting.shift();
    if (fillings.length === topK) {
      dropped = score;
      break;
    }
    const chosen = ranks.map((rank, mask) => alone[mask][rank]);
    fillings.push({ score, ids: chosen.map(([id]) => id), logs: chosen.map(([, log]) => log) });
    for (let place = last; place < ranks.length; place++) {
      if (ranks[place] + 1 === scores[place].length) continue;
      const next = ranks.with(place, ranks[place] + 1);
      waiting.push({ ranks: next, last: place, score: sum(next) });
    }
    waiting.sort((a, b) => b.score - a.score || compared(a.ranks, b.ranks));
  }
  const best = sum(places.map(() => 0));
  const ends = scores.flatMap((tokens) => (tokens.length === topK ? [best - tokens[0] + tokens.at(-1)] : []));
  return { fillings, dropped: Math.max(dropped, ...ends) };
}

function candidate(model, { score, ids, logs }, ranking) {
  const { reader } = model;
  return {
    text: ids.map((id) => reader.text(id)).join(" "),
    tokens: ids.map((id) => reader.token(id)),
    token_ids: ids,
    probability: Math.exp(logs.reduce((sum, log) => sum + log, 0)),
    probabilities: logs.map(Math.exp),
    score,
    ranking,
  };
}
