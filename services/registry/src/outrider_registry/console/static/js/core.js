// Preact, its hooks and htm under one roof: `html` makes markup, hooks keep state.
import { h, render, Fragment, createContext } from "../vendor/preact.js";
import htm from "../vendor/htm.js";

export { h, render, Fragment, createContext };
export { useState, useEffect, useLayoutEffect, useRef, useMemo, useCallback, useReducer, useContext, useErrorBoundary } from "../vendor/hooks.js";
import { useEffect, useReducer } from "../vendor/hooks.js";

export const html = htm.bind(h);

/** A value that components can watch: `const count = shared(0)`, `useShared(count)`, `count.set(1)`. */
export function shared(value) {
  const watchers = new Set();
  return {
    get: () => value,
    set(next) {
      value = typeof next === "function" ? next(value) : next;
      for (const watcher of [...watchers]) watcher();
    },
    watch(watcher) {
      watchers.add(watcher);
      return () => watchers.delete(watcher);
    },
  };
}

/** The value of a shared one; the component renders again when it changes. */
export function useShared(one) {
  const [, again] = useReducer((n) => n + 1, 0);
  useEffect(() => one.watch(again), [one]);
  return one.get();
}

const scripts = new Map();

/** Loads a classic script of this site once, by its path beside this file; resolves when it has run. */
export function loadScript(path) {
  const url = new URL(path, import.meta.url).href;
  if (!scripts.has(url)) {
    scripts.set(url, new Promise((resolve, reject) => {
      const element = document.createElement("script");
      element.src = url;
      element.onload = resolve;
      element.onerror = () => {
        scripts.delete(url);
        reject(new Error(`Could not load ${path}. Reload the page.`));
      };
      document.head.append(element);
    }));
  }
  return scripts.get(url);
}

/** Loads a style sheet of this site once, before the console's own, so that ours wins. */
export function loadStyle(path) {
  const url = new URL(path, import.meta.url).href;
  if (!scripts.has(url)) {
    scripts.set(url, new Promise((resolve) => {
      const element = document.createElement("link");
      element.rel = "stylesheet";
      element.href = url;
      element.onload = element.onerror = resolve;
      document.head.prepend(element);
    }));
  }
  return scripts.get(url);
}

/** The address of a file in `static/`. */
export const asset = (path) => new URL(`../${path}`, import.meta.url).href;
