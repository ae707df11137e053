// The page of one prediction: it follows it while it runs and shows everything that is known about it.

import { call, follow, offerKey, TERMINAL } from "./api.js";
import { el, Stage } from "./view.js";

const by = (id) => document.getElementById(id);
const id = location.pathname.split("/").pop();
const stage = new Stage(by("stage"));

function list(root, pairs) {
  const shown = pairs.filter(([, value]) => value !== undefined && value !== null && value !== "");
  root.replaceChildren(...shown.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, String(value))]));
}

function show(prediction) {
  stage.show(prediction);
  document.title = `${prediction.status} · ${prediction.input?.prompt ?? "Prediction"} · Stablehand`;
  by("cancel").hidden = TERMINAL.has(prediction.status);
  const text = (value) => (typeof value === "string" ? value : JSON.stringify(value));
  list(by("input"), [
    ["model", prediction.model],
    ["version", prediction.version],
    ...Object.entries(prediction.input || {}).map(([name, value]) => [name, text(value)]),
  ]);
  const time = (value) => value && new Date(value).toLocaleString();
  const seconds = (value) => value !== undefined && `${value.toFixed(2)} s`;
  list(by("timing"), [
    ["id", prediction.id],
    ["created", time(prediction.created_at)],
    ["started", time(prediction.started_at)],
    ["completed", time(prediction.completed_at)],
    ["drawing took", prediction.metrics && seconds(prediction.metrics.predict_time)],
    ["in all", prediction.metrics && seconds(prediction.metrics.total_time)],
  ].filter(([, value]) => value));
  by("logs").textContent = prediction.logs || "";
}

async function start() {
  offerKey();
  try {
    const prediction = await call(`/predictions/${encodeURIComponent(id)}`);
    stage.begin();
    show(prediction);
    by("cancel").onclick = async () => show(await call(`/predictions/${id}/cancel`, { method: "POST" }));
    if (!TERMINAL.has(prediction.status)) await follow(id, show, (preview) => stage.showPreview(preview));
  } catch (error) {
    const text = error.status === 404 ? "There is no such prediction." : error.message;
    by("stage").replaceChildren(el("p", { class: "problem", role: "alert" }, text));
  }
}

start();
