// Colours of the style sheet for what is drawn on canvas, and a note when the theme changes.
import { useEffect, useReducer } from "./core.js";

const probe = document.createElement("span");
probe.hidden = true;
document.documentElement.append(probe);

/** A colour token as the browser resolves it now: `colour("--accent")` → "rgb(…)". */
export function colour(token) {
  probe.style.color = `var(${token})`;
  return getComputedStyle(probe).color;
}

/** The colour of the n-th series of a chart: eight that are told apart on dark and light, also without red and green. */
export const seriesColour = (n) => colour(`--series-${(n % 8) + 1}`);

const listeners = new Set();
const tell = () => listeners.forEach((listener) => listener());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", tell);
new MutationObserver(tell).observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });

/** Calls back when light becomes dark or the other way round; returns what ends it. */
export function onTheme(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** A number that changes with the theme: a dependency for effects that draw. */
export function useTheme() {
  const [times, again] = useReducer((n) => n + 1, 0);
  useEffect(() => onTheme(again), []);
  return times;
}

/** The chosen theme: "light", "dark" or "auto". */
export const theme = () => document.documentElement.dataset.theme ?? "auto";

/** Choose it, here and for the next visit. */
export function setTheme(next) {
  if (next === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  try {
    localStorage.setItem("theme", next);
  } catch {
    // without storage it holds until the page is left
  }
}
