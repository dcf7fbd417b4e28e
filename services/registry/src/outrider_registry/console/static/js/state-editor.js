// Keys and values of a desired state: typed keys get the control that fits them, others take JSON or plain text.
import { Button, html } from "./ui.js";

let rows = 0;

/** Rows for the editor from a state; `null` values stay visible. */
export const toRows = (state) => Object.entries(state ?? {}).map(([key, value]) => ({ id: ++rows, key, text: toText(value) }));

/** How a value is typed: text as it is unless it would read as something else. */
export function toText(value) {
  if (typeof value !== "string") return JSON.stringify(value);
  try {
    JSON.parse(value);
    return JSON.stringify(value);
  } catch {
    return value;
  }
}

/** What typed text means under a typed key, or without a type: JSON where it reads as such, else text. Throws a sentence. */
export function toValue(text, key) {
  const fail = (what) => { throw new Error(`${key.key} takes ${what}; “${text}” is none.`); };
  switch (key?.type) {
    case "string": {
      try {
        const value = JSON.parse(text);
        if (typeof value === "string") return value;
      } catch {
        // plain text
      }
      return text;
    }
    case "integer": return /^-?\d+$/.test(text.trim()) ? Number(text) : fail("a whole number");
    case "number": return text.trim() !== "" && Number.isFinite(Number(text)) ? Number(text) : fail("a number");
    case "boolean": return { true: true, false: false }[text.trim()] ?? fail("true or false");
    case "json":
      try {
        return JSON.parse(text);
      } catch {
        return fail("JSON");
      }
    default:
      try {
        return JSON.parse(text);
      } catch {
        return text;
      }
  }
}

/** The state that the rows say. Throws a sentence for a value that does not fit its key, or a key that is there twice. */
export function toState(list, keys) {
  const state = {};
  for (const row of list) {
    const name = row.key.trim();
    if (!name) {
      if (row.text.trim()) throw new Error(`The value “${row.text}” has no key.`);
      continue;
    }
    if (name in state) throw new Error(`The key ${name} is there twice.`);
    state[name] = toValue(row.text, keys.find((one) => one.key === name));
  }
  return state;
}

/** `list`: rows of toRows; `keys`: typed keys of GET /configuration-keys; `onChange(list)`. */
export function StateEditor({ list, keys, onChange }) {
  const change = (id, changes) => onChange(list.map((row) => (row.id === id ? { ...row, ...changes } : row)));
  const add = () => onChange([...list, { id: ++rows, key: "", text: "" }]);
  return html`
    <div class="state-editor">
      ${list.map((row) => {
        const key = keys.find((one) => one.key === row.key.trim());
        return html`
          <div class="state-row" key=${row.id}>
            <input aria-label="Key" class="mono" list="typed-keys" placeholder="key" value=${row.key} autocapitalize="none" spellcheck="false" autocomplete="off" onInput=${(event) => change(row.id, { key: event.target.value })} />
            <${Value} typed=${key} text=${row.text} onText=${(text) => change(row.id, { text })} />
            <${Button} kind="quiet" icon="trash" label=${`Remove ${row.key}`} onClick=${() => onChange(list.filter((one) => one.id !== row.id))} />
            ${key && html`<p class="hint">${[key.description, rangeOf(key)].filter(Boolean).join(" ")}</p>`}
          </div>`;
      })}
      <div><${Button} kind="small" icon="plus" onClick=${add}>Add key<//></div>
      <datalist id="typed-keys">${keys.map((one) => html`<option value=${one.key}>${one.description}</option>`)}</datalist>
    </div>`;
}

/** "1 to 3,600 s" of a key's bounds. */
export function rangeOf({ minimum, maximum, unit, type }) {
  const of = unit ? ` ${unit}` : type === "string" && (minimum !== null || maximum !== null) ? " characters" : "";
  if (minimum !== null && maximum !== null) return `${minimum} to ${maximum}${of}.`;
  if (minimum !== null) return `At least ${minimum}${of}.`;
  if (maximum !== null) return `At most ${maximum}${of}.`;
  return unit ? `In ${unit}.` : "";
}

function Value({ typed, text, onText }) {
  const input = (event) => onText(event.target.value);
  const options = typed?.choices?.map(toText) ?? (typed?.type === "boolean" ? ["true", "false"] : null);
  if (options) {
    return html`<select aria-label="Value" value=${text} onChange=${input}><option value="" selected=${text === ""} disabled>choose</option>${options.map((one) => html`<option value=${one} selected=${one === text}>${one}</option>`)}
      ${text !== "" && !options.includes(text) && html`<option value=${text} selected>${text} (not allowed)</option>`}</select>`;
  }
  if (typed?.type === "integer" || typed?.type === "number") {
    return html`<input aria-label="Value" type="number" class="mono" step=${typed.type === "integer" ? 1 : "any"} min=${typed.minimum ?? undefined} max=${typed.maximum ?? undefined} required value=${text} onInput=${input} />`;
  }
  return html`<input aria-label="Value" class="mono" placeholder=${typed?.type === "string" ? "text" : "value or JSON"} value=${text} autocomplete="off" spellcheck="false" onInput=${input} />`;
}
