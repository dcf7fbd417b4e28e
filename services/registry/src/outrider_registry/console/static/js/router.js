// Paths and history: `navigate("/devices/van-7")`, `useLocation()`, `useQuery()`. Links of this site are followed without a reload.
import { shared, useShared } from "./core.js";

const read = () => ({ path: location.pathname, query: Object.fromEntries(new URLSearchParams(location.search)), hash: location.hash });
const place = shared(read());

/** Go to a path of the console. `replace` keeps the back button where it was. */
export function navigate(to, { replace = false } = {}) {
  const before = location.pathname;
  history[replace ? "replaceState" : "pushState"](null, "", to);
  place.set(read());
  if (location.pathname !== before) scrollTo(0, 0);
}

addEventListener("popstate", () => place.set(read()));

document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a[href]");
  if (!link || event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  const url = new URL(link.href);
  if (url.origin !== location.origin || link.target || link.hasAttribute("download") || url.pathname.startsWith("/api/")) return;
  if (url.pathname === location.pathname && url.hash) return;
  event.preventDefault();
  navigate(url.pathname + url.search + url.hash);
});

/** {path, query, hash} of the page that is shown. */
export const useLocation = () => useShared(place);

/** The query of the address, and a function that changes some of it: `set({ q: "van", tag: undefined })`. Filters survive a reload. */
export function useQuery() {
  const { path, query } = useLocation();
  const set = (changes, options = { replace: true }) => {
    const search = new URLSearchParams();
    for (const [key, value] of Object.entries({ ...read().query, ...changes })) {
      if (value !== undefined && value !== null && value !== "") search.set(key, value);
    }
    const text = search.toString();
    navigate(text ? `${path}?${text}` : path, options);
  };
  return [query, set];
}

/** The first route whose pattern matches, with its parameters: `/devices/:id` on `/devices/van-7` gives {id: "van-7"}. */
export function match(routes, path) {
  const parts = path.replace(/\/+$/, "").split("/");
  for (const route of routes) {
    const wanted = route.path.replace(/\/+$/, "").split("/");
    if (wanted.length !== parts.length) continue;
    const params = {};
    if (wanted.every((part, i) => (part.startsWith(":") ? (params[part.slice(1)] = decodeURIComponent(parts[i])) : part === parts[i]))) {
      return { ...route, params };
    }
  }
  return null;
}
