// Orders to all devices, the newest first: what waits, what runs, what became of the rest.
import { get, post } from "../api.js";
import { can, readOverview, stop } from "../session.js";
import { Ago, Button, dateTime, Empty, html, Loaded, navigate, Page, Table, Tabs, toast, useData, useQuery, useShared, useState } from "../ui.js";
import { CommandState } from "./device/commands.js";

const VIEWS = {
  all: ["All", undefined],
  open: ["Open", ["queued", "sent", "accepted", "running"]],
  succeeded: ["Succeeded", ["succeeded"]],
  not: ["Not done", ["failed", "rejected", "expired", "timed_out", "canceled"]],
};
const mayCancel = new Set(["queued", "sent"]);

export default function Commands() {
  const [query, setQuery] = useQuery();
  const standing = useShared(stop);
  const view = query.view in VIEWS ? query.view : "all";
  const [more, setMore] = useState({ items: [], next: null });
  const commands = useData(async (signal) => {
    const page = await get("/commands", { state: VIEWS[view][1], limit: 100 }, { signal });
    setMore({ items: [], next: page.next });
    return page;
  }, [view], { every: 10000 });
  const further = async () => {
    const page = await get("/commands", { state: VIEWS[view][1], limit: 100, cursor: more.next });
    setMore({ items: [...more.items, ...page.items], next: page.next });
  };
  const cancel = async (command) => {
    await post(`/commands/${command.id}/cancel`);
    toast("Taken back");
    await Promise.all([commands.reload(), readOverview()]);
  };
  const columns = [
    { key: "device", title: "Device", render: (one) => html`<a href=${`/devices/${one.device}`}>${one.device}</a>` },
    { key: "name", title: "Command", render: (one) => html`<code>${one.name}</code>` },
    { key: "state", title: "State", render: (one) => html`<${CommandState} state=${one.state} />` },
    { key: "result", title: "Parameters and result", wide: true, grow: true, render: (one) => html`<span class="detail-line mono faint">${[one.params, one.result].filter((what) => what !== null && what !== undefined && JSON.stringify(what) !== "{}").map((what) => JSON.stringify(what)).join(" → ")}</span>` },
    { key: "by", title: "By", wide: true, render: (one) => html`<span class="soft">${one.created_by.replace(/^(user|token):/, "")}</span>` },
    { key: "created", title: "Sent", align: "end", render: (one) => html`<span class="soft nowrap" title=${`expires ${dateTime(one.expires_at)}`}><${Ago} time=${one.created_at} /></span>` },
    { key: "cancel", title: "", class: "actions-cell", render: (one) => can("commands:write") && mayCancel.has(one.state) && html`<${Button} kind="quiet small" onClick=${() => cancel(one)}>Take back<//>` },
  ];
  return html`
    <${Page} title="Commands" note="Sent from a device's page. Each ends in exactly one state, and is carried out at most once.">
      ${standing && html`<p class="once">An emergency stop is in force: what is queued waits until it ends. Take back what should not run then.</p>`}
      <${Tabs} label="Commands by state" active=${view} onSelect=${(next) => setQuery({ view: next === "all" ? undefined : next })} tabs=${Object.entries(VIEWS).map(([name, [title]]) => [name, title])} />
      <${Loaded} from=${commands}>${(page) => page.items.length === 0
        ? html`<div class="card"><${Empty} title=${view === "all" ? "No commands yet" : "None in this state"} icon="send" action=${html`<${Button} onClick=${() => navigate("/devices")}>To the devices<//>`}>Open a device to send it one.<//></div>`
        : html`<${Table} label="Commands" rows=${[...page.items, ...more.items]} columns=${columns} onOpen=${(one) => navigate(`/devices/${one.device}/commands`)} />
            ${more.next && html`<div class="more"><${Button} icon="down" onClick=${further}>Older<//></div>`}`}<//>
    <//>`;
}
