// Drawing a prediction: status, progress, live preview, pictures. Text from users only ever becomes text nodes.

import { TERMINAL } from "./api.js";

/// An element with attributes and children; strings become text.
export function el(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

/// {done, total} of the last progress line of the logs, or null.
export function progress(logs) {
  for (const line of (logs || "").split("\n").reverse()) {
    const found = line.match(/^\s*(\d+)%\s*\|.+?\|\s*(\d+)\/(\d+)/);
    if (found) return { done: Number(found[2]), total: Number(found[3]) };
  }
  return null;
}

/// The seed that the logs name, or null.
export function seedOf(logs) {
  return (logs || "").match(/Using seed: (\d+)/)?.[1] ?? null;
}

/// Only addresses that can be a picture are given to an <img> or a link.
export function isPicture(url) {
  return typeof url === "string" && (/^https?:\/\//.test(url) || url.startsWith("data:image/"));
}

/// A stage that shows one prediction and its previews inside `root`.
export class Stage {
  constructor(root) {
    this.root = root;
    this.shown = null;
  }

  begin() {
    this.status = el("span", { class: "status", role: "status", "aria-live": "polite" });
    this.detail = el("span", { class: "hint" });
    this.bar = el("progress", { max: 1, "aria-label": "Progress" });
    this.preview = el("img", { class: "preview", alt: "Preview of the picture as it becomes clear", hidden: true });
    this.problem = el("p", { class: "problem", role: "alert", hidden: true });
    this.pictures = el("div", { class: "pictures" });
    const line = el("div", { class: "row" }, this.status, this.detail);
    this.root.replaceChildren(line, this.bar, this.problem, this.preview, this.pictures);
    this.shown = "";
  }

  showPreview({ step, total, image }) {
    if (!isPicture(image)) return;
    this.preview.src = image;
    this.preview.hidden = false;
    this.advance({ done: step, total });
  }

  advance(progress) {
    if (!progress) return;
    this.bar.max = progress.total;
    this.bar.value = progress.done;
    this.detail.textContent = `step ${progress.done} of ${progress.total}`;
  }

  show(prediction) {
    if (this.shown === null) this.begin();
    const ended = TERMINAL.has(prediction.status);
    this.status.textContent = prediction.status;
    this.status.dataset.state = prediction.status;
    this.bar.hidden = ended;
    if (!ended) this.advance(progress(prediction.logs));
    if (ended) {
      this.preview.hidden = true;
      const seconds = prediction.metrics?.predict_time;
      const seed = seedOf(prediction.logs);
      this.detail.textContent = [seconds && `${seconds.toFixed(1)} s`, seed && `seed ${seed}`].filter(Boolean).join(" · ");
    }
    this.problem.hidden = !prediction.error;
    this.problem.textContent = prediction.error || "";
    const outputs = prediction.output || [];
    if (this.shown !== outputs.join()) {
      this.shown = outputs.join();
      this.pictures.replaceChildren(...outputs.filter(isPicture).map((url, i) => picture(url, i, prediction)));
    }
    if (prediction.data_removed) this.detail.textContent = "Its data has been removed.";
  }
}

function picture(url, index, prediction) {
  const caption = el("figcaption", {}, el("a", { href: url, download: `${prediction.id}-${index}.png` }, "Download"));
  if (url.startsWith("http")) caption.append(el("a", { href: url, target: "_blank", rel: "noopener" }, "Open"));
  return el("figure", {}, el("img", { src: url, alt: String(prediction.input?.prompt || "The picture") }), caption);
}
