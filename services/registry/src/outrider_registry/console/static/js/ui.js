// What pages are made of. Everything a page needs is here, or re-exported here:
//
//   import { html, useState, useData, Page, Table, Button, toast } from "../ui.js";
import { html, useCallback, useEffect, useRef, useState } from "./core.js";
import { ago, dateTime, useClock } from "./format.js";
import { Icon } from "./icons.js";
import { toast } from "./overlays.js";

export * from "./core.js";
export * from "./format.js";
export { Icon, Logo } from "./icons.js";
export { confirm, Dialog, Overlays, toast } from "./overlays.js";
export { navigate, useLocation, useQuery } from "./router.js";
export { Sparkline } from "./sparkline.js";
export { More, Table } from "./table.js";

/**
 * What `load(signal)` resolves to, loaded again when `deps` change and every `every` ms while the page is visible.
 * {data, error, loading, reload}. The last data stays while new data loads.
 */
export function useData(load, deps, { every } = {}) {
  const [state, setState] = useState({ data: undefined, error: null, loading: true });
  const current = useRef(null);
  const reload = useCallback(async () => {
    current.current?.abort();
    const abort = (current.current = new AbortController());
    setState((now) => ({ ...now, loading: true }));
    try {
      const data = await load(abort.signal);
      if (current.current === abort) setState({ data, error: null, loading: false });
    } catch (error) {
      if (current.current === abort && error.name !== "AbortError") setState((now) => ({ ...now, error, loading: false }));
    }
  }, deps);
  useEffect(() => {
    reload();
    const timer = every && setInterval(() => document.hidden || reload(), every);
    return () => {
      clearInterval(timer);
      current.current?.abort();
      current.current = null;
    };
  }, [reload]);
  return { ...state, reload };
}

/** The parts of a page: title in the heading and the window, actions at the right, an optional line below. */
export function Page({ title, note, actions, children, flush }) {
  useEffect(() => { document.title = `${title} · Outrider`; }, [title]);
  return html`
    <div class=${flush ? "page flush" : "page"}>
      <header class="page-head">
        <div class="page-title"><h1>${title}</h1>${note && html`<p class="note">${note}</p>`}</div>
        ${actions && html`<div class="actions">${actions}</div>`}
      </header>
      ${children}
    </div>`;
}

/** A panel with a heading. */
export const Card = ({ title, actions, children, class: extra = "" }) => html`
  <section class=${`card ${extra}`}>
    ${(title || actions) && html`<header class="card-head"><h2>${title}</h2>${actions && html`<div class="actions">${actions}</div>`}</header>`}
    ${children}
  </section>`;

/**
 * A button. While the promise that `onClick` returns is pending it is busy; if it fails, a toast says why.
 * `kind`: primary, danger, quiet. `icon` by name; `label` for buttons without text.
 */
export function Button({ onClick, kind = "", icon, label, type = "button", busy, disabled, children, ...rest }) {
  const [working, setWorking] = useState(false);
  const alive = useRef(true);
  useEffect(() => () => { alive.current = false; }, []);
  const click = async (event) => {
    const result = onClick?.(event);
    if (!result?.then) return;
    setWorking(true);
    try {
      await result;
    } catch (error) {
      toast(error);
    } finally {
      if (alive.current) setWorking(false);
    }
  };
  const isBusy = busy || working;
  return html`
    <button type=${type} class=${`button ${kind} ${children ? "" : "square"}`} onClick=${click} disabled=${disabled || isBusy}
      aria-busy=${isBusy ? "true" : undefined} aria-label=${label} title=${label} ...${rest}>
      ${isBusy ? html`<${Spinner} />` : icon && html`<${Icon} name=${icon} />`}${children && html`<span>${children}</span>`}
    </button>`;
}

export const Spinner = () => html`<span class="spinner" role="progressbar" aria-label="Working"></span>`;

let fields = 0;

/**
 * A labelled control: <input> by default; `as="select"` with `options` (strings or [value, text] pairs), `as="textarea"`,
 * `as="check"`. `onValue(value)` is told what is typed; numbers as text.
 */
export function Field({ label, hint, error, as = "input", options, value, onValue, class: extra = "", ...rest }) {
  const id = useRef(`field-${++fields}`).current;
  const told = hint || error ? `${id}-hint` : undefined;
  const input = (event) => onValue?.(as === "check" ? event.target.checked : event.target.value);
  const shared = { id, "aria-describedby": told, "aria-invalid": error ? "true" : undefined, ...rest };
  const below = (hint || error) && html`<p id=${told} class=${error ? "hint bad" : "hint"}>${error || hint}</p>`;
  if (as === "check") {
    return html`<div class=${`field check ${extra}`}><label><input type="checkbox" checked=${value} onChange=${input} ...${shared} /><span>${label}</span></label>${below}</div>`;
  }
  const control = as === "select"
    ? html`<select value=${value} onChange=${input} ...${shared}>${options.map((one) => {
        const [key, text] = Array.isArray(one) ? one : [one, one];
        return html`<option value=${key} selected=${key === value}>${text}</option>`;
      })}</select>`
    : as === "textarea"
      ? html`<textarea value=${value} onInput=${input} rows="4" spellcheck="false" ...${shared}></textarea>`
      : html`<input value=${value} onInput=${input} autocomplete="off" ...${shared} />`;
  return html`<div class=${`field ${extra}`}><label for=${id}>${label}</label>${control}${below}</div>`;
}

