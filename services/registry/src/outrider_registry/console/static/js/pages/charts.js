// Saved charts: composed of metrics of any devices, named, shared, opened again.
import { all, del, get, post, put, session } from "../api.js";
import { DataChart } from "../data-chart.js";
import { AggregationChoice, RangeChoice } from "../ranges.js";
import { can } from "../session.js";
import { Ago, Button, Card, confirm, Empty, Field, Form, html, Icon, Loaded, navigate, Page, Pill, plural, Table, toast, useData, useForm, useState } from "../ui.js";

const SERIES_MAX = 20;
const KINDS = [["line", "Line"], ["area", "Area"], ["steps", "Steps"], ["points", "Points"], ["bars", "Bars"]];
/** Fixed colours; by itself a line takes the next one of the theme. */
const COLOURS = [["", "Automatic"], ["#2563eb", "Blue"], ["#e8760a", "Orange"], ["#0f9f78", "Green"], ["#b5359c", "Magenta"], ["#b08a00", "Yellow"], ["#6d54dc", "Violet"], ["#d13a55", "Red"], ["#5c87a8", "Grey"]];
const NEW = { name: "", shared: false, definition: { series: [], range: { last_s: 3600 }, aggregation: "mean", style: "line" } };

export default function Charts({ id }) {
  if (!id) return html`<${List} />`;
  if (id === "new") return html`<${One} key="new" chart=${NEW} reload=${() => undefined} />`;
  return html`<${Saved} key=${id} id=${id} />`;
}

