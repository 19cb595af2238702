// What the page asks, answered by the server. The page of an export for the web has another file of this name with the
// same exports, which computes in the browser.

const KEY = "unmask-key";

/** Whether a gap of unknown length, such as ___, can be filled. */
export const blanks = true;

/** What the foot of the page says. */
export const note = "Nothing leaves this server.";

/** Links of the foot of the page, by their text. */
export const links = { Routes: "docs" };

/** What the page should warn of. */
export const warnings = [];

/** Keep the key that requests bring. */
export function useKey(key) {
  sessionStorage.setItem(KEY, key);
}

/** Return the models: their names, mask tokens and what else is known of them. */
export const models = () => call("models");

/**
 * Compute something.
 *
 * @param {"fill" | "score" | "explain"} task - its name is that of the route.
 * @param {object} body - the JSON of the request: model, inputs and parameters.
 * @param {(text: string) => void} [report] - is told how far it is, where that takes long.
 * @returns {Promise<object>} the JSON of the answer.
 * @throws {Error} with a message for a person; `wantsKey` is set where the key is missing or wrong.
 */
export const ask = (task, body) => call(task, body);

async function call(path, body) {
  const headers = { "Content-Type": "application/json" };
  const key = sessionStorage.getItem(KEY);
  if (key) headers.Authorization = `Bearer ${key}`;
  let answer;
  try {
    answer = await fetch(path, body ? { method: "POST", headers, body: JSON.stringify(body) } : { headers });
  } catch {
    throw new Error("The server does not answer. Is it still running?");
  }
  if (answer.status === 401) {
    const message = key ? "The server does not know this key." : "This server wants its key.";
    throw Object.assign(new Error(message), { wantsKey: true });
  }
  const found = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(found.field ? `${found.field}: ${found.error}` : found.error || `status ${answer.status}`);
  return found;
}

/** Return the same as Python code. */
export function pythonOf(task, bodies) {
  const url = new URL(task, document.baseURI).href;
  const key = sessionStorage.getItem(KEY) !== null; // the key itself is not copied
  const calls = bodies.map((body) => `print(ask(${literal(body)}))`).join("\n");
  return `import json
${key ? "import os\n" : ""}from urllib.request import Request, urlopen


def ask(body):
    headers = {"Content-Type": "application/json"${key ? ', "Authorization": f"Bearer {os.environ[\'UNMASK_API_KEY\']}"' : ""}}
    return json.load(urlopen(Request(${JSON.stringify(url)}, json.dumps(body).encode(), headers)))


${calls}
`;
}

function literal(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  return `{${Object.entries(value).map(([name, inner]) => `${JSON.stringify(name)}: ${literal(inner)}`).join(", ")}}`;
}