/** State of a form's fields: `const form = useForm({name: ""})`, `<${Field} ...${form.bind("name")} label="Name" />`, `form.values`. */
export function useForm(initial) {
  const [values, setValues] = useState(initial);
  const set = useCallback((changes) => setValues((now) => ({ ...now, ...changes })), []);
  return { values, set, bind: (name) => ({ name, value: values[name], onValue: (v) => set({ [name]: v }) }) };
}

/** A form: `onSubmit()` may return a promise; while it is pending the buttons are busy, and if it fails the form says why. */
export function Form({ onSubmit, submit = "Save", kind = "primary", onCancel, children, disabled }) {
  const [state, setState] = useState({ busy: false, error: null });
  const alive = useRef(true);
  useEffect(() => () => { alive.current = false; }, []);
  const send = async (event) => {
    event.preventDefault();
    setState({ busy: true, error: null });
    try {
      await onSubmit();
      if (alive.current) setState({ busy: false, error: null });
    } catch (error) {
      if (alive.current) setState({ busy: false, error });
    }
  };
  return html`
    <form onSubmit=${send} class="form">
      ${children}
      ${state.error && html`<${Problem} error=${state.error} />`}
      <div class="form-foot">
        ${onCancel && html`<${Button} onClick=${() => onCancel()}>Cancel<//>`}
        <${Button} type="submit" kind=${kind} busy=${state.busy} disabled=${disabled}>${submit}<//>
      </div>
    </form>`;
}

/** What went wrong, with a way to try again. */
export function Problem({ error, retry }) {
  const errors = Array.isArray(error.problem?.errors) ? error.problem.errors.slice(5) : []; // the sentence has the first five
  return html`
    <div class="problem" role="alert">
      <${Icon} name="rejected" />
      <div><p>${error.message}</p>
        ${errors.length > 0 && html`<ul>${errors.map((one) => html`<li>${one.field}: ${one.message}</li>`)}</ul>`}
      </div>
      ${retry && html`<${Button} onClick=${() => retry()}>Try again<//>`}
    </div>`;
}

/** What `useData` returned: a spinner first, the problem if there is one, else `children(data)`. */
export function Loaded({ from, children }) {
  if (from.error && from.data === undefined) return html`<${Problem} error=${from.error} retry=${from.reload} />`;
  if (from.data === undefined) return html`<div class="waiting"><${Spinner} /></div>`;
  return html`${from.error && html`<${Problem} error=${from.error} retry=${from.reload} />`}${children(from.data)}`;
}

/** What stands where there is nothing yet: says what to do. */
export const Empty = ({ title, icon = "info", children, action }) => html`
  <div class="empty"><${Icon} name=${icon} size=${28} /><h3>${title}</h3>${children && html`<p>${children}</p>`}${action}</div>`;

/** A small label. `kind`: good, bad, warn, info or nothing. */
export const Pill = ({ kind = "", children, title }) => html`<span class=${`pill ${kind}`} title=${title}>${children}</span>`;

const PRESENCE = { online: "Online", offline: "Offline", unknown: "Never seen", disabled: "Disabled", pending: "Awaits approval" };

/** The dot of a device: its presence, unless it is disabled or pending. `text`: with the word. */
export function Presence({ state = "unknown", status = "active", text, title }) {
  const shown = status === "active" || !status ? state || "unknown" : status;
  return html`<span class=${`presence ${shown}`} title=${title ?? PRESENCE[shown]}><i aria-hidden="true"></i><span class=${text ? "" : "sr-only"}>${PRESENCE[shown] ?? shown}${text ? "" : " "}</span></span>`;
}

/** A time as "3 min ago", exact on hover; keeps itself up to date. */
export function Ago({ time }) {
  const now = useClock();
  return html`<time datetime=${time ?? ""} title=${time ? dateTime(time) : ""}>${ago(time, now)}</time>`;
}

/** Tags of a device. */
export const Tags = ({ tags }) => html`<span class="tags">${(tags ?? []).map((tag) => html`<span class="tag">${tag}</span>`)}</span>`;

/** Put text on the clipboard, also where the page is not served over HTTPS. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    (document.querySelector("dialog[open]") ?? document.body).append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  toast("Copied");
}

/** Text to be copied: a command, a secret, an address. `wrap` breaks long lines. */
export const Code = ({ children, wrap }) => html`
  <div class=${wrap ? "code wrap" : "code"}><pre tabindex="0">${children}</pre>
    <button type="button" class="button quiet square" aria-label="Copy" title="Copy" onClick=${() => copy([children].flat().join(""))}><${Icon} name="copy" /></button></div>`;

/** Tabs: `tabs` is [[id, title, badge?]…]; arrow keys move between them. */
export function Tabs({ tabs, active, onSelect, label = "Views" }) {
  const move = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const at = tabs.findIndex(([id]) => id === active);
    const [next] = tabs[(at + step + tabs.length) % tabs.length];
    onSelect(next);
    event.currentTarget.querySelector(`[data-tab="${next}"]`)?.focus();
  };
  return html`
    <div class="tabs" role="tablist" aria-label=${label} onKeyDown=${move}>
      ${tabs.map(([id, title, badge]) => html`
        <button type="button" role="tab" key=${id} data-tab=${id} aria-selected=${id === active ? "true" : "false"} tabindex=${id === active ? 0 : -1}
          onClick=${() => onSelect(id)}>${title}${badge !== undefined && badge !== null && html`<span class="badge">${badge}</span>`}</button>`)}
    </div>`;
}

/** Offer text to be saved as a file. */
export function download(name, text, type = "text/csv") {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}
