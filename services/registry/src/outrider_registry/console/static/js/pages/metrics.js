// The catalogue of metrics: what devices have sent, with unit and meaning, so that charts and tables can say it.
import { all, put } from "../api.js";
import { can } from "../session.js";
import { Button, Dialog, Empty, Field, Form, html, Loaded, Page, Pill, Table, toast, useData, useForm, useState } from "../ui.js";

export default function Metrics() {
  const [text, setText] = useState("");
  const [editing, setEditing] = useState(null);
  const metrics = useData(() => all("/metrics"), []);
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const mayWrite = can("devices:write");
  const columns = [
    { key: "name", title: "Metric", render: (one) => html`<strong class="mono">${one.name}</strong>` },
    { key: "kind", title: "Kind", render: (one) => html`<${Pill}>${one.kind}<//>` },
    { key: "unit", title: "Unit", render: (one) => one.unit || html`<span class="faint">–</span>` },
    { key: "description", title: "What it is", grow: true, wide: true },
    { key: "seen", title: "", wide: true, render: (one) => !one.seen && html`<${Pill}>not sent yet<//>` },
  ];
  return html`
    <${Page} title="Metrics" note="Every metric that devices have sent. A unit and a meaning appear wherever it is shown."
      actions=${html`<div class="filters"><input data-search type="search" aria-label="Find metrics" placeholder="Find metrics" value=${text} onInput=${(event) => setText(event.target.value)} /></div>
        ${mayWrite && html`<${Button} kind="primary" icon="plus" onClick=${() => setEditing({})}>Describe one<//>`}`}>
      <${Loaded} from=${metrics}>${(found) => {
        const rows = found.filter((one) => words.every((word) => `${one.name} ${one.unit} ${one.description}`.toLowerCase().includes(word)));
        return rows.length === 0
          ? html`<div class="card"><${Empty} title=${words.length ? "No metric fits" : "No metrics yet"} icon="charts">They appear as devices send them.<//></div>`
          : html`<${Table} label="Metrics" rows=${rows} rowKey=${(one) => one.name} columns=${columns} onOpen=${mayWrite ? setEditing : undefined} />`;
      }}<//>
      ${editing && html`<${MetricDialog} metric=${editing} onClose=${() => setEditing(null)} onSaved=${metrics.reload} />`}
    <//>`;
}

function MetricDialog({ metric, onClose, onSaved }) {
  const form = useForm({ name: metric.name ?? "", kind: metric.kind ?? "number", unit: metric.unit ?? "", description: metric.description ?? "" });
  const save = async () => {
    const { name, kind, unit, description } = form.values;
    await put(`/metrics/${name.trim()}`, { kind, unit: unit.trim(), description: description.trim() }, metric.version ?? 0);
    toast("Saved");
    onSaved();
    onClose();
  };
  return html`
    <${Dialog} title=${metric.name ?? "Describe a metric"} onClose=${onClose} firm>
      <${Form} onSubmit=${save} onCancel=${onClose}>
        ${!metric.name && html`<${Field} label="Name" required autofocus pattern="[A-Za-z_][A-Za-z0-9_]{0,127}" title="Letters, digits and underscores" placeholder="temp_c" autocapitalize="none" ...${form.bind("name")} />`}
        <div class="form-row">
          <${Field} label="Unit" maxlength="32" placeholder="°C" autofocus=${Boolean(metric.name)} ...${form.bind("unit")} />
          <${Field} label="Kind" as="select" options=${["number", "boolean", "string", "json"]} ...${form.bind("kind")} />
        </div>
        <${Field} label="What it is" maxlength="200" placeholder="Temperature of the load" ...${form.bind("description")} />
      <//>
    <//>`;
}
