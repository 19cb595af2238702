// What the page asks, computed in this browser by worker.js. The page of a server has another file of this name with
// the same exports.

const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
const waiting = new Map();
let asked = 0;

/** Whether a gap of unknown length, such as ___, can be filled. */
export const blanks = false;

/** What the foot of the page says. */
export let note = "Everything is computed in this browser; no text leaves it. Blanks of unknown length, such as ___, take Python.";

/** Links of the foot of the page, by their text. */
export const links = {};

/** What the page should warn of. */
export const warnings = [];

/** There is no key. */
export function useKey() {}

/** Return the models: their names, mask tokens and what else is known of them. */
export async function models() {
  const found = await call("models");
  const { parity } = found[0];
  if (parity) {
    const [here, before] = [parity.exported, parity.original].map(({ accuracy }) => `${(100 * accuracy.value).toFixed(1)}%`);
    note += ` In 8 bits the model predicts ${here} of ${parity.masked_tokens} masked tokens of held-out text, in full precision ${before}.`;
  }
  return found;
}

/** Compute something; arguments and result are those of the page of a server. */
export const ask = (task, body, report) => call(task, body, report);

function call(task, body, report) {
  return new Promise((resolve, reject) => {
    waiting.set(++asked, { resolve, reject, report });
    worker.postMessage({ id: asked, task, body });
  });
}

worker.addEventListener("message", ({ data }) => {
  if (data.warning) warnings.push(data.warning);
  const { resolve, reject, report } = waiting.get(data.id) ?? {};
  if (data.report) report?.(data.report);
  if ("answer" in data) resolve(data.answer);
  if ("error" in data) reject(new Error(data.error));
  if (!data.report) waiting.delete(data.id);
});
worker.addEventListener("error", (event) => {
  const error = new Error(`This browser cannot run the page: ${event.message || "it takes no module as a worker"}.`);
  for (const { reject } of waiting.values()) reject(error);
  waiting.clear();
});

/** Return the same as Python code. */
export function pythonOf(task, bodies) {
  const calls = bodies.map(({ inputs, parameters }) => {
    const { details, ...options } = parameters; // eslint-disable-line no-unused-vars
    if (task === "fill") options.blanks = "False";
    const given = Object.entries(options).map(([name, value]) => `, ${name}=${name === "blanks" ? value : JSON.stringify(value)}`);
    return `print(model.${task}(${JSON.stringify(inputs)}${given.join("")}))`;
  });
  return `import unmask

# A copy of the folder of this page: ${new URL(".", document.baseURI).href}
model = unmask.load("FOLDER")
${calls.join("\n")}
`;
}
