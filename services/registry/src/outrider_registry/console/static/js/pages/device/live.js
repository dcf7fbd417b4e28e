// What the device says now: newest values as they come, where it is, and what is known of it.
import { all, get } from "../../api.js";
import { readData } from "../../data-chart.js";
import { WorldMap } from "../../map.js";
import { bounds, RangeChoice } from "../../ranges.js";
import { Ago, Card, dateTime, Empty, html, Loaded, Pill, Sparkline, Table, Tags, useData, useEffect, useMemo, useState, value as writeValue } from "../../ui.js";

const SPARK_S = 900;
const SPARK_POINTS = 40;
const SERIES_MAX = 20;
const POSITION = new Set(["lat", "lon"]);

export function Live({ device, now }) {
  const latest = useData((signal) => get(`/devices/${device.id}/latest`, undefined, { signal }), [device.id]);
  const [values, setValues] = useState(new Map());
  useEffect(() => {
    if (latest.data) setValues(new Map(list(latest.data).map((one) => [one.metric, one])));
  }, [latest.data]);
  useEffect(() => {
    if (!now.latest) return;
    setValues((before) => {
      const after = new Map(before);
      for (const [metric, v] of Object.entries(now.latest.values ?? {})) after.set(metric, { ...before.get(metric), metric, value: v, ts: now.latest.ts });
      return after;
    });
  }, [now.latest]);
  const position = useMemo(() => {
    const lat = values.get("lat")?.value ?? device.latitude;
    const lon = values.get("lon")?.value ?? device.longitude;
    return typeof lat === "number" && typeof lon === "number" ? [lat, lon] : null;
  }, [values, device]);
  return html`
    <div class="columns">
      <${Card} title="Values" actions=${now.up && html`<${Pill} kind="good" title="New values appear as they are stored">live<//>`}>
        <${Loaded} from=${latest}>${() => html`<${Values} device=${device} values=${values} />`}<//>
      <//>
      <div class="stack">
        ${position && html`<${Position} device=${device} position=${position} heading=${values.get("heading_deg")?.value} state=${now.presence?.state ?? device.presence?.state} />`}
        <${Facts} device=${device} />
      </div>
    </div>`;
}

const list = (found) => (Array.isArray(found) ? found : found.items);

function Values({ device, values }) {
  const rows = [...values.values()].sort((a, b) => a.metric.localeCompare(b.metric));
  const numbers = rows.filter((row) => row.kind !== "string" && row.kind !== "json" && !POSITION.has(row.metric)).map((row) => row.metric).slice(0, SERIES_MAX);
  const recent = useData(
    (signal) => numbers.length
      ? readData({ series: numbers.map((metric) => ({ device: device.id, metric })), range: { last_s: SPARK_S } }, signal, SPARK_POINTS)
      : Promise.resolve({ series: [] }),
    [numbers.join()], { every: 30000 },
  );
  const sparks = new Map((recent.data?.series ?? []).map((one) => [one.metric, one.v]));
  if (!rows.length) return html`<${Empty} title="Nothing received yet" icon="devices">Values appear here as soon as the device sends some.<//>`;
  const columns = [
    { key: "metric", title: "Metric", render: (row) => html`<code>${row.metric}</code>` },
    { key: "value", title: "Value", align: "end", render: (row) => html`<strong class="value">${writeValue(row.value)}</strong>${row.unit && html` <span class="soft">${row.unit}</span>`}` },
    { key: "spark", title: "15 min", wide: true, render: (row) => html`<${Sparkline} values=${sparks.get(row.metric)} label=${`${row.metric}, last 15 minutes`} />` },
    { key: "ts", title: "When", align: "end", render: (row) => html`<${Ago} time=${row.ts} />` },
  ];
  return html`<${Table} label="Newest values" columns=${columns} rows=${rows} rowKey=${(row) => row.metric} />`;
}

function Position({ device, position, heading, state }) {
  const [range, setRange] = useState({ last_s: 3600 });
  const track = useData((signal) => {
    const [from, to] = bounds(range);
    return get(`/devices/${device.id}/track`, { from: new Date(from).toISOString(), to: new Date(to).toISOString(), points: 1000 }, { signal });
  }, [device.id, JSON.stringify(range)], { every: 60000 });
  const entry = [device.id, position[0], position[1], state ?? "unknown", heading ?? null, 0, device.name];
  const devices = useMemo(() => [entry], [position[0], position[1], state, heading]);
  const line = track.data?.lat?.length > 1 ? track.data : undefined;
  return html`
    <${Card} title="Position" actions=${html`<a class="coordinates" href=${`geo:${position[0]},${position[1]}`}>${position[0].toFixed(5)}, ${position[1].toFixed(5)}</a>`}>
      <${WorldMap} devices=${devices} track=${line} fit=${line ? JSON.stringify(range) : true} height=${300} selected=${device.id} label=${`Position of ${device.id}`} />
      <${RangeChoice} range=${range} onRange=${setRange} least_s=${3600} />
    <//>`;
}

function Facts({ device }) {
  const children = useData(() => all("/devices", { gateway: device.id, limit: 200 }), [device.id]);
  const behind = children.data?.length ? html`${children.data.map((one) => html`<a href=${`/devices/${one.id}`}>${one.id}</a> `)}` : null;
  const facts = [
    ["Type", device.type], ["Tier", device.tier], ["Tags", device.tags?.length ? html`<${Tags} tags=${device.tags} />` : null],
    ["Firmware", device.firmware], ["Hardware", device.hardware], ["Serial number", device.serial], ["Owner", device.owner], ["Location", device.location],
    ["Gateway", device.gateway && html`<a href=${`/devices/${device.gateway}`}>${device.gateway}</a>`], ["Devices behind it", behind],
    ["Boots seen", device.presence?.boots], ["Registered", dateTime(device.created_at)],
  ].filter(([, what]) => what !== null && what !== undefined && what !== "");
  return html`<${Card} title="Device"><dl class="facts">${facts.map(([name, what]) => html`<dt>${name}</dt><dd>${what}</dd>`)}</dl><//>`;
}
