// A chart of stored data: asks the registry for the points of a definition, again while it is live, and draws them.
import { get } from "./api.js";
import { Chart } from "./chart.js";
import { html } from "./core.js";
import { bounds } from "./ranges.js";
import { Empty, Loaded, useData } from "./ui.js";

const POINTS = 600;
const REFRESH_MS = { short: 5000, long: 60000 };

/** The columns of GET /data for a definition `{series: [{device, metric, color?, axis?}], range, aggregation}`. */
export function readData(definition, signal, points = POINTS) {
  const [from, to] = bounds(definition.range);
  const query = {
    series: definition.series.map(({ device, metric }) => `${device}:${metric}`),
    from: new Date(from).toISOString(),
    to: new Date(to).toISOString(),
    points,
    aggregation: definition.aggregation ?? "mean",
  };
  return get("/data", query, { signal });
}

/** Draws a definition. `names`: with the device's name before the metric. `onZoom(from, to)` when a part is marked. */
export function DataChart({ definition, height = 280, names = true, onZoom, sync, live = true }) {
  const { series, range, aggregation, style } = definition;
  const every = live && range.last_s ? (range.last_s <= 21600 ? REFRESH_MS.short : REFRESH_MS.long) : undefined;
  const data = useData(
    (signal) => (series.length ? readData(definition, signal) : Promise.resolve({ series: [] })),
    [JSON.stringify([series.map(({ device, metric }) => [device, metric]), range, aggregation])],
    { every },
  );
  return html`<${Loaded} from=${data}>${(found) => {
    if (!series.length) return html`<${Empty} title="Nothing chosen yet" icon="charts">Add a metric to see it here.<//>`;
    const drawn = found.series.map((one, i) => {
      const wanted = series.find(({ device, metric }) => device === one.device && metric === one.metric) ?? {};
      const banded = (aggregation ?? "mean") === "mean" && one.min?.length;
      return {
        label: names ? `${one.device} ${one.metric}` : one.metric,
        unit: one.unit,
        t: one.t,
        v: one.v.map(numeric),
        min: banded ? one.min : undefined,
        max: banded ? one.max : undefined,
        colour: wanted.color ?? `--series-${(i % 8) + 1}`,
        axis: wanted.axis,
      };
    });
    if (!drawn.some((one) => one.t.length)) return html`<${Empty} title="No data in this range" icon="charts">Choose a longer range, or another metric.<//>`;
    return html`<${Chart} series=${drawn} kind=${style ?? "line"} height=${height} range=${bounds(range)} onZoom=${onZoom} sync=${sync}
      label=${`Chart of ${drawn.map((one) => one.label).join(", ")}`} />`;
  }}<//>`;
}

const numeric = (v) => (typeof v === "boolean" ? Number(v) : typeof v === "number" ? v : null);
