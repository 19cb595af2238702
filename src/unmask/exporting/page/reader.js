// Texts as token ids, and token ids as text: the same as unmask in Python does, checked when the page loads.

import { Tokenizer } from "./libraries/tokenizers.js";

// What Python takes for white space.
const SPACES = "\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
export const SPACE = new RegExp(`[${SPACES}]+`, "u");
const ONLY_SPACE = new RegExp(`^[${SPACES}]*$`, "u");
const CONTINUES = 4, OPENS = 1, CLOSES = 2, IDEOGRAPH = 8, SPECIAL = 16, MARKED = 32, BARE = 64, SPLIT = 128;

export const isEmpty = (text) => ONLY_SPACE.test(text);

// What keeps a text from being read, if anything does.
export function unusable(text) {
  if (text.includes("\0")) return "the text has a NUL character; it is not plain text";
  if (/\p{Surrogate}/u.test(text)) return "the text has half of a surrogate pair; remove it";
  return null;
}

export class Reader {
  constructor(facts, definition) {
    this.facts = facts;
    this.prepare = preparation(definition.normalizer);
    this.plain = tokenizerOf(definition, facts.hidden, facts.added.filter(({ id }) => id !== facts.mask_id));
    const { [facts.mask_token]: _, ...hidden } = facts.hidden;
    this.masked = tokenizerOf(definition, hidden, facts.added);
    this.entries = [];
    const { vocab } = definition.model;
    if (Array.isArray(vocab)) vocab.forEach(([entry], id) => (this.entries[id] = entry));
    else for (const [entry, id] of Object.entries(vocab)) this.entries[id] = entry;
    for (const { id, content } of definition.added_tokens) this.entries[id] = content;
    this.flags = facts.flags && Uint8Array.from(atob(facts.flags), (byte) => byte.charCodeAt(0));
    this.special = new Set(facts.special);
  }

  // A text as ids and tokens, without those that frame it; control tokens in it are text.
  encode(text) {
    return this.plain.encode(this.prepare(text), { add_special_tokens: false });
  }

  ids(text) {
    return this.encode(text).ids;
  }

  // The ids of texts with a mask between each two.
  idsAround(parts) {
    return this.masked.encode(this.prepare(parts.join(this.facts.mask_token)), { add_special_tokens: false }).ids;
  }

  framed(ids) {
    return [...this.facts.prefix, ...ids, ...this.facts.suffix];
  }

  // An entry of the vocabulary.
  token(id) {
    return this.entries[id];
  }

  // The same for display, with bytes as text.
  name(id) {
    return this.facts.names[id] ?? this.entries[id] ?? `[id ${id}]`;
  }

  // One token as text, without the mark of a beginning or continued word.
  text(id) {
    const { texts, mark } = this.facts;
    const entry = this.entries[id];
    return texts[id] ?? (mark && entry.startsWith(mark) ? entry.slice(mark.length) : entry);
  }

  // At which of the ids a word begins.
  starts(ids) {
    if (!this.flags) return ids.map(() => true);
    const flags = this.joinedFlags(ids);
    return flags.map((flag, at) => {
      if (at === 0) return true;
      const before = flags[at - 1];
      let starts = Boolean(flag & OPENS || before & CLOSES) && !(flag & CONTINUES);
      if (before & BARE && !(flag & (MARKED | SPECIAL))) starts = false;
      return starts || Boolean(before & SPECIAL);
    });
  }

  // The flags of ids, those of characters whose bytes are in several tokens included.
  joinedFlags(ids) {
    const flags = ids.map((id) => this.flags[id]);
    const given = [...flags];
    const bytes = (id) => this.facts.bytes_of[id] ?? [];
    given.forEach((flag, place) => {
      if (!(flag & SPLIT)) return;
      const raw = bytes(ids[place]);
      let begin = raw.length;
      while (begin > 0 && raw[begin - 1] >= 0x80 && raw[begin - 1] < 0xc0) begin--;
      begin -= 1;
      let last = place;
      const character = raw.slice(begin);
      while (character.length < 4 && last + 1 < ids.length && given[last + 1] & CONTINUES) character.push(...bytes(ids[++last]));
      const { size, kind } = firstCharacter(character);
      if (kind === "letter") return;
      if (begin === 0) flags[place] |= OPENS | (kind === "ideograph" ? IDEOGRAPH : 0);
      if (size === character.length) flags[last] |= CLOSES;
    });
    return flags;
  }

