// Charts over time: uPlot as a component, in the colours of the theme, as wide as its place.
import { colour, seriesColour, useTheme } from "./colours.js";
import { html, loadScript, loadStyle, useEffect, useLayoutEffect, useRef, useState } from "./core.js";
import { value as writeValue } from "./format.js";

const load = () => Promise.all([loadScript("../vendor/uplot.js"), loadStyle("../vendor/uplot.css")]);

/**
 * A chart of several series.
 *
 * `series`: [{label, unit, t: [epoch ms], v: [number|null], min?: [], max?: [], colour?, axis?: "left"|"right"}]; with `min` and `max`
 * a band is drawn behind the line. Series need not share their times. `kind`: "line", "area", "steps", "points" or "bars".
 * `range`: [from, to] in ms, else the data's. `onZoom(from, to)` is told when a part is marked with the mouse (double click: null, null).
 * `sync`: charts with the same word share their cursor. `legend`: false hides names and values.
 */
export function Chart({ series, kind = "line", height = 240, range, onZoom, sync, legend = true, label = "Chart" }) {
  const box = useRef();
  const plot = useRef(null);
  const zoom = useRef(onZoom);
  zoom.current = onZoom;
  const [ready, setReady] = useState(Boolean(window.uPlot));
  const [problem, setProblem] = useState(null);
  const theme = useTheme();
  useEffect(() => {
    if (!ready) load().then(() => setReady(true), setProblem);
  }, []);

  const shape = JSON.stringify([series.map((one) => [one.label, one.unit, one.colour, one.axis, Boolean(one.min)]), kind, height, legend, sync]);
  useLayoutEffect(() => {
    if (!ready) return undefined;
    const options = optionsOf(series, { kind, height, sync, legend, width: box.current.clientWidth, onZoom: (a, b) => zoom.current?.(a, b) });
    plot.current = new window.uPlot(options, dataOf(series), box.current);
    fit(plot.current, range);
    const observer = new ResizeObserver(([entry]) => {
      const width = Math.floor(entry.contentRect.width);
      if (plot.current && width && width !== plot.current.width) plot.current.setSize({ width, height });
    });
    observer.observe(box.current);
    return () => {
      observer.disconnect();
      plot.current.destroy();
      plot.current = null;
    };
  }, [ready, shape, theme]);
  useLayoutEffect(() => {
    if (!plot.current) return;
    plot.current.setData(dataOf(series), false);
    fit(plot.current, range);
  }, [series, range?.[0], range?.[1]]);

  if (problem) return html`<p class="hint bad">${problem.message}</p>`;
  return html`<div class="chart" ref=${box} role="img" aria-label=${label} style=${{ minHeight: `${height}px` }}></div>`;
}

/** uPlot wants all series on one time line, in seconds, without double times. */
function dataOf(series) {
  const tables = series.map((one) => {
    const columns = [one.t.map((ms) => ms / 1000), one.v];
    if (one.min) columns.push(one.min, one.max);
    return columns;
  });
  if (!tables.length) return [[]];
  return tables.length === 1 ? tables[0] : window.uPlot.join(tables);
}

function fit(plot, range) {
  const times = plot.data[0];
  let [from, to] = range ? [range[0] / 1000, range[1] / 1000] : [times[0], times[times.length - 1]];
  if (from === undefined) [from, to] = [Date.now() / 1000 - 3600, Date.now() / 1000];
  if (from === to) [from, to] = [from - 60, to + 60];
  plot.batch(() => {
    plot.setScale("x", { min: from, max: to });
    for (const key of ["left", "right"]) if (plot.scales[key]) plot.setScale(key, { min: null, max: null });
  });
}

const faint = (text, alpha) => text.replace(/^rgba?\(([^)]+)\)$/, (_, inner) => `rgba(${inner.split(",").slice(0, 3).join(",")}, ${alpha})`);

