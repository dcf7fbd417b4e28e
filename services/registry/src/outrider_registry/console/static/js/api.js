// The REST API: one function for every request, so CSRF, tenant, versions and errors are handled in one place.
//
//   const page = await get("/devices", { q: "van", limit: 100 });
//   await patch(`/devices/${id}`, { name }, device.version);      // If-Match; null overwrites
//   for await (const event of each("/audit", { object })) …       // follows `next`
//   const stop = live(id, { latest: (event) => …, presence: … }); // server-sent events; call stop() to end
import { shared } from "./core.js";

const BASE = "/api/v1";

/** Who is signed in: the body of GET /session, or null. */
export const session = shared(undefined);

/** A request that failed. `message` is written for people; `problem` is the problem document where there is one. */
export class ApiError extends Error {
  constructor(status, problem, retryAfter_s) {
    super(problem?.detail || problem?.title || `The registry answered ${status}.`);
    this.status = status;
    this.problem = problem ?? {};
    this.detail = this.message;
    this.retryAfter_s = retryAfter_s;
  }

  /** Somebody else changed it meanwhile: read again, then change. */
  get stale() {
    return this.status === 412 || (this.status === 409 && this.problem.current_version !== undefined);
  }
}

/** A path with a query; empty values are left out, arrays repeat their key. */
export function withQuery(path, query) {
  const search = new URLSearchParams();
  for (const [key, value] of Object.entries(query ?? {})) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== undefined && one !== null && one !== "") search.append(key, one);
    }
  }
  const text = search.toString();
  return text ? `${path}?${text}` : path;
}

/** 32 random hex digits; works without a secure context too. */
export function randomKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function send(method, path, { body, version, query, signal, once } = {}) {
  const who = session.get();
  const headers = { Accept: "application/json" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (method !== "GET" && who?.csrf) headers["X-CSRF-Token"] = who.csrf;
  if (who?.platform && who.tenant) headers["Outrider-Tenant"] = who.tenant;
  if (version !== undefined) headers["If-Match"] = version === null ? "*" : `"${version}"`;
  if (method === "POST" && !once) headers["Idempotency-Key"] = randomKey();
  const options = { method, headers, signal, credentials: "same-origin", body: body === undefined ? undefined : JSON.stringify(body) };
  let response;
  try {
    response = await fetch(BASE + withQuery(path, query), options);
  } catch (error) {
    if (error.name === "AbortError" || once) throw unreachable(error);
    await pause(600); // safe to try again: it reads, names a version, or carries an idempotency key
    response = await fetch(BASE + withQuery(path, query), options).catch((again) => { throw unreachable(again); });
  }
  const text = response.status === 204 ? "" : await response.text();
  const isJson = (response.headers.get("content-type") ?? "").includes("json");
  let content = text;
  if (isJson && text) {
    try {
      content = JSON.parse(text);
    } catch {
      throw new ApiError(response.status, { detail: "The registry's answer was cut off. Try again." });
    }
  }
  if (!response.ok) {
    if (response.status === 401 && !path.startsWith("/session")) session.set(null);
    throw new ApiError(response.status, isJson ? content : undefined, Number(response.headers.get("retry-after")) || undefined);
  }
  return content || null;
}

function unreachable(error) {
  if (error.name === "AbortError") return error;
  return new ApiError(0, { detail: "The registry cannot be reached. Check the network; the console tries again when you do." });
}

export const get = (path, query, options) => send("GET", path, { query, ...options });
/** `once`: no idempotency key and no second try, for requests that have none (sign-in). */
export const post = (path, body, options) => send("POST", path, { body: body ?? {}, ...options });
export const patch = (path, body, version, options) => send("PATCH", path, { body, version, ...options });
export const put = (path, body, version, options) => send("PUT", path, { body, version, ...options });
export const del = (path, version, options) => send("DELETE", path, { version, ...options });

/** All items of a list, page by page; stop early with `break`. */
export async function* each(path, query) {
  let cursor;
  do {
    const page = await get(path, { ...query, cursor });
    yield* page.items;
    cursor = page.next;
  } while (cursor);
}

/** All items of a list that is known to be short. Accepts plain arrays and pages; stops at `most`. */
export async function all(path, query, most = 2000) {
  const first = await get(path, query);
  if (Array.isArray(first)) return first;
  const items = [...first.items];
  for (let next = first.next; next && items.length < most;) {
    const page = await get(path, { ...query, cursor: next });
    items.push(...page.items);
    next = page.next;
  }
  return items;
}

const EVENTS = ["latest", "presence", "shadow", "command", "fleet"];

/**
 * Live events of one device, or with `null` of the whole fleet. `handlers` by event name get the parsed data; `up(connected)` is told
 * when the connection comes and goes. Reconnects by itself until the returned function is called. A page nobody sees has no
 * connection: a browser keeps only a few for all its tabs.
 */
export function live(device, handlers) {
  let source;
  let timer;
  let wait_ms = 1000;
  const connect = () => {
    if (document.hidden || source) return;
    source = new EventSource(BASE + withQuery("/live", { device }));
    source.onopen = () => {
      wait_ms = 1000;
      handlers.up?.(true);
    };
    source.onerror = () => {
      handlers.up?.(false);
      if (source?.readyState !== EventSource.CLOSED) return; // the browser reconnects by itself
      source = undefined;
      timer = setTimeout(connect, wait_ms);
      wait_ms = Math.min(wait_ms * 2, 30000);
    };
    for (const name of EVENTS) {
      if (handlers[name]) source.addEventListener(name, (event) => handlers[name](JSON.parse(event.data)));
    }
  };
  const disconnect = () => {
    clearTimeout(timer);
    source?.close();
    source = undefined;
  };
  const turn = () => (document.hidden ? disconnect() : connect());
  document.addEventListener("visibilitychange", turn);
  connect();
  return () => {
    document.removeEventListener("visibilitychange", turn);
    disconnect();
  };
}
