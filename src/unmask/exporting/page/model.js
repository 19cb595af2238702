// The model: its files, its tokenizer, and log-probabilities of tokens at places of a sequence.

import * as ort from "./libraries/ort.js";
import { Reader } from "./reader.js";

const ROOT = new URL("../", import.meta.url);
const NEAR = 0.01; // nats
const SHARE = 0.1; // of the largest difference that 8 bits make: rounding before a scale can move a number to the next step

ort.env.wasm.numThreads = 1; // more would need cross-origin isolation, which few hosts of static files give

async function file(name) {
  const answer = await fetch(new URL(name, ROOT)).catch(() => null);
  if (!answer?.ok) throw new Error(`The file ${name} of this page cannot be loaded.`);
  return answer;
}

const json = async (name) => (await file(name)).json();

export class Model {
  // Where a sequence of ids is computed, and what the folder says of the model.
  constructor(facts, reader, warn) {
    Object.assign(this, { facts, reader, warn, loaded: 0, session: null, last: Promise.resolve() });
    this.barred = new Uint8Array(facts.outputs).fill(1, facts.size);
    for (const id of facts.never_filled) this.barred[id] = 1;
    this.start = this.open();
    this.start.catch(() => {}); // said by ready()
  }

  static async load(warn) {
    const facts = await json("unmask.json");
    const reader = new Reader(facts, await json("tokenizer.json"));
    const parity = await json("parity.json").catch(() => null);
    const wrong = facts.checks.texts.filter(({ text, ids }) => String(reader.ids(text)) !== String(ids));
    if (wrong.length) {
      const texts = wrong.map(({ text }) => `“${text}”`).join(", ");
      warn(`This browser splits some texts into other tokens than Python does, for example ${texts}: their results differ.`);
    }
    return new Model({ ...facts, parity }, reader, warn);
  }

  get about() {
    const { name, architecture, parameters, size, max_length, mask_token, parity } = this.facts;
    return { name, architecture, parameters, vocabulary: size, max_length, mask_token, parity };
  }

  async open() {
    const runtime = file("page/libraries/ort.wasm");
    const answer = await file(this.facts.file);
    const chunks = [];
    for (const stream = answer.body.getReader(); ; ) {
      const { done, value } = await stream.read();
      if (done) break;
      chunks.push(value);
      this.loaded += value.length;
    }
    const bytes = new Uint8Array(await new Blob(chunks).arrayBuffer());
    ort.env.wasm.wasmBinary = await (await runtime).arrayBuffer(); // whatever type the host says it has
    const options = { executionProviders: ["wasm"], logSeverityLevel: 3 }; // its warnings would be errors of the console
    this.session = await ort.InferenceSession.create(bytes, options);
    await this.check();
  }

  // Wait until the model is loaded.
  async ready(report) {
    const megabytes = (bytes) => (bytes / 1e6).toFixed(0);
    while (!this.session) {
      const failed = await Promise.race([this.start.then(() => null, (error) => error), new Promise((done) => setTimeout(done, 200))]);
      if (failed) throw new Error(`The model cannot be loaded: ${failed.message}`);
      if (!this.session) await report(`Loading the model: ${megabytes(this.loaded)} of ${megabytes(this.facts.bytes)} MB …`);
    }
    await this.start;
    await report("Computing …");
  }

  // Compare a prediction with that of Python.
  async check() {
    const { ids, place, best } = this.facts.checks.prediction;
    const [logs] = await this.logs(ids, [place]);
    const off = Math.max(...best.map(([id, log]) => Math.abs(logs[id] - log)));
    const near = Math.max(NEAR, SHARE * (this.facts.parity?.largest_difference.log_probability ?? 0));
    if (!(off <= near)) {
      this.warn(`This browser computes other numbers than Python did: of a sample text, log-probabilities differ by up to ${off.toFixed(3)} nats.`);
    }
  }

  // The log-probabilities of all tokens at some places of a sequence, a row each.
  async logs(ids, places) {
    const logits = await this.logits(ids, places);
    const width = logits.length / places.length;
    return places.map((_, row) => logSoftmax(logits.subarray(row * width, (row + 1) * width)));
  }

  // One sequence goes through the model by itself: in int8, others beside it would change its numbers.
  async logits(ids, places) {
    const length = Math.max(ids.length, this.facts.shortest);
    const tensor = (values, dims) => new ort.Tensor("int64", BigInt64Array.from(values, BigInt), dims);
    const padded = (values, rest) => tensor([...values, ...Array(length - values.length).fill(rest)], [1, length]);
    const all = {
      input_ids: padded(ids, this.facts.pad_id),
      attention_mask: padded(ids.map(() => 1), 0),
      token_type_ids: padded([], 0),
      places: tensor(places, [places.length]),
    };
    const feeds = Object.fromEntries(this.session.inputNames.map((name) => [name, all[name]]));
    const turn = this.last.then(() => this.session.run(feeds, ["logits"]));
    this.last = turn.catch(() => {});
    return (await turn).logits.data;
  }

  // The most probable tokens of a row that may be candidates, as pairs of id and log-probability, best first.
  best(logs, most, barred = this.barred) {
    const found = [];
    for (let id = 0; id < logs.length; id++) {
      if (barred?.[id] || (found.length === most && logs[id] <= found[most - 1][1])) continue;
      let at = found.length;
      while (at > 0 && found[at - 1][1] < logs[id]) at--;
      found.splice(at, 0, [id, logs[id]]);
      if (found.length > most) found.pop();
    }
    return found;
  }
}

function logSoftmax(logits) {
  let highest = -Infinity;
  for (const value of logits) highest = Math.max(highest, value);
  let sum = 0;
  for (const value of logits) sum += Math.exp(value - highest);
  if (!Number.isFinite(sum)) throw new Error("the model's output is NaN or infinite");
  const shift = highest + Math.log(sum);
  return Float32Array.from(logits, (value) => value - shift);
}
