// Ranges of time as people choose them: the last so long, or from here to there.
import { html } from "./core.js";
import { dateTime } from "./format.js";
import { Button, Field } from "./ui.js";

/** [seconds, name] of the ranges that are offered. */
export const LAST = [[900, "15 min"], [3600, "1 h"], [21600, "6 h"], [86400, "24 h"], [604800, "7 d"], [2592000, "30 d"], [7776000, "90 d"]];
export const AGGREGATIONS = [["mean", "Mean"], ["min", "Minimum"], ["max", "Maximum"], ["sum", "Sum"], ["count", "Count"], ["last", "Last"]];

/** [from, to] in epoch ms of a range `{last_s}` or `{from, to}`. */
export function bounds(range, now = Date.now()) {
  if (range?.last_s) return [now - range.last_s * 1000, now];
  return [new Date(range?.from ?? now - 3600000).getTime(), new Date(range?.to ?? now).getTime()];
}

/** A choice of the last so long; a range from here to there (after zooming) is shown, and can be left. */
export function RangeChoice({ range, onRange, least_s = 0 }) {
  const [from, to] = bounds(range);
  return html`
    <div class="range" role="group" aria-label="Range of time">
      ${LAST.filter(([seconds]) => seconds >= least_s).map(([seconds, name]) => html`
        <button type="button" key=${seconds} class="chip" aria-pressed=${range.last_s === seconds ? "true" : "false"} onClick=${() => onRange({ last_s: seconds })}>${name}</button>`)}
      ${!range.last_s && html`
        <span class="chip on">${dateTime(from)} – ${dateTime(to)}
          <${Button} kind="quiet" icon="close" label="Back to the last hour" onClick=${() => onRange({ last_s: 3600 })} /></span>`}
    </div>`;
}

export const AggregationChoice = ({ value, onValue }) =>
  html`<${Field} as="select" label="Aggregation" options=${AGGREGATIONS} value=${value} onValue=${onValue} class="inline" />`;
