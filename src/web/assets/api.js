// Talking to the server: the key, JSON calls, and following one prediction until it ends.

const KEY = "stablehand-key";

export const TERMINAL = new Set(["succeeded", "failed", "canceled", "aborted"]);

/// An answer that is not 2xx; `fields` maps input names to what is wrong with them.
export class Refusal extends Error {
  constructor(status, body) {
    super(body?.detail || body?.title || `The server answered ${status}.`);
    this.status = status;
    this.fields = {};
    for (const { field, description } of body?.invalid_fields || []) {
      this.fields[field.replace(/^input\./, "")] = description;
    }
  }
}

function headers(more = {}) {
  const key = localStorage.getItem(KEY);
  return key ? { ...more, Authorization: `Bearer ${key}` } : more;
}

/// Asks for a key in a dialog; resolves once one was given.
export function askForKey() {
  return new Promise((resolve) => {
    const dialog = document.createElement("dialog");
    const form = document.createElement("form");
    form.method = "dialog";
    const label = document.createElement("label");
    label.textContent = "API key of this server ";
    const input = document.createElement("input");
    input.type = "password";
    input.autocomplete = "off";
    input.required = true;
    const hint = document.createElement("span");
    hint.className = "hint";
    hint.textContent = "It stays in this browser.";
    const save = document.createElement("button");
    save.className = "primary";
    save.textContent = "Use it";
    label.append(input, hint);
    form.append(label, save);
    dialog.append(form);
    document.body.append(dialog);
    dialog.addEventListener("close", () => {
      if (input.value) localStorage.setItem(KEY, input.value.trim());
      dialog.remove();
      resolve(Boolean(input.value));
    });
    dialog.showModal();
    input.focus();
  });
}

/// Shows the header's button for another key once a key is in use.
export function offerKey() {
  const button = document.getElementById("key");
  button.hidden = !localStorage.getItem(KEY);
  button.onclick = async () => {
    if (await askForKey()) location.reload();
  };
}

/// One JSON call under /v1; asks for a key where one is needed.
export async function call(path, options = {}) {
  const url = path.startsWith("http") ? path : `/v1${path}`;
  const more = options.body ? { "Content-Type": "application/json", "Stablehand-Source": "web" } : {};
  const init = { ...options, headers: headers(more) };
  const response = await fetch(url, init);
  if (response.status === 401 && (await askForKey())) {
    offerKey();
    return call(path, options);
  }
  const body = await response.json().catch(() => null);
  if (!response.ok) throw new Refusal(response.status, body);
  return body;
}

/// Follows a prediction: `onPrediction(prediction)` at each change, `onPreview({step, total, image})` in between.
/// Resolves with the last state. Where the event stream is not to be had, it polls.
export async function follow(id, onPrediction, onPreview, signal) {
  for (;;) {
    const last = await listen(id, onPrediction, onPreview, signal).catch(() => null);
    if (signal?.aborted) return last;
    if (last && TERMINAL.has(last.status)) return last;
    const now = await call(`/predictions/${id}`);
    onPrediction(now);
    if (TERMINAL.has(now.status)) return now;
    await new Promise((resolve) => setTimeout(resolve, 700));
  }
}

async function listen(id, onPrediction, onPreview, signal) {
  const response = await fetch(`/v1/predictions/${id}/previews`, {
    headers: headers({ Accept: "text/event-stream" }),
    signal,
  });
  if (!response.ok || !response.body) return null;
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let last = null;
  for await (const { event, data } of events(reader)) {
    if (event === "prediction") {
      last = JSON.parse(data);
      onPrediction(last);
      if (TERMINAL.has(last.status)) break;
    } else if (event === "preview") {
      onPreview(JSON.parse(data));
    } else if (event === "done") {
      break;
    }
  }
  reader.cancel().catch(() => {});
  return last;
}

async function* events(reader) {
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
      const lines = text.slice(0, end).split("\n");
      text = text.slice(end + 2);
      const field = (name) =>
        lines.filter((l) => l.startsWith(`${name}:`)).map((l) => l.slice(name.length + 1).replace(/^ /, ""));
      const data = field("data");
      if (data.length) yield { event: field("event")[0] || "message", data: data.join("\n") };
    }
  }
}