  // The words of a text as they are written in it, by the numbers of the words of its tokens.
  words(text, ids, wordOf) {
    const written = [];
    ids.forEach((id, at) => {
      const known = id !== this.facts.unknown_id;
      const before = written[wordOf[at]] ?? [];
      written[wordOf[at]] = known && before ? [...before, id] : null;
    });
    return placed(text, written.map((found) => found && this.spelled(found)));
  }

  spelled(ids) {
    const raw = ids.flatMap((id) => this.facts.bytes_of[id] ?? [...new TextEncoder().encode(this.text(id))]);
    return new TextDecoder().decode(Uint8Array.from(raw)).trim();
  }
}

function tokenizerOf(definition, hidden, added) {
  const { model } = definition;
  const renamed = (entry) => hidden[entry] ?? entry;
  const vocab = Array.isArray(model.vocab)
    ? model.vocab.map(([entry, score]) => [renamed(entry), score])
    : Object.fromEntries(Object.entries(model.vocab).map(([entry, id]) => [renamed(entry), id]));
  const plain = { ...definition, model: { ...model, vocab }, added_tokens: added, post_processor: null, decoder: null };
  return new Tokenizer(plain, {});
}

// What the library's normalizers leave out: Σ becomes σ at the end of a word too, and each rare Chinese character is a word.
function preparation(normalizer) {
  const steps = [normalizer, ...(normalizer?.normalizers ?? [])].filter(Boolean);
  const lower = steps.some(({ type, lowercase }) => type === "Lowercase" || lowercase);
  const chinese = steps.some(({ handle_chinese_chars: apart }) => apart);
  return (text) => {
    const lowered = lower ? text.replaceAll("Σ", "σ") : text;
    return chinese ? lowered.replace(RARE_HAN, " $& ") : lowered;
  };
}

function firstCharacter(raw) {
  for (let size = 2; size <= raw.length; size++) {
    try {
      const character = new TextDecoder("utf-8", { fatal: true }).decode(Uint8Array.from(raw.slice(0, size)));
      return { size, kind: kindOf(character) };
    } catch {
      // not yet a whole character
    }
  }
  return { size: raw.length, kind: "letter" };
}

const HAN = "\\u4e00-\\u9fff\\u3400-\\u4dbf\\u{20000}-\\u{2a6df}\\u{2a700}-\\u{2ceaf}\\uf900-\\ufaff\\u{2f800}-\\u{2fa1f}";
const IDEOGRAPHS = new RegExp(`[${HAN}]`, "u");
const RARE_HAN = /[\u{20000}-\u{2a6df}\u{2a700}-\u{2ceaf}\u{2f800}-\u{2fa1f}]/gu;
const MARKS = "\\p{P}$+<=>\\^`|~";
const WORDS = new RegExp(`[${HAN}]|[${MARKS}]|[^${SPACES}${HAN}${MARKS}]+`, "gu");

function kindOf(character) {
  if (isEmpty(character)) return "space";
  if (IDEOGRAPHS.test(character)) return "ideograph";
  return /[\p{L}\p{N}\p{M}]/u.test(character) ? "letter" : "punctuation";
}

const folded = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase().replaceAll("ς", "σ");

// Find words in a text, each behind the one before it. What lies between is divided among unknown words.
function placed(text, words) {
  let end = 0;
  const found = words.map((word) => {
    const at = word === null ? null : find(text, folded(word), end);
    if (at) end = at[1];
    return at;
  });
  const written = found.map((at, number) => (at ? text.slice(...at).trim() : words[number]));
  for (let begin = 0; begin < words.length; begin++) {
    if (words[begin] !== null) continue;
    let stop = begin;
    while (stop < words.length && words[stop] === null) stop++;
    const between = text.slice(found.slice(0, begin).findLast(Boolean)?.[1] ?? 0, found.slice(stop).find(Boolean)?.[0]);
    const parts = between.match(WORDS) ?? [];
    const each = parts.length === stop - begin ? parts : Array(stop - begin).fill(between.trim());
    written.splice(begin, stop - begin, ...each);
    begin = stop;
  }
  return written;
}

function find(text, word, from) {
  for (let begin = from; begin < Math.min(text.length, from + 64); begin++) {
    let end = begin;
    let read = "";
    while (end < text.length && read !== word && word.startsWith(read)) {
      end += text.codePointAt(end) > 0xffff ? 2 : 1;
      read = folded(text.slice(begin, end));
      if (read === "") break;
    }
    if (read !== word || word === "") continue;
    while (/^\p{M}/u.test(text.slice(end))) end += text.codePointAt(end) > 0xffff ? 2 : 1;
    return [begin, end];
  }
  return null;
}
