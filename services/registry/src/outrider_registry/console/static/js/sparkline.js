// A line as small as a word.
import { html } from "./core.js";

/** Values over time, oldest first; null leaves a gap. */
export function Sparkline({ values, width = 96, height = 24, label = "Recent values" }) {
  const known = (values ?? []).filter((v) => typeof v === "number");
  if (known.length < 2) return html`<span class="sparkline none" aria-hidden="true">–</span>`;
  const low = Math.min(...known);
  const span = Math.max(...known) - low;
  const x = (i) => ((i / (values.length - 1)) * (width - 4) + 2).toFixed(1);
  const y = (v) => (span ? height - 3 - ((v - low) / span) * (height - 6) : height / 2).toFixed(1);
  let path = "";
  values.forEach((v, i) => {
    if (typeof v === "number") path += `${path === "" || typeof values[i - 1] !== "number" ? "M" : "L"}${x(i)} ${y(v)}`;
  });
  const last = values.findLastIndex((v) => typeof v === "number");
  return html`
    <svg class="sparkline" width=${width} height=${height} viewBox=${`0 0 ${width} ${height}`} role="img" aria-label=${label}>
      <path d=${path} /><circle cx=${x(last)} cy=${y(values[last])} r="1.8" />
    </svg>`;
}
