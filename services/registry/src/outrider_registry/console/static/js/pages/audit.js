// The audit: who did what, filtered; and whether its chain of hashes is whole.
import { get } from "../api.js";
import { Button, count, dateTime, Empty, html, Icon, Loaded, Page, Table, useData, useQuery, useState } from "../ui.js";

const PAGE = 100;
const LINKS = { device: "/devices/", shadow: "/devices/", chart: "/charts/" };

export default function Audit() {
  const [query, setQuery] = useQuery();
  const [more, setMore] = useState({ items: [], next: undefined });
  const [opened, setOpened] = useState(new Set());
  const [verified, setVerified] = useState(null);
  const filter = { object: query.object, actor: query.actor, action: query.action };
  const lines = useData(async (signal) => {
    const page = await get("/audit", { ...filter, limit: PAGE }, { signal });
    setMore({ items: [], next: page.next });
    return page;
  }, [query.object, query.actor, query.action]);
  const further = async () => {
    const page = await get("/audit", { ...filter, limit: PAGE, cursor: more.next });
    setMore({ items: [...more.items, ...page.items], next: page.next });
  };
  const verify = async () => setVerified(await get("/audit/verify"));
  const toggle = (line) => {
    const next = new Set(opened);
    if (!next.delete(line.number)) next.add(line.number);
    setOpened(next);
  };
  const columns = [
    { key: "at", title: "When", render: (one) => html`<span class="two-lines"><span class="nowrap">${dateTime(one.at)}</span><span>#${count(one.number)}${one.address && ` from ${one.address}`}</span></span>` },
    { key: "actor", title: "Who", render: (one) => html`<button type="button" class="filter-by" title="Only theirs" onClick=${() => setQuery({ actor: one.actor })}>${who(one.actor)}</button>` },
    { key: "action", title: "Did", render: (one) => html`<button type="button" class="filter-by mono" title="Only these" onClick=${() => setQuery({ action: one.action })}>${one.action}</button>` },
    { key: "object", title: "To", wide: true, render: (one) => html`<${ObjectOf} name=${one.object} onFilter=${() => setQuery({ object: one.object })} />` },
    { key: "detail", title: "Detail", wide: true, grow: true, render: (one) => Object.keys(one.detail ?? {}).length > 0 && (opened.has(one.number)
      ? html`<pre class="detail">${JSON.stringify(one.detail, null, 2)}</pre>`
      : html`<span class="detail-line mono faint">${JSON.stringify(one.detail)}</span>`) },
  ];
  const filtered = Object.values(filter).some(Boolean);
  return html`
    <${Page} title="Audit" note="Append-only. Every entry is hashed together with the one before it." actions=${html`<${Button} icon="audit" onClick=${verify}>Verify<//>`}>
      ${verified && html`<${Verdict} verdict=${verified} />`}
      <div class="filters">
        ${[["object", "Object", "device:van-7"], ["actor", "Who", "user:ann"], ["action", "Action", "device."]].map(([name, title, example], i) => html`
          <${Filter} key=${name} first=${i === 0} title=${title} example=${example} value=${query[name] ?? ""} onValue=${(value) => setQuery({ [name]: value })} />`)}
        ${filtered && html`<${Button} kind="quiet" icon="close" onClick=${() => setQuery({ object: undefined, actor: undefined, action: undefined })}>Clear<//>`}
      </div>
      <${Loaded} from=${lines}>${(page) => page.items.length === 0
        ? html`<div class="card"><${Empty} title=${filtered ? "No entry fits" : "Nothing yet"} icon="audit">Filters are whole names, such as device:van-7; an action may end with a dot.<//></div>`
        : html`<${Table} label="Audit" rows=${[...page.items, ...more.items]} rowKey=${(one) => one.number} columns=${columns} onOpen=${toggle} busy=${lines.loading} />
            ${more.next && html`<div class="more"><${Button} icon="down" onClick=${further}>Older<//></div>`}`}<//>
    <//>`;
}

/** "ann", or "ann by token 692fb05a". */
function who(actor) {
  const [, owner, token] = /^token:(.*)\/([^/]+)$/.exec(actor) ?? [];
  return token ? html`${owner} <span class="faint">by token ${token.slice(0, 8)}</span>` : actor.replace(/^user:/, "");
}

function Filter({ title, example, value, onValue, first }) {
  const [text, setText] = useState(value);
  const [before, setBefore] = useState(value);
  if (before !== value) {
    setBefore(value);
    setText(value);
  }
  const take = (event) => onValue(event.target.value.trim());
  return html`<input type="search" aria-label=${title} data-search=${first ? "" : undefined} placeholder=${`${title}: ${example}`} value=${text} onInput=${(event) => setText(event.target.value)} onChange=${take}
    onKeyDown=${(event) => event.key === "Enter" && take(event)} />`;
}

function ObjectOf({ name, onFilter }) {
  const [kind, id] = [name.slice(0, name.indexOf(":")), name.slice(name.indexOf(":") + 1)];
  return html`<span class="nowrap"><button type="button" class="filter-by" title="Only this" onClick=${onFilter}>${name}</button>${LINKS[kind] && html` <a href=${LINKS[kind] + id} aria-label=${`Open ${name}`}><${Icon} name="chevron" size=${13} /></a>`}</span>`;
}

/** What recomputing the chain found. */
function Verdict({ verdict }) {
  const head = verdict.head?.hash ?? verdict.head;
  return verdict.valid
    ? html`<p class="verdict good" role="status"><${Icon} name="check" /><span>The chain is whole: ${count(verdict.checked)} entries recomputed. Newest hash <code>${head}</code>. Keep it elsewhere to notice a rewritten chain.</span></p>`
    : html`<p class="verdict bad" role="alert"><${Icon} name="rejected" /><span><strong>The chain is broken at entry ${count(verdict.first_bad)}:</strong> it was changed, or the one before it is missing.</span></p>`;
}
