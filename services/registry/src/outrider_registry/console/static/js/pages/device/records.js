// Log lines and events of a device, the newest first.
import { get } from "../../api.js";
import { Button, Card, dateTime, Empty, Field, html, Loaded, Pill, useData, useQuery, useState } from "../../ui.js";

const LEVELS = ["", "emergency", "alert", "critical", "error", "warning", "notice", "info", "debug"];
const KIND = { emergency: "bad", alert: "bad", critical: "bad", error: "bad", warning: "warn", notice: "info" };
const PAGE = 100;
const REFRESH_MS = 5000;

export function Records({ device }) {
  const [query, setQuery] = useQuery();
  const filters = { level: query.level, q: query.text };
  return html`
    <div class="columns wide-left">
      <${Card} title="Logs">
        <div class="toolbar">
          <${Field} as="select" label="Level and worse" class="inline" options=${LEVELS.map((level) => [level, level || "all"])} value=${query.level ?? ""}
            onValue=${(level) => setQuery({ level: level || undefined })} />
          <${Field} label="Contains" class="inline" type="search" data-search value=${query.text ?? ""} onValue=${(text) => setQuery({ text: text || undefined })} />
        </div>
        <${List} key=${JSON.stringify(filters)} path=${`/devices/${device.id}/logs`} filters=${filters} row=${logRow} empty="No log lines" />
      <//>
      <${Card} title="Events"><${List} path=${`/devices/${device.id}/events`} filters=${{}} row=${eventRow} empty="No events" /><//>
    </div>`;
}

/** A list that reads its beginning again and again, and older parts when asked. */
function List({ path, filters, row, empty }) {
  const newest = useData((signal) => get(path, { ...filters, limit: PAGE }, { signal }), [path, JSON.stringify(filters)], { every: REFRESH_MS });
  const [older, setOlder] = useState(null);
  return html`<${Loaded} from=${newest}>${(found) => {
    // once older ones are shown, the list stands still: new lines would push away what is being read
    const shown = older ? older.items : found.items;
    const next = older ? older.next : found.next;
    if (!shown.length) return html`<${Empty} title=${empty} icon="clock">They appear here as the device sends them.<//>`;
    const more = async () => {
      const page = await get(path, { ...filters, cursor: next, limit: PAGE });
      setOlder({ items: [...shown, ...page.items], next: page.next });
    };
    return html`
      ${older && html`<p class="note"><${Button} icon="refresh" onClick=${() => setOlder(null)}>Back to the newest<//></p>`}
      <ol class="records">${shown.map(row)}</ol>
      ${next && html`<div class="more"><${Button} icon="down" onClick=${more}>Older<//></div>`}`;
  }}<//>`;
}

const fieldsOf = (fields) => fields && Object.keys(fields).length > 0 && html`<code class="soft">${Object.entries(fields).map(([key, v]) => `${key}=${typeof v === "string" ? v : JSON.stringify(v)}`).join(" ")}</code>`;

const logRow = (line, i) => html`
  <li key=${`${line.ts}-${i}`}><time datetime=${line.ts}>${dateTime(line.ts)}</time> <${Pill} kind=${KIND[line.level] ?? ""}>${line.level}<//>
    <span>${line.message ?? line.msg}</span> ${fieldsOf(line.fields)}</li>`;

const eventRow = (event, i) => html`
  <li key=${`${event.ts}-${i}`}><time datetime=${event.ts}>${dateTime(event.ts)}</time> <${Pill} kind="info">${event.type}<//>
    <span>${event.message ?? event.msg}</span> ${fieldsOf(event.fields)}</li>`;
