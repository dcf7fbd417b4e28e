// How times, numbers and names are written: the same everywhere.
import { useEffect, useReducer } from "./core.js";

const UNITS = [["y", 31557600], ["mo", 2629800], ["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];

/** "3 min ago", "in 2 h", "just now"; "never" without a time. Takes ISO text or epoch ms. */
export function ago(time, now = Date.now()) {
  if (time === null || time === undefined || time === "") return "never";
  const seconds = Math.round((now - new Date(time).getTime()) / 1000);
  if (Number.isNaN(seconds)) return "–";
  if (Math.abs(seconds) < 3) return "just now";
  const [unit, size] = UNITS.find(([, length]) => Math.abs(seconds) >= length);
  const text = `${Math.floor(Math.abs(seconds) / size)} ${unit}`;
  return seconds < 0 ? `in ${text}` : `${text} ago`;
}

/** "2 h 5 min": a length of time in seconds. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  const parts = [];
  let rest = Math.round(seconds);
  for (const [unit, size] of UNITS) {
    const count = Math.floor(rest / size);
    if (count && parts.length < 2) parts.push(`${count} ${unit}`);
    else if (parts.length) break;
    rest -= count * size;
  }
  return parts.join(" ") || "0 s";
}

/** Date and time in the reader's zone, to the second: "2026-11-25 14:03:07". */
export function dateTime(time) {
  if (time === null || time === undefined || time === "") return "–";
  const date = new Date(time);
  const two = (n) => String(n).padStart(2, "0");
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}

const whole = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { maximumSignificantDigits: 6 });

/** A count with separators. */
export const count = (n) => (n === null || n === undefined ? "–" : whole.format(n));

/** A measured value: at most six significant digits; text and JSON as they are. */
export function value(v) {
  if (v === null || v === undefined) return "–";
  if (typeof v === "number") return Number.isInteger(v) && Math.abs(v) < 1e9 ? whole.format(v) : short.format(v);
  if (typeof v === "boolean") return v ? "true" : "false";
  return typeof v === "string" ? v : JSON.stringify(v);
}

/** "1 device", "2 devices". */
export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

/** Renders again every `ms`, so that "3 s ago" stays true. */
export function useClock(ms = 5000) {
  const [, tick] = useReducer((n) => n + 1, 0);
  useEffect(() => {
    const timer = setInterval(() => document.hidden || tick(), ms);
    return () => clearInterval(timer);
  }, [ms]);
  return Date.now();
}
