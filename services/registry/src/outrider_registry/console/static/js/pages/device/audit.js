// Who did what to this device.
import { get } from "../../api.js";
import { Card, dateTime, Empty, html, Loaded, More, Table, useData, useState } from "../../ui.js";

export function Audit({ device }) {
  const first = useData((signal) => get("/audit", { object: `device:${device.id}`, limit: 100 }, { signal }), [device.id]);
  const [older, setOlder] = useState(null);
  const columns = [
    { key: "at", title: "When", render: (row) => dateTime(row.at) },
    { key: "actor", title: "Who", render: (row) => row.actor },
    { key: "action", title: "Did", render: (row) => html`<code>${row.action}</code>` },
    { key: "detail", title: "What", grow: true, wide: true, render: (row) => Object.keys(row.detail ?? {}).length > 0 && html`<code class="json clip">${JSON.stringify(row.detail)}</code>` },
    { key: "address", title: "From", wide: true },
  ];
  return html`<${Card} title="Audit"><${Loaded} from=${first}>${(found) => {
    const rows = [...found.items, ...(older?.items ?? [])];
    const next = older ? older.next : found.next;
    const more = async () => {
      const page = await get("/audit", { object: `device:${device.id}`, limit: 100, cursor: next });
      setOlder((now) => ({ items: [...(now?.items ?? []), ...page.items], next: page.next }));
    };
    return rows.length ? html`<${Table} label="Audit of the device" columns=${columns} rows=${rows} rowKey=${(row) => row.number} /><${More} next=${next} onMore=${more} />`
      : html`<${Empty} title="Nothing yet" icon="audit">Every change of this device will be listed here.<//>`;
  }}<//><//>`;
}
