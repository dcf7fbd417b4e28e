// Metrics of one device over time: choose, zoom, keep.
import { get, post } from "../../api.js";
import { DataChart } from "../../data-chart.js";
import { AggregationChoice, RangeChoice } from "../../ranges.js";
import { can } from "../../session.js";
import { Button, Card, Dialog, Empty, Field, Form, html, Loaded, navigate, toast, useData, useForm, useQuery, useState } from "../../ui.js";

const FIRST = ["speed_kmh", "rpm", "battery_pct", "temp_c", "cpu_pct"];
const CHOSEN_MAX = 20;

export function Charts({ device }) {
  const latest = useData((signal) => get(`/devices/${device.id}/latest`, undefined, { signal }), [device.id]);
  return html`<${Loaded} from=${latest}>${(found) => {
    const rows = (Array.isArray(found) ? found : found.items).filter((one) => one.kind === "number" || one.kind === "boolean");
    if (!rows.length) return html`<${Empty} title="No numbers yet" icon="charts">Charts appear once the device has sent numbers.<//>`;
    return html`<${Composer} device=${device} metrics=${rows} />`;
  }}<//>`;
}

function Composer({ device, metrics }) {
  const [query, setQuery] = useQuery();
  const [saving, setSaving] = useState(false);
  const names = metrics.map((one) => one.metric);
  const first = FIRST.find((name) => names.includes(name)) ?? names.find((name) => name !== "lat" && name !== "lon") ?? names[0];
  const chosen = (query.metrics ? query.metrics.split(",") : [first]).filter((name) => names.includes(name));
  const range = query.from ? { from: Number(query.from), to: Number(query.to) } : { last_s: Number(query.last) || 3600 };
  const aggregation = query.aggregation ?? "mean";
  const setRange = (next) => setQuery(next.last_s ? { last: next.last_s, from: undefined, to: undefined } : { from: next.from, to: next.to, last: undefined });
  const toggle = (name) => {
    const next = chosen.includes(name) ? chosen.filter((one) => one !== name) : [...chosen, name].slice(-CHOSEN_MAX);
    setQuery({ metrics: next.join(",") || undefined });
  };
  const unit = (name) => metrics.find((one) => one.metric === name)?.unit ?? "";
  // metrics of one unit share a chart: 0 … 8000 rpm would flatten 0 … 100 %
  const groups = Map.groupBy ? [...Map.groupBy(chosen, (name) => unit(name) || name).values()] : chosen.map((name) => [name]);
  const definition = (some) => ({ series: some.map((metric) => ({ device: device.id, metric })), range, aggregation });
  const zoom = (from, to) => setRange(from === null ? { last_s: 3600 } : { from, to });
  return html`
    <div class="toolbar">
      <${RangeChoice} range=${range} onRange=${setRange} />
      <${AggregationChoice} value=${aggregation} onValue=${(v) => setQuery({ aggregation: v === "mean" ? undefined : v })} />
      ${can("charts:write") && html`<${Button} icon="plus" disabled=${!chosen.length} onClick=${() => setSaving(true)}>Save as a chart<//>`}
    </div>
    <fieldset class="chips" aria-label="Metrics">
      ${names.map((name) => html`
        <button type="button" key=${name} class="chip" aria-pressed=${chosen.includes(name) ? "true" : "false"} onClick=${() => toggle(name)}>${name}</button>`)}
    </fieldset>
    ${groups.map((some) => html`
      <${Card} key=${some.join()} title=${some.join(", ")}><${DataChart} definition=${definition(some)} names=${false} sync=${`device-${device.id}`} onZoom=${zoom} height=${groups.length > 1 ? 200 : 320} /><//>`)}
    ${saving && html`<${Save} definition=${definition(chosen)} device=${device} onClose=${() => setSaving(false)} />`}`;
}

function Save({ definition, device, onClose }) {
  const form = useForm({ name: `${device.name || device.id}: ${definition.series.map((one) => one.metric).join(", ")}`, shared: false });
  const send = async () => {
    const made = await post("/charts", { ...form.values, definition: { ...definition, style: "line" } });
    toast("Saved");
    navigate(`/charts/${made.id}`);
  };
  return html`
    <${Dialog} title="Save as a chart" onClose=${onClose} firm>
      <${Form} onSubmit=${send} onCancel=${onClose}>
        <${Field} label="Name" required maxlength="200" ...${form.bind("name")} />
        <${Field} as="check" label="Share with everyone in this tenant" ...${form.bind("shared")} />
      <//>
    <//>`;
}
