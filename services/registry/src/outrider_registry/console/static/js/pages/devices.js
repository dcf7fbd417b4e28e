// The fleet: figures that filter, search, and a hundred devices a page, however many there are.
import { all, get } from "../api.js";
import { DeviceDialog } from "../device-form.js";
import { can, overview } from "../session.js";
import {
  Ago, Button, count, Empty, html, Loaded, navigate, Page, Pill, plural, Presence, Sparkline, Table, Tags, useData, useEffect, useQuery, useRef,
  useShared, useState,
} from "../ui.js";

const PAGE = 100;
const REFRESH_MS = 15000;
const FILTERS = ["q", "tag", "type", "tier", "status", "presence", "gateway"];

/** Which metric the sparklines show: remembered here, "" for none. */
function rememberedMetric() {
  try {
    return localStorage.getItem("sparkline");
  } catch {
    return null;
  }
}

export default function Devices() {
  const [query, setQuery] = useQuery();
  const [cursors, setCursors] = useState([undefined]); // of every page up to the one that is shown
  const [adding, setAdding] = useState(false);
  const [metric, setMetric] = useState(rememberedMetric);
  const [total, setTotal] = useState(null);
  const filter = Object.fromEntries(FILTERS.map((name) => [name, query[name]]));
  const sort = query.sort ?? "id";
  const key = JSON.stringify([filter, sort]);
  const shownFor = useRef(key);
  if (shownFor.current !== key) {
    shownFor.current = key;
    if (cursors.length > 1) setCursors([undefined]);
  }
  const cursor = cursors[cursors.length - 1];
  const page = useData(async (signal) => {
    const found = await get("/devices", { ...filter, sort, limit: PAGE, cursor }, { signal });
    if (typeof found.total === "number") setTotal(found.total);
    return found;
  }, [key, cursor], { every: REFRESH_MS });
  const metrics = useData(() => all("/metrics", { limit: 500 }), []);
  const numeric = (metrics.data ?? []).filter((one) => one.kind === "number" && one.seen !== false).map((one) => one.name);
  const wanted = metric ?? numeric.find((name) => name.startsWith("speed")) ?? numeric[0] ?? "";
  // The list itself does not wait for its sparklines.
  const ids = page.data?.items.map((one) => one.id).join(" ");
  const lines = useData(async (signal) => {
    if (!wanted || !ids) return {};
    const found = await get("/devices", { ...filter, sort, limit: PAGE, cursor, sparkline: wanted }, { signal });
    return Object.fromEntries(found.items.map((one) => [one.id, one.sparkline]));
  }, [ids, wanted]);
  const choose = (name) => {
    setMetric(name);
    try {
      localStorage.setItem("sparkline", name);
    } catch {
      // remembered until the page is left
    }
  };
  const columns = [
    { key: "id", title: "Device", sort: "id", render: (one) => html`
      <span class="two-lines"><span class="device-name"><${Presence} state=${one.presence?.state} status=${one.status} /><a href=${`/devices/${one.id}`} tabindex="-1">${one.id}</a></span>
        ${one.name && html`<span class="device-title">${one.name}</span>`}</span>` },
    { key: "type", title: "Type", wide: true, render: (one) => html`<span class="nowrap">${[one.type, one.tier].filter(Boolean).join(" · ") || html`<span class="faint">–</span>`}</span>` },
    { key: "tags", title: "Tags", wide: true, grow: true, render: (one) => html`<${Tags} tags=${one.tags} />` },
    { key: "firmware", title: "Firmware", wide: true, class: "mid-only", render: (one) => html`<span class="mono soft">${one.presence?.firmware || one.firmware}</span>` },
    ...(wanted ? [{ key: "sparkline", title: wanted, wide: true, render: (one) => html`<${Sparkline} values=${lines.data?.[one.id]} label=${`${wanted}, last hour`} />` }] : []),
    { key: "status", title: "", wide: true, render: (one) => one.status !== "active" && html`<${Pill} kind=${one.status === "disabled" ? "bad" : "info"}>${one.status}<//>` },
    { key: "seen", title: "Last seen", sort: "seen_at", align: "end", render: (one) => html`<span class="soft nowrap"><${Ago} time=${one.presence?.seen_at} /></span>` },
  ];
  const filtered = FILTERS.some((name) => query[name]);
  const from = (cursors.length - 1) * PAGE;
  return html`
    <${Page} title="Devices" actions=${can("devices:write") && html`
        <${Button} icon="upload" onClick=${() => navigate("/import")}>Import<//>
        <${Button} kind="primary" icon="plus" onClick=${() => setAdding(true)}>Add device<//>`}>
      <${Figures} query=${query} setQuery=${setQuery} />
      <${Filters} query=${query} setQuery=${setQuery} filtered=${filtered} metrics=${numeric} metric=${wanted} onMetric=${choose} />
      <${Loaded} from=${page}>${(data) => data.items.length === 0
        ? html`<div class="card"><${Nothing} filtered=${filtered} onAdd=${() => setAdding(true)} onClear=${() => setQuery(Object.fromEntries(FILTERS.map((name) => [name, undefined])))} /></div>`
        : html`
          <${Table} label="Devices" rows=${data.items} columns=${columns} sort=${sort} onSort=${(next) => setQuery({ sort: next === "id" ? undefined : next })}
            onOpen=${(one) => navigate(`/devices/${one.id}`)} busy=${page.loading && shownFor.current !== key} />
          <nav class="pager" aria-label="Pages">
            <span class="soft">${count(from + 1)}–${count(from + data.items.length)}${total !== null && ` of ${plural(total, "device")}`}</span>
            <${Button} disabled=${cursors.length === 1} onClick=${() => { setCursors(cursors.slice(0, -1)); scrollUp(); }}>Previous<//>
            <${Button} disabled=${!data.next} onClick=${() => { setCursors([...cursors, data.next]); scrollUp(); }}>Next<//>
          </nav>`}<//>
      ${adding && html`<${DeviceDialog} onClose=${() => setAdding(false)} onSaved=${(saved) => { page.reload(); navigate(`/devices/${saved.id}`); }} />`}
    <//>`;
}

