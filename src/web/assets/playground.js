// The playground: a form from the model's schema, a run with its live preview, the same in code, and what was run before.

import { call, follow, offerKey, Refusal, TERMINAL } from "./api.js";
import { build, fill, mark, properties, read } from "./form.js";
import { SNIPPETS } from "./snippets.js";
import { el, isPicture, Stage } from "./view.js";

const by = (id) => document.getElementById(id);
const form = by("form");
const stage = new Stage(by("stage"));

let models = [];
let model = null;
let fields = [];
let running = null; // {id, abort} of the prediction that is being followed
let snippet = "curl";

const version = () => `${model.owner}/${model.name}:${model.latest_version.id}`;

function choose(name, input = {}) {
  model = models.find((m) => `${m.owner}/${m.name}` === name) || models[0];
  by("model").value = `${model.owner}/${model.name}`;
  by("model-hint").textContent = model.description || "";
  fields = properties(model.latest_version.openapi_schema);
  build(by("fields"), fields, input);
  showCode();
}

function showCode() {
  if (model) by("code").textContent = SNIPPETS[snippet](location.origin, version(), read(form, fields));
}

function showTabs() {
  const tabs = Object.keys(SNIPPETS).map((name) =>
    el(
      "button",
      {
        type: "button",
        role: "tab",
        "aria-selected": String(name === snippet),
        "aria-controls": "code",
        onclick: () => {
          snippet = name;
          showTabs();
          showCode();
        },
      },
      name,
    ),
  );
  const copy = el("button", { type: "button", class: "copy", onclick: () => copyCode(copy) }, "Copy");
  by("tabs").replaceChildren(...tabs, copy);
}

async function copyCode(button) {
  try {
    await navigator.clipboard.writeText(by("code").textContent);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(by("code")); // without a clipboard (plain http) at least it is selected
    button.textContent = "Selected";
  }
  setTimeout(() => (button.textContent = "Copy"), 1500);
}

function complain(refusal) {
  const first = mark(form, fields, refusal?.fields || {});
  const named = first !== null;
  by("problem").hidden = !refusal || named;
  by("problem").textContent = refusal && !named ? refusal.message : "";
  first?.focus();
}

function busy(state) {
  by("run").disabled = state;
  by("cancel").disabled = !state;
}

async function run() {
  if (running || !model) return;
  complain(null);
  busy(true);
  try {
    const body = JSON.stringify({ version: version(), input: read(form, fields) });
    const created = await call("/predictions", { method: "POST", body });
    await watch(created);
  } catch (error) {
    complain(error instanceof Refusal ? error : { message: "The server cannot be reached.", fields: {} });
  } finally {
    busy(false);
    refresh();
  }
}

async function watch(prediction) {
  running = { id: prediction.id, abort: new AbortController() };
  by("link").href = `/p/${prediction.id}`;
  by("link").hidden = false;
  stage.begin();
  stage.show(prediction);
  busy(true);
  try {
    await follow(prediction.id, (p) => stage.show(p), (p) => stage.showPreview(p), running.abort.signal);
  } finally {
    running = null;
    busy(false);
  }
}

async function cancel() {
  if (running) stage.show(await call(`/predictions/${running.id}/cancel`, { method: "POST" }));
}

let older = null;

async function refresh() {
  const page = await call("/predictions");
  older = page.next;
  by("history").replaceChildren(...page.results.slice(0, 24).map(entry));
  if (!page.results.length) by("history").replaceChildren(el("li", { class: "hint" }, "Nothing yet."));
  by("more").hidden = page.results.length <= 24 && !older;
  by("more").onclick = async () => {
    by("history").replaceChildren(...page.results.map(entry));
    by("more").hidden = !older;
    by("more").onclick = async () => {
      const next = await call(older);
      older = next.next;
      by("history").append(...next.results.map(entry));
      by("more").hidden = !older;
    };
  };
}

function entry(prediction) {
  const prompt = String(prediction.input?.prompt ?? "");
  const first = prediction.output?.find(isPicture);
  const thumb = first
    ? el("img", { src: first, alt: "", loading: "lazy" })
    : el("span", { class: "thumb" }, prediction.status);
  const open = () => {
    if (running) return;
    choose(prediction.model, prediction.input || {});
    fill(form, fields, prediction.input || {});
    showCode();
    by("link").href = `/p/${prediction.id}`;
    by("link").hidden = false;
    stage.begin();
    stage.show(prediction);
    if (!TERMINAL.has(prediction.status)) watch(prediction).then(refresh);
    scrollTo({ top: 0, behavior: "smooth" });
  };
  const name = `${prompt || "no prompt"}, ${prediction.status}`;
  return el("li", {}, el("button", { type: "button", onclick: open, "aria-label": name }, thumb, el("span", { class: "text" }, prompt)));
}

async function start() {
  offerKey();
  showTabs();
  try {
    models = (await call("/models")).results.filter((m) => m.latest_version);
    by("model").replaceChildren(
      ...models.map((m) => el("option", { value: `${m.owner}/${m.name}` }, `${m.owner}/${m.name}`)),
    );
    by("model-field").hidden = models.length < 2;
    choose(null);
    await refresh();
  } catch (error) {
    complain(error instanceof Refusal ? error : { message: `The page could not start: ${error}`, fields: {} });
  }
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  run();
});
form.addEventListener("input", showCode);
by("model").addEventListener("change", () => choose(by("model").value, read(form, fields)));
by("cancel").addEventListener("click", cancel);
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  if (event.key === "Escape" && running && !document.querySelector("dialog[open]")) cancel();
});
start();
