// Who lost what: gaps in the numbering of devices, duplicates and conflicts.
import { get } from "../api.js";
import { Ago, Card, count, Empty, Field, html, Loaded, More, Page, Pill, Table, useData, useEffect, useQuery, useState } from "../ui.js";

const RANGES_SHOWN = 4;

export default function Sequences() {
  const [query, setQuery] = useQuery();
  const filters = { device: query.device, gaps: query.all ? undefined : true };
  const first = useData((signal) => get("/sequences", { ...filters, limit: 200 }, { signal }), [JSON.stringify(filters)], { every: 10000 });
  const [older, setOlder] = useState(null);
  useEffect(() => setOlder(null), [JSON.stringify(filters)]);
  const columns = [
    { key: "device", title: "Device", render: (row) => html`<a href=${`/devices/${row.device}`}>${row.device}</a>` },
    { key: "stream", title: "Stream" },
    { key: "boot", title: "Boot", wide: true, render: (row) => html`<code>${row.boot}</code>` },
    { key: "missing", title: "Missing", align: "end", render: (row) => row.missing ? html`<${Pill} kind="warn">${count(row.missing)}<//>` : html`<span class="soft">0</span>` },
    { key: "gaps", title: "Numbers", grow: true, render: (row) => ranges(row.gaps) },
    { key: "duplicates", title: "Duplicates", align: "end", wide: true, render: (row) => count(row.duplicates) },
    { key: "conflicts", title: "Conflicts", align: "end", wide: true, render: (row) => row.conflicts ? html`<${Pill} kind="bad">${count(row.conflicts)}<//>` : "0" },
    { key: "contiguous", title: "Whole up to", align: "end", wide: true, render: (row) => count(row.contiguous) },
    { key: "updated_at", title: "Updated", align: "end", wide: true, render: (row) => html`<${Ago} time=${row.updated_at} />` },
  ];
  return html`
    <${Page} title="Sequence gaps" note="Devices number their messages. What is missing here was sent and has not arrived, or is still on its way.">
      <div class="toolbar">
        <${Field} label="Device" class="inline" type="search" data-search value=${query.device ?? ""} onValue=${(device) => setQuery({ device: device || undefined })} />
        <${Field} as="check" label="Also those without gaps" value=${Boolean(query.all)} onValue=${(all) => setQuery({ all: all ? "1" : undefined })} />
      </div>
      <${Card}><${Loaded} from=${first}>${(found) => {
        const rows = [...found.items, ...(older?.items ?? [])];
        const next = older ? older.next : found.next;
        const more = async () => {
          const page = await get("/sequences", { ...filters, limit: 200, cursor: next });
          setOlder((now) => ({ items: [...(now?.items ?? []), ...page.items], next: page.next }));
        };
        return rows.length
          ? html`<${Table} label="Sequences" columns=${columns} rows=${rows} rowKey=${(row) => `${row.device} ${row.stream} ${row.boot}`} /><${More} next=${next} onMore=${more} />`
          : html`<${Empty} title="No gaps" icon="check">Every numbered message has arrived${query.device ? html` from ${query.device}` : ""}.<//>`;
      }}<//><//>
    <//>`;
}

const ranges = (gaps) => {
  const shown = (gaps ?? []).slice(0, RANGES_SHOWN).map(([a, b]) => (a === b ? String(a) : `${a}–${b}`)).join(", ");
  const rest = (gaps ?? []).length - RANGES_SHOWN;
  return html`<code>${shown}</code>${rest > 0 && html` <span class="soft">and ${count(rest)} more</span>`}`;
};
