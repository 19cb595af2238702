// Computes what the page asks, one question at a time; a new question ends the one before it.

import { explain } from "./explain.js";
import { fill } from "./fill.js";
import { Model } from "./model.js";
import { score } from "./score.js";

const tasks = { fill, score, explain };
const model = Model.load((warning) => postMessage({ warning }));
let newest = 0;

async function answer(id, task, body) {
  const loaded = await model;
  if (task === "models") return [loaded.about];
  newest = id;
  const report = async (text) => {
    postMessage({ id, report: text });
    await new Promise((resolve) => setTimeout(resolve)); // a new question is heard here
    if (newest !== id) throw new Error("another question was asked");
  };
  await loaded.ready(report);
  return tasks[task](loaded, body.inputs, body.parameters, report);
}

addEventListener("message", async ({ data: { id, task, body } }) => {
  try {
    postMessage({ id, answer: await answer(id, task, body) });
  } catch (error) {
    postMessage({ id, error: error.message });
  }
});