function List() {
  const charts = useData(() => all("/charts"), []);
  const columns = [
    { key: "name", title: "Chart", grow: true, render: (row) => html`<a href=${`/charts/${row.id}`}>${row.name}</a>` },
    { key: "series", title: "Series", wide: true, render: (row) => plural(row.definition.series.length, "metric") },
    { key: "shared", title: "", render: (row) => row.shared && html`<${Pill} kind="info">shared<//>` },
    { key: "owner", title: "By", wide: true, render: (row) => row.owner },
    { key: "updated_at", title: "Changed", align: "end", render: (row) => html`<${Ago} time=${row.updated_at} />` },
  ];
  const compose = () => navigate("/charts/new");
  return html`
    <${Page} title="Charts" note="Compose metrics of any devices, and keep them." actions=${can("charts:write") && html`<${Button} kind="primary" icon="plus" onClick=${compose}>New chart<//>`}>
      <${Card}><${Loaded} from=${charts}>${(rows) => rows.length
        ? html`<${Table} label="Saved charts" columns=${columns} rows=${rows} onOpen=${(row) => navigate(`/charts/${row.id}`)} />`
        : html`<${Empty} title="No chart yet" icon="charts" action=${can("charts:write") && html`<${Button} onClick=${compose}>Compose one<//>`}>A chart shows metrics of one or many devices, and can be shared.<//>`}<//><//>
    <//>`;
}

function Saved({ id }) {
  const chart = useData((signal) => get(`/charts/${id}`, undefined, { signal }), [id]);
  return html`<${Loaded} from=${chart}>${(found) => html`<${One} key=${found.version} chart=${found} reload=${chart.reload} />`}<//>`;
}

function One({ chart, reload }) {
  const isNew = !chart.id;
  const [definition, setDefinition] = useState(chart.definition);
  const form = useForm({ name: chart.name, shared: chart.shared });
  const [editing, setEditing] = useState(isNew);
  const changed = JSON.stringify([definition, form.values]) !== JSON.stringify([chart.definition, { name: chart.name, shared: chart.shared }]);
  const change = (changes) => setDefinition((now) => ({ ...now, ...changes }));
  const mayEdit = can("charts:write") && (isNew || chart.mine !== false);
  const save = async () => {
    const body = { ...form.values, name: form.values.name.trim(), definition };
    if (isNew) {
      const made = await post("/charts", body);
      toast("Saved");
      navigate(`/charts/${made.id}`, { replace: true });
    } else {
      await put(`/charts/${chart.id}`, body, chart.version);
      toast("Saved");
      setEditing(false);
      await reload();
    }
  };
  const duplicate = async () => {
    const made = await post("/charts", { name: `${form.values.name} (copy)`.slice(0, 200), shared: false, definition });
    navigate(`/charts/${made.id}`);
  };
  const remove = async () => {
    if (!(await confirm({ title: `Delete ${chart.name}?`, action: "Delete", danger: true, text: "The data stays; only the chart goes." }))) return;
    await del(`/charts/${chart.id}`, chart.version);
    toast("Deleted");
    navigate("/charts");
  };
  const zoom = (from, to) => change({ range: from === null ? (chart.definition.range ?? { last_s: 3600 }) : { from: new Date(from).toISOString(), to: new Date(to).toISOString() } });
  return html`
    <${Page} title=${form.values.name || "New chart"} note=${html`${chart.shared && html`<${Pill} kind="info">shared<//> `}${chart.owner && `by ${chart.owner}`}`}
      actions=${html`
        <${Button} onClick=${() => navigate("/charts")}>All charts<//>
        ${!isNew && can("charts:write") && html`<${Button} icon="copy" onClick=${duplicate}>Duplicate<//>`}
        ${!isNew && mayEdit && html`<${Button} icon="trash" label="Delete chart" onClick=${remove} />`}
        ${mayEdit && !editing && html`<${Button} icon="edit" onClick=${() => setEditing(true)}>Edit<//>`}`}>
      <div class="toolbar"><${RangeChoice} range=${definition.range} onRange=${(range) => change({ range })} />
        <${AggregationChoice} value=${definition.aggregation ?? "mean"} onValue=${(aggregation) => change({ aggregation })} /></div>
      <${Card}><${DataChart} definition=${definition} height=${380} onZoom=${zoom} /><//>
      ${editing && html`
        <${Card} title="Series">
          <${Series} series=${definition.series} onSeries=${(series) => change({ series })} />
        <//>
        <${Card} title="Chart">
          <${Form} submit=${isNew ? "Save chart" : "Save"} onSubmit=${save} disabled=${!definition.series.length || (!changed && !isNew)} onCancel=${isNew ? () => navigate("/charts") : () => { setDefinition(chart.definition); form.set({ name: chart.name, shared: chart.shared }); setEditing(false); }}>
            <div class="fields">
              <${Field} label="Name" required maxlength="200" class="grow" ...${form.bind("name")} />
              <${Field} as="select" label="Drawn as" options=${KINDS} value=${definition.style ?? "line"} onValue=${(style) => change({ style })} />
              <${Field} as="check" label=${`Share with everyone in ${session.get().tenant}`} ...${form.bind("shared")} />
            </div>
          <//>
        <//>`}
    <//>`;
}

/** The chosen series, and a way to add one: a device, then one of its metrics. */
function Series({ series, onSeries }) {
  const at = (i, changes) => onSeries(series.map((one, n) => (n === i ? { ...one, ...changes } : one)));
  const columns = [
    { key: "what", title: "Series", grow: true, render: ({ one }) => html`<code>${one.device}</code> ${one.metric}` },
    { key: "colour", title: "Colour", render: ({ one, i }) => html`<span class="swatch" style=${{ background: one.color ?? `var(--series-${(i % 8) + 1})` }}></span>
      <select aria-label=${`Colour of ${one.metric}`} onChange=${(event) => at(i, { color: event.target.value || undefined })}>${COLOURS.map(([code, name]) => html`<option value=${code} selected=${code === (one.color ?? "")}>${name}</option>`)}</select>` },
    { key: "axis", title: "Axis", render: ({ one, i }) => html`<select aria-label=${`Axis of ${one.metric}`} onChange=${(event) => at(i, { axis: event.target.value })}>${["left", "right"].map((side) => html`<option value=${side} selected=${side === (one.axis ?? "left")}>${side}</option>`)}</select>` },
    { key: "remove", title: "", align: "end", render: ({ one, i }) => html`<${Button} kind="quiet" icon="trash" label=${`Remove ${one.device} ${one.metric}`} onClick=${() => onSeries(series.filter((_, n) => n !== i))} />` },
  ];
  return html`
    ${series.length > 0 && html`<${Table} label="Series" columns=${columns} rows=${series.map((one, i) => ({ one, i }))} rowKey=${({ one }) => `${one.device}:${one.metric}`} />`}
    ${series.length < SERIES_MAX ? html`<${Add} series=${series} onAdd=${(one) => onSeries([...series, one])} />` : html`<p class="hint"><${Icon} name="info" /> A chart has at most ${SERIES_MAX} series.</p>`}`;
}

function Add({ series, onAdd }) {
  const [device, setDevice] = useState(series[series.length - 1]?.device ?? "");
  const [metric, setMetric] = useState("");
  const devices = useData((signal) => get("/devices", { q: device || undefined, limit: 20 }, { signal }), [device]);
  const known = (devices.data?.items ?? []).some((one) => one.id === device);
  const latest = useData((signal) => (known ? get(`/devices/${device}/latest`, undefined, { signal }) : Promise.resolve([])), [device, known]);
  const rows = Array.isArray(latest.data) ? latest.data : latest.data?.items ?? [];
  const free = rows.filter((one) => (one.kind === "number" || one.kind === "boolean") && !series.some((s) => s.device === device && s.metric === one.metric)).map((one) => one.metric);
  const chosen = free.includes(metric) ? metric : free[0] ?? "";
  return html`
    <div class="fields add-series">
      <${Field} label="Device" list="chart-devices" value=${device} onValue=${setDevice} hint=${device && !known && !devices.loading ? "No device has this id; choose one of the list." : "Id of a device."} />
      <datalist id="chart-devices">${(devices.data?.items ?? []).map((one) => html`<option value=${one.id}>${one.name}</option>`)}</datalist>
      <${Field} as="select" label="Metric" disabled=${!free.length} options=${free.length ? free : [["", known ? "no numbers left" : "–"]]} value=${chosen} onValue=${setMetric} />
      <${Button} icon="plus" disabled=${!chosen} onClick=${() => onAdd({ device, metric: chosen })}>Add<//>
    </div>`;
}