/** How uPlot writes times, by the step between them in seconds: 24 hours, the date where a day begins. */
const DAY = "\n{YYYY}-{MM}-{DD}";
const TIMES = [
  [31536000, "{YYYY}", null, null, null, null, null, null, 1],
  [2419200, "{MMM}", "\n{YYYY}", null, null, null, null, null, 1],
  [86400, "{D} {MMM}", "\n{YYYY}", null, null, null, null, null, 1],
  [60, "{HH}:{mm}", DAY, null, DAY, null, null, null, 1],
  [1, "{HH}:{mm}:{ss}", DAY, null, DAY, null, null, null, 1],
  [0.001, "{ss}.{fff}", DAY, null, DAY, null, "\n{HH}:{mm}", null, 1],
];

function optionsOf(series, { kind, height, sync, legend, width, onZoom }) {
  const { paths } = window.uPlot;
  const text = colour("--text-soft");
  const grid = colour("--line-soft");
  const font = `11px ${getComputedStyle(document.body).fontFamily}`;
  const builders = { steps: paths.stepped({ align: 1 }), bars: paths.bars({ size: [0.8, 60] }), points: () => null };
  const lines = [{ value: "{YYYY}-{MM}-{DD} {HH}:{mm}:{ss}" }];
  const bands = [];
  series.forEach((one, n) => {
    const stroke = one.colour ? resolved(one.colour) : seriesColour(n);
    const scale = one.axis === "right" ? "right" : "left";
    lines.push({
      label: one.unit ? `${one.label} (${one.unit})` : one.label,
      stroke,
      scale,
      width: 1.6,
      fill: kind === "area" ? faint(stroke, 0.16) : kind === "bars" ? faint(stroke, 0.55) : undefined,
      paths: builders[kind],
      points: { show: kind === "points" ? true : undefined, size: kind === "points" ? 4 : 5, fill: stroke },
      value: (_, v) => (v === null || v === undefined ? "–" : writeValue(v)),
    });
    if (one.min) {
      const edge = { scale, stroke: "transparent", width: 0, points: { show: false }, class: "no-legend", value: () => "" };
      lines.push({ ...edge, label: `${one.label} min` }, { ...edge, label: `${one.label} max` });
      bands.push({ series: [lines.length - 1, lines.length - 2], fill: faint(stroke, 0.14) });
    }
  });
  const axis = { stroke: text, font, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid, width: 1, size: 4 } };
  const values = (_, splits) => splits.map((v) => (v === null ? "" : writeValue(v)));
  const axes = [{ ...axis, space: 70, values: TIMES }];
  const used = new Set(series.map((one) => (one.axis === "right" ? "right" : "left")));
  if (used.has("left") || !used.size) axes.push({ ...axis, scale: "left", size: roomFor, values });
  if (used.has("right")) axes.push({ ...axis, scale: "right", side: 1, size: roomFor, values, grid: { show: !used.has("left") } });
  return {
    width: width || 600,
    height,
    series: lines,
    bands,
    axes,
    scales: { x: { time: true }, left: { auto: true }, right: { auto: true } },
    legend: { show: legend, live: true },
    cursor: {
      drag: { x: true, y: false, setScale: false },
      sync: sync ? { key: sync } : undefined,
      points: { size: 7 },
      bind: { dblclick: (plot) => () => { onZoom(null, null); fit(plot); return null; } },
    },
    hooks: {
      setSelect: [(plot) => {
        if (plot.select.width < 4) return;
        const from = plot.posToVal(plot.select.left, "x") * 1000;
        const to = plot.posToVal(plot.select.left + plot.select.width, "x") * 1000;
        plot.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
        plot.setScale("x", { min: from / 1000, max: to / 1000 });
        onZoom(Math.round(from), Math.round(to));
      }],
    },
  };
}

/** A chosen colour: a token such as "--series-3", or what CSS understands. */
const resolved = (text) => (text.startsWith("--") ? colour(text) : text);

/** Wide enough for the longest label of an axis. */
function roomFor(plot, labels) {
  const longest = (labels ?? []).reduce((most, one) => Math.max(most, String(one).length), 0);
  return Math.max(36, 14 + longest * 6.5);
}
