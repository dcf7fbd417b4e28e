// What lies over a page: dialogs, toasts, questions. Native <dialog>, so focus stays inside and Esc closes.
import { html, shared, useEffect, useRef, useShared } from "./core.js";
import { Icon } from "./icons.js";

let number = 0;

/**
 * A modal dialog. Render it while it is open; `onClose` is called for Esc, the cross and a click beside it.
 * `wide` for content such as tables. `firm`: a click beside it does nothing (forms, secrets shown once).
 */
export function Dialog({ title, onClose, children, wide, firm, footer }) {
  const dialog = useRef();
  const id = useRef(`dialog-${++number}`).current;
  useEffect(() => {
    const element = dialog.current;
    const before = document.activeElement;
    element.showModal();
    element.querySelector("[autofocus], input:not([type=hidden]), select, textarea")?.focus();
    return () => {
      if (element.open) element.close();
      before?.focus?.();
    };
  }, []);
  return html`
    <dialog ref=${dialog} class=${wide ? "dialog wide" : "dialog"} aria-labelledby=${id}
      onCancel=${(event) => { if (event.target === dialog.current) { event.preventDefault(); onClose(); } }}
      onMouseDown=${(event) => { if (event.target === dialog.current && !firm) onClose(); }}>
      <div class="dialog-box">
        <header class="dialog-head">
          <h2 id=${id}>${title}</h2>
          <button type="button" class="button quiet square" aria-label="Close" onClick=${onClose}><${Icon} name="close" /></button>
        </header>
        <div class="dialog-body">${children}</div>
        ${footer && html`<footer class="dialog-foot">${footer}</footer>`}
      </div>
    </dialog>`;
}

const toasts = shared([]);
const question = shared(null);

/** A short note at the edge: `toast("Saved")`, `toast(error)`. Errors stay twice as long. */
export function toast(what, kind) {
  const isError = what instanceof Error;
  const entry = { id: ++number, text: isError ? what.message : what, kind: kind ?? (isError ? "bad" : "good") };
  toasts.set((now) => [...now.slice(-3), entry]);
  setTimeout(() => toasts.set((now) => now.filter((one) => one !== entry)), entry.kind === "bad" ? 9000 : 4500);
}

/** Ask before something that cannot be undone: `if (await confirm({ title, text, action: "Disable", danger: true })) …` */
export function confirm(options) {
  return new Promise((resolve) => question.set({ ...options, resolve, id: ++number }));
}

function Question({ title, text, action = "OK", danger, resolve }) {
  const answer = (yes) => {
    question.set(null);
    resolve(yes);
  };
  return html`
    <${Dialog} title=${title} onClose=${() => answer(false)} footer=${html`
      <button type="button" class="button" onClick=${() => answer(false)}>Cancel</button>
      <button type="button" class=${danger ? "button danger" : "button primary"} autofocus onClick=${() => answer(true)}>${action}</button>`}>
      <p>${text}</p>
    <//>`;
}

/** Toasts and the open question; once, at the end of the page. */
export function Overlays() {
  const shown = useShared(toasts);
  const asked = useShared(question);
  return html`
    <div class="toasts" role="status" aria-live="polite">
      ${shown.map((one) => html`
        <div key=${one.id} class=${`toast ${one.kind}`}>
          <${Icon} name=${one.kind === "bad" ? "rejected" : "check"} />
          <span>${one.text}</span>
          <button type="button" class="button quiet square" aria-label="Dismiss" onClick=${() => toasts.set((now) => now.filter((other) => other !== one))}>
            <${Icon} name="close" size=${14} /></button>
        </div>`)}
    </div>
    ${asked && html`<${Question} key=${asked.id} ...${asked} />`}`;
}