const scrollUp = () => document.getElementById("content").scrollTo(0, 0);

const FIGURES = [
  ["devices", "All", {}],
  ["online", "Online", { presence: "online" }],
  ["offline", "Offline", { presence: "offline" }],
  ["unknown", "Never seen", { presence: "unknown" }],
  ["pending", "Pending", { status: "pending" }],
  ["disabled", "Disabled", { status: "disabled" }],
];

/** The fleet in figures; each is a filter. */
function Figures({ query, setQuery }) {
  const figures = useShared(overview);
  return html`
    <div class="figures" role="group" aria-label="Filter by state">
      ${FIGURES.map(([name, title, filter]) => {
        const active = (query.presence ?? "") === (filter.presence ?? "") && (query.status ?? "") === (filter.status ?? "");
        return html`
          <button type="button" class="figure" key=${name} aria-pressed=${active ? "true" : "false"} onClick=${() => setQuery({ presence: undefined, status: undefined, ...filter })}>
            <span class="figure-name">${name !== "devices" && html`<span class=${`presence ${name}`}><i aria-hidden="true"></i></span>`}${title}</span>
            <strong>${count(figures?.[name])}</strong>
          </button>`;
      })}
    </div>`;
}

function Filters({ query, setQuery, filtered, metrics, metric, onMetric }) {
  const [choices, setChoices] = useState({ tags: [], types: [] });
  const tiers = ["esp32", "pi", "phone", "obd"];
  useEffect(() => {
    Promise.all([get("/tags"), get("/types")]).then(([tags, types]) => setChoices({ tags, types }), () => undefined);
  }, []);
  const options = (list, title, current) => {
    const names = list.map((one) => one.name ?? one).filter(Boolean);
    if (current && !names.includes(current)) names.unshift(current);
    return html`<option value="" selected=${!current}>${title}</option>${names.map((name) => html`<option value=${name} selected=${name === current}>${name}</option>`)}`;
  };
  const pick = (name) => (event) => setQuery({ [name]: event.target.value });
  return html`
    <div class="filters">
      <select aria-label="Tag" value=${query.tag ?? ""} onChange=${pick("tag")}>${options(choices.tags, "Any tag", query.tag)}</select>
      <select aria-label="Type" value=${query.type ?? ""} onChange=${pick("type")}>${options(choices.types, "Any type", query.type)}</select>
      <select aria-label="Tier" value=${query.tier ?? ""} onChange=${pick("tier")}>${options(tiers, "Any tier", query.tier)}</select>
      ${query.q && html`<span class="pill accent">“${query.q}”</span>`}
      ${query.gateway && html`<span class="pill accent">behind ${query.gateway}</span>`}
      ${filtered && html`<${Button} kind="quiet" icon="close" onClick=${() => setQuery(Object.fromEntries(FILTERS.map((name) => [name, undefined])))}>Clear<//>`}
      ${metrics.length > 0 && html`<select class="push wide-only" aria-label="Metric of the sparklines" value=${metric} onChange=${(event) => onMetric(event.target.value)}>
        <option value="" selected=${!metric}>No sparkline</option>${metrics.map((name) => html`<option value=${name} selected=${name === metric}>${name}</option>`)}</select>`}
    </div>`;
}

const Nothing = ({ filtered, onAdd, onClear }) => filtered
  ? html`<${Empty} title="No device fits" icon="search" action=${html`<${Button} onClick=${onClear}>Clear filters<//>`}>Search finds parts of the id, name, serial number and tags.<//>`
  : html`<${Empty} title="No devices yet" icon="devices" action=${can("devices:write") && html`<div class="actions">
      <${Button} kind="primary" icon="claims" onClick=${() => navigate("/claims")}>Enrol a device<//><${Button} icon="plus" onClick=${onAdd}>Add by hand<//><${Button} icon="upload" onClick=${() => navigate("/import")}>Import a file<//></div>`}>
      Make a claim and let a device enrol itself, add one by hand, or import a file.<//>`;
