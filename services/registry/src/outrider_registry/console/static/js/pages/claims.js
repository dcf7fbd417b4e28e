// Enrolment: claims that let one device each in, and the devices that wait for somebody to say yes.
import { del, get, post, randomKey } from "../api.js";
import { hostAndPort } from "../device-form.js";
import { QrCode } from "../qr.js";
import { can, readOverview } from "../session.js";
import {
  Ago, Button, Card, Code, confirm, dateTime, Dialog, download, Empty, Field, Form, html, Icon, Loaded, Page, Pill, plural, Table, Tabs, Tags, toast, useData,
  useForm, useMemo, useQuery, useState,
} from "../ui.js";

const STATES = {
  open: ["Open", "accent"], awaiting_approval: ["Awaits approval", "info"], used: ["Used", "good"], refused: ["Refused", "bad"], revoked: ["Revoked", ""],
  expired: ["Expired", ""],
};

export default function Claims() {
  const [query, setQuery] = useQuery();
  const [making, setMaking] = useState(false);
  const [made, setMade] = useState(null);
  const [items, setItems] = useState([]);
  const state = query.state ?? "";
  const mayWrite = can("credentials:write");
  const claims = useData(async (signal) => {
    const page = await get("/claims", { state, limit: 100 }, { signal });
    setItems(page.items);
    return page;
  }, [state], { every: 10000 });
  const waiting = useData((signal) => get("/claims", { state: "awaiting_approval", limit: 100 }, { signal }), [], { every: 10000 });
  const again = () => Promise.all([claims.reload(), waiting.reload(), readOverview()]);
  const more = async () => {
    const page = await get("/claims", { state, limit: 100, cursor: claims.data.next });
    setItems([...items, ...page.items]);
    claims.data.next = page.next;
  };
  const revoke = async (claim) => {
    if (!(await confirm({ title: `Revoke claim ${claim.id}?`, text: "Its token opens nothing any more. Devices that are enrolled stay.", action: "Revoke", danger: true }))) return;
    await del(`/claims/${claim.id}`, null);
    toast("Revoked");
    await again();
  };
  const columns = [
    { key: "id", title: "Claim", wide: true, render: (one) => html`<span class="mono">${one.id}</span>` },
    { key: "state", title: "State", render: (one) => html`<${Pill} kind=${STATES[one.state]?.[1]}>${STATES[one.state]?.[0] ?? one.state}<//>` },
    { key: "device", title: "Device", grow: true, render: (one) => one.used_by && one.state === "used" ? html`<a href=${`/devices/${one.used_by}`}>${one.used_by}</a>`
      : html`<span class="soft">${one.device ?? one.request?.device ?? "chosen at enrolment"}</span>` },
    { key: "template", title: "Gets", wide: true, render: (one) => html`<span class="nowrap soft">${[one.template?.type, one.template?.tier].filter(Boolean).join(" · ")}</span> <${Tags} tags=${one.template?.tags} />` },
    { key: "by", title: "Made by", wide: true, render: (one) => html`<span class="soft">${one.created_by?.replace(/^user:/, "")}, <${Ago} time=${one.created_at} /></span>` },
    { key: "expires", title: "Ends", align: "end", wide: true, render: (one) => html`<span class="soft nowrap">${one.state === "open" || one.state === "awaiting_approval" ? html`<${Ago} time=${one.expires_at} />` : one.used_at ? html`used <${Ago} time=${one.used_at} />` : ""}</span>` },
    { key: "actions", title: "", class: "actions-cell", render: (one) => mayWrite && (one.state === "open" || one.state === "awaiting_approval") && html`<${Button} kind="quiet small" onClick=${() => revoke(one)}>Revoke<//>` },
  ];
  return html`
    <${Page} title="Enrolment" note="A claim is a token that is good for one device, once. The device uses it to get its own name and secret."
      actions=${mayWrite && html`<${Button} kind="primary" icon="plus" onClick=${() => setMaking(true)}>New claim<//>`}>
      ${mayWrite && waiting.data?.items.length > 0 && html`<${Waiting} claims=${waiting.data.items} again=${again} />`}
      <${Tabs} label="Claims by state" active=${state} onSelect=${(next) => setQuery({ state: next })} tabs=${[["", "All"], ...Object.entries(STATES).filter(([name]) => name !== "awaiting_approval").map(([name, [title]]) => [name, title])]} />
      <${Loaded} from=${claims}>${(page) => items.length === 0
        ? html`<div class="card"><${Empty} title=${state ? "None in this state" : "No claims yet"} icon="claims" action=${mayWrite && html`<${Button} kind="primary" icon="plus" onClick=${() => setMaking(true)}>New claim<//>`}>
            Make one, put it on a device, and the device enrols itself.<//></div>`
        : html`<${Table} label="Claims" rows=${items} columns=${columns} />
            ${page.next && html`<div class="more"><${Button} onClick=${more}>More<//></div>`}`}<//>
      ${making && html`<${ClaimDialog} onClose=${() => setMaking(false)} onMade=${(claim) => { setMaking(false); setMade(claim); again(); }} />`}
      ${made && html`<${MadeDialog} claims=${made} onClose=${() => setMade(null)} />`}
    <//>`;
}

/** Devices that have claimed and wait for a person. */
function Waiting({ claims, again }) {
  const decide = async (claim, what) => {
    if (what === "refuse" && !(await confirm({ title: "Refuse this device?", text: "It is told so, and its claim is used up.", action: "Refuse", danger: true }))) return;
    await post(`/claims/${claim.id}/${what}`);
    toast(what === "approve" ? "Approved: the device gets its identity" : "Refused");
    await again();
  };
  return html`
    <${Card} title=${`${plural(claims.length, "device waits", "devices wait")} for approval`} class="waiting-claims">
      <ul>${claims.map((claim) => html`
        <li key=${claim.id}>
          <div class="two-lines"><strong>${claim.used_by ?? claim.device ?? claim.request?.device ?? "A new device"}</strong>
            <span>${[claim.request?.serial && `serial ${claim.request.serial}`, claim.request?.type, claim.request?.hardware, claim.request?.firmware && `firmware ${claim.request.firmware}`, `claim ${claim.id}`].filter(Boolean).join(" · ")}</span></div>
          <div class="actions"><${Button} kind="danger" onClick=${() => decide(claim, "refuse")}>Refuse<//><${Button} kind="primary" icon="check" onClick=${() => decide(claim, "approve")}>Approve<//></div>
        </li>`)}</ul>
    <//>`;
}

function ClaimDialog({ onClose, onMade }) {
  const form = useForm({ device: "", serial: "", hours: "24", approval: false, type: "", tier: "", tags: "", count: "1" });
  const { values } = form;
  const many = Number(values.count) > 1;
  const save = async () => {
    const template = { type: values.type.trim(), tier: values.tier.trim(), tags: values.tags.split(/[\s,;]+/).filter(Boolean) };
    const body = {
      hours: Number(values.hours), approval: values.approval,
      template: Object.fromEntries(Object.entries(template).filter(([, value]) => value.length)),
      ...(values.device.trim() && !many && { device: values.device.trim() }),
      ...(values.serial.trim() && !many && { serial: values.serial.trim() }),
      ...(many && { count: Number(values.count) }),
    };
    const answer = await post("/claims", body);
    onMade(answer.items.map((one) => ({ ...one, serial: body.serial })));
  };
  return html`
    <${Dialog} title="New claim" onClose=${onClose} firm>
      <${Form} submit=${many ? `Make ${values.count} claims` : "Make claim"} onSubmit=${save} onCancel=${onClose}>
        <div class="form-row">
          <${Field} label="How many" type="number" min="1" max="1000" required ...${form.bind("count")} />
          <${Field} label="Good for" as="select" options=${[["1", "1 hour"], ["24", "1 day"], ["168", "1 week"], ["720", "30 days"]]} ...${form.bind("hours")} />
        </div>
        ${!many && html`
          <div class="form-row">
            <${Field} label="Device id" placeholder="chosen at enrolment" autocapitalize="none" hint="Else the device asks for one, or gets a random one." ...${form.bind("device")} />
            <${Field} label="Serial number" placeholder="any" hint="Only the device with it may use the claim." ...${form.bind("serial")} />
          </div>`}
        <div class="form-row">
          <${Field} label="Type" placeholder="van" autocapitalize="none" ...${form.bind("type")} />
          <${Field} label="Tier" placeholder="esp32" autocapitalize="none" ...${form.bind("tier")} />
        </div>
        <${Field} label="Tags" placeholder="berlin, cold-chain" autocapitalize="none" hint="What the device gets when it enrols." ...${form.bind("tags")} />
        <${Field} as="check" label="Wait for approval" hint="The device waits until somebody here says yes." ...${form.bind("approval")} />
      <//>
    <//>`;
}

function MadeDialog({ claims, onClose }) {
  const [at, setAt] = useState(0);
  const claim = claims[at];
  // What tells a retry of this device from another device: its serial number, or something random.
  const proof = useMemo(() => (claim.serial ? { serial: claim.serial } : { nonce: randomKey().slice(0, 12) }), [claim.id]);
  const said = JSON.stringify(proof).replaceAll("'", "'\\''");
  const { host, port } = hostAndPort(claim.url);
  const command = `mosquitto_rr -V 5 -h ${host} -p ${port} -i claim:${claim.id} -u claim:${claim.id} -P ${claim.token} -q 1 \\\n  -t fleet/v1/-/claim/${claim.id} -e fleet/v1/-/claim/${claim.id}/reply -m '${said}'`;
  const lines = () => ["claim,token,url,expires_at", ...claims.map((one) => [one.id, one.token, one.url, one.expires_at].join(","))].join("\n");
  return html`
    <${Dialog} title=${claims.length > 1 ? `${claims.length} claims` : "A claim for one device"} onClose=${onClose} firm wide
      footer=${html`${claims.length > 1 && html`<${Button} icon="download" onClick=${() => download("claims.csv", lines())}>Save all as CSV<//>`}<${Button} kind="primary" onClick=${onClose}>I have kept it<//>`}>
      <p class="once"><${Icon} name="key" />${claims.length > 1 ? "The tokens are" : "The token is"} shown this once.</p>
      ${claims.length > 1 && html`<div class="actions"><${Button} disabled=${at === 0} onClick=${() => setAt(at - 1)}>Previous<//><span class="soft">${at + 1} of ${claims.length}</span><${Button} disabled=${at === claims.length - 1} onClick=${() => setAt(at + 1)}>Next<//></div>`}
      <div class="claim-made">
        <${QrCode} text=${`outrider:${claim.id}:${claim.token}@${host}:${port}`} label="QR code with the claim, its token and the broker" />
        <div class="form">
          <dl class="facts"><dt>Claim</dt><dd class="mono">${claim.id}</dd><dt>Broker</dt><dd class="mono">${claim.url}</dd><dt>Good until</dt><dd>${dateTime(claim.expires_at)}</dd></dl>
          <div class="field"><span class="field-label">Token</span><${Code} wrap>${claim.token}<//></div>
        </div>
      </div>
      <div class="field"><span class="field-label">On the device, or by hand</span><${Code}>${command}<//></div>
      <div class="field"><span class="field-label">Or over HTTP</span><${Code}>${`curl -X POST ${claim.enrol_url} -H 'Content-Type: application/json' \\\n  -d '${JSON.stringify({ claim: claim.id, token: claim.token, ...proof }).replaceAll("'", "'\\''")}'`}<//></div>
    <//>`;
}
