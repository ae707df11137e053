// The form, built from the model's own OpenAPI schema: whatever a model takes, the page can ask for.

import { el } from "./view.js";

/// The properties of `Input` in their order, with enums and references resolved.
export function properties(schema) {
  const schemas = schema?.components?.schemas || {};
  const target = (part) => schemas[part.$ref?.split("/").pop()] || part;
  const list = Object.entries(schemas.Input?.properties || {}).map(([name, raw]) => {
    const merged = Object.assign({}, ...(raw.allOf || []).map(target), raw);
    return { name, ...merged, description: raw.description || merged.description };
  });
  return list.sort((a, b) => (a["x-order"] ?? 99) - (b["x-order"] ?? 99));
}

/// Fields for the properties; `values` are what they hold at the beginning.
export function build(root, list, values = {}) {
  const short = [];
  const rows = [];
  for (const property of list) {
    const field = label(property, values[property.name]);
    if (property.type === "string" && !property.enum) rows.push(field);
    else short.push(field);
  }
  root.replaceChildren(...rows, el("div", { class: "pair" }, ...short));
}

function label(property, value) {
  const id = `input-${property.name}`;
  const title = (property.title || property.name).replaceAll("_", " ");
  const hint = el("span", { class: "hint", id: `${id}-hint` }, hintOf(property));
  const fault = el("span", { class: "fault", id: `${id}-fault`, hidden: true });
  const control = controlOf(property, id, value);
  control.setAttribute("aria-describedby", `${hint.id} ${fault.id}`);
  return el("label", { for: id }, title.charAt(0).toUpperCase() + title.slice(1), control, hint, fault);
}

function hintOf({ description, minimum, maximum }) {
  const range = minimum !== undefined && maximum !== undefined ? `${minimum} to ${maximum}` : "";
  return [description, range].filter(Boolean).join(" · ");
}

function controlOf(property, id, value) {
  const start = value ?? property.default ?? "";
  const shared = { id, name: property.name };
  if (property.enum) {
    const options = property.enum.map((option) =>
      el("option", { value: String(option), selected: String(option) === String(start) }, String(option)),
    );
    return el("select", shared, ...options);
  }
  if (property.type === "boolean") {
    const options = ["true", "false"].map((o) => el("option", { value: o, selected: o === String(start) }, o));
    return el("select", shared, ...options);
  }
  if (property.type === "integer" || property.type === "number") {
    const step = property.type === "integer" ? 1 : "any";
    const { minimum: min, maximum: max } = property;
    const placeholder = property.default === undefined ? "random" : "";
    return el("input", { ...shared, type: "number", step, min, max, value: start, placeholder, inputmode: "decimal" });
  }
  const area = el("textarea", { ...shared, rows: property.name === "prompt" ? 3 : 2 });
  area.value = start;
  return area;
}

/// The form's input object: what is empty or equals the default is left out, but for the prompt.
export function read(form, list) {
  const input = {};
  for (const { name, type, default: standard } of list) {
    const text = form.elements[name]?.value ?? "";
    if (text === "" || (name !== "prompt" && text === String(standard))) continue;
    input[name] = type === "integer" || type === "number" ? Number(text) : type === "boolean" ? text === "true" : text;
  }
  return input;
}

/// Writes an input object into the form; what it does not name gets its default.
export function fill(form, list, input) {
  for (const { name, default: standard } of list) {
    const control = form.elements[name];
    if (control) control.value = String(input[name] ?? standard ?? "");
  }
}

/// Marks the fields that a refusal names; returns the first of them.
export function mark(form, list, faults) {
  let first = null;
  for (const { name } of list) {
    const control = form.elements[name];
    const fault = document.getElementById(`input-${name}-fault`);
    if (!control || !fault) continue;
    control.setAttribute("aria-invalid", String(name in faults));
    fault.hidden = !(name in faults);
    fault.textContent = faults[name] || "";
    if (name in faults) first ??= control;
  }
  return first;
}
