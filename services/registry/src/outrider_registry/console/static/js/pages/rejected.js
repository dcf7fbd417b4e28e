// What could not be stored: the reason, the message itself, and the way to send it again once the cause is mended.
import { del, get, post } from "../api.js";
import { can } from "../session.js";
import { Ago, Button, Card, Code, confirm, count, dateTime, Dialog, Empty, Field, html, Loaded, More, navigate, Page, Pill, Table, toast, useData, useEffect, useQuery, useState } from "../ui.js";

const PAGE = 100;
const BATCH = 1000;

export default function Rejected({ id }) {
  const [query, setQuery] = useQuery();
  const filters = { device: query.device, reason: query.reason, replayed: query.all ? undefined : false };
  const first = useData((signal) => get("/rejected", { ...filters, limit: PAGE }, { signal }), [JSON.stringify(filters)], { every: 10000 });
  const [older, setOlder] = useState(null);
  const [chosen, setChosen] = useState(() => new Set());
  useEffect(() => { setOlder(null); setChosen(new Set()); }, [JSON.stringify(filters)]);
  const address = location.search;
  const reload = async () => { setOlder(null); setChosen(new Set()); await first.reload(); };
  const toggle = (one) => setChosen((now) => {
    const next = new Set(now);
    if (!next.delete(one)) next.add(one);
    return next;
  });
  const columns = [
    can("rejected:write") && { key: "choose", title: "", render: (row) => html`<input type="checkbox" aria-label=${`Choose ${row.id}`} checked=${chosen.has(row.id)} onChange=${() => toggle(row.id)} />` },
    { key: "rejected_at", title: "When", render: (row) => html`<${Ago} time=${row.rejected_at} />` },
    { key: "device", title: "Device", render: (row) => html`<a href=${`/devices/${row.device}`}>${row.device}</a>` },
    { key: "stream", title: "Stream", wide: true },
    { key: "reason", title: "Reason", render: (row) => html`<${Pill} kind=${row.replayed_at ? "" : "bad"}>${row.reason}<//>` },
    { key: "detail", title: "Detail", grow: true, render: (row) => html`<span class="clip">${row.detail}</span>` },
    { key: "replayed_at", title: "Replayed", wide: true, render: (row) => row.replayed_at && html`<${Ago} time=${row.replayed_at} />` },
  ].filter(Boolean);
  const replay = async (body, what) => {
    const answer = await post("/rejected/replay", body);
    toast(`${what(answer)} sent again; what is still wrong comes back here`);
    await reload();
  };
  const replayChosen = () => replay({ ids: [...chosen] }, () => count(chosen.size));
  const replayAll = async () => {
    const narrowed = Object.fromEntries(["device", "reason"].filter((key) => query[key]).map((key) => [key, query[key]]));
    const sure = await confirm({ title: "Send all of these again?", action: "Replay", text: `At most ${count(BATCH)} at a time${query.reason ? `, with the reason ${query.reason}` : ""}${query.device ? `, of ${query.device}` : ""}. What is still wrong is refused again and kept.` });
    if (sure) await replay(narrowed, (answer) => count(answer.replayed ?? 0));
  };
  return html`
    <${Page} title="Rejected messages" note="Nothing is dropped: what cannot be stored is kept here with its reason, and can be sent again."
      actions=${can("rejected:write") && html`
        ${chosen.size > 0 && html`<${Button} kind="primary" icon="refresh" onClick=${replayChosen}>Replay ${count(chosen.size)}<//>`}
        ${(query.device || query.reason) && html`<${Button} icon="refresh" onClick=${replayAll}>Replay all shown<//>`}`}>
      <div class="toolbar">
        <${Field} label="Device" class="inline" type="search" data-search value=${query.device ?? ""} onValue=${(device) => setQuery({ device: device || undefined })} />
        <${Field} label="Reason" class="inline" type="search" list="reasons" value=${query.reason ?? ""} onValue=${(reason) => setQuery({ reason: reason || undefined })} />
        <datalist id="reasons">${[...new Set((first.data?.items ?? []).map((one) => one.reason))].map((one) => html`<option value=${one}></option>`)}</datalist>
        <${Field} as="check" label="Also replayed ones" value=${Boolean(query.all)} onValue=${(all) => setQuery({ all: all ? "1" : undefined })} />
      </div>
      <${Card}><${Loaded} from=${first}>${(found) => {
        const rows = [...found.items, ...(older?.items ?? [])];
        const next = older ? older.next : found.next;
        const more = async () => {
          const page = await get("/rejected", { ...filters, limit: PAGE, cursor: next });
          setOlder((now) => ({ items: [...(now?.items ?? []), ...page.items], next: page.next }));
        };
        return rows.length
          ? html`<${Table} label="Rejected messages" columns=${columns} rows=${rows} onOpen=${(row) => navigate(`/rejected/${row.id}${address}`)} /><${More} next=${next} onMore=${more} />`
          : html`<${Empty} title="Nothing is rejected" icon="check">Every message could be stored.<//>`;
      }}<//><//>
      ${id && html`<${One} key=${id} id=${id} onClose=${() => navigate(`/rejected${address}`)} onChanged=${reload} />`}
    <//>`;
}

function One({ id, onClose, onChanged }) {
  const found = useData((signal) => get(`/rejected/${id}`, undefined, { signal }), [id]);
  const [hex, setHex] = useState(false);
  const replay = async () => {
    await post(`/rejected/${id}/replay`);
    toast("Sent again; if it is still wrong it comes back");
    await onChanged();
    onClose();
  };
  const remove = async () => {
    await del(`/rejected/${id}`, null);
    toast("Deleted for good");
    await onChanged();
    onClose();
  };
  return html`
    <${Dialog} title=${`Rejected message ${id}`} onClose=${onClose} wide footer=${can("rejected:write") && html`
      <${Button} kind="danger" icon="trash" onClick=${remove}>Delete<//><${Button} kind="primary" icon="refresh" onClick=${replay}>Replay<//>`}>
      <${Loaded} from=${found}>${(one) => {
        const raw = one.payload_text ?? one.payload?.text ?? one.text;
        const bytes = one.payload_hex ?? one.payload?.hex ?? one.hex;
        return html`
          <p><${Pill} kind="bad">${one.reason}<//> ${one.explanation}</p>
          ${one.detail && html`<p class="note">${one.detail}</p>`}
          <dl class="facts">
            <dt>Device</dt><dd><a href=${`/devices/${one.device}`}>${one.device}</a></dd>
            <dt>Topic</dt><dd><code>${one.topic}</code></dd>
            <dt>Refused by</dt><dd>${one.service}</dd>
            <dt>Received</dt><dd>${dateTime(one.received_at)}</dd>
            <dt>Refused</dt><dd>${dateTime(one.rejected_at)}</dd>
            ${one.seq && html`<dt>Number</dt><dd><code>boot ${one.boot}, seq ${one.seq}</code></dd>`}
            ${one.replayed_at && html`<dt>Replayed</dt><dd>${dateTime(one.replayed_at)}</dd>`}
          </dl>
          <p class="toolbar"><strong>Message</strong> <span class="soft">${one.bytes !== undefined && `${count(one.bytes)} bytes`}</span>
            ${raw !== null && raw !== undefined && bytes && html`<button type="button" class="chip" aria-pressed=${hex ? "true" : "false"} onClick=${() => setHex(!hex)}>hexadecimal</button>`}</p>
          <${Code} wrap>${hex || raw === null || raw === undefined ? bytes : raw}<//>`;
      }}<//>
    <//>`;
}
