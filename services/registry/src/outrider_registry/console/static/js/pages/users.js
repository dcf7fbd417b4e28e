// People: who may sign in, as what, and the one-time links that let them in.
import { del, get, patch, post, session } from "../api.js";
import { BrokerLoginDialog, LinkDialog } from "../once.js";
import { can } from "../session.js";
import {
  Ago, Button, confirm, Dialog, Empty, Field, Form, html, Loaded, Page, Pill, Table, toast, useData, useForm, useState,
} from "../ui.js";

const ROLES = [["viewer", "Viewer: looks, and keeps charts"], ["operator", "Operator: changes devices, sends commands"], ["admin", "Admin: also people, tokens, the tenant"]];

export default function Users() {
  const [text, setText] = useState("");
  const [dialog, setDialog] = useState(null);
  const users = useData((signal) => get("/users", { q: text.trim(), limit: 500 }, { signal }), [text]);
  const who = session.get();
  const mayWrite = can("users:write");
  const columns = [
    { key: "name", title: "Name", grow: true, render: (one) => html`<span class="two-lines"><strong>${one.name}${one.name === who.name && html` <span class="faint">(you)</span>`}</strong>${!one.tenant ? html`<span>administrates the platform</span>` : who.tenant !== one.tenant && html`<span>${one.tenant}</span>`}</span>` },
    { key: "role", title: "Role", render: (one) => html`<${Pill} kind=${one.role === "admin" ? "accent" : ""}>${one.role}<//>` },
    { key: "state", title: "State", wide: true, render: (one) => html`<span class="tags">
        ${one.disabled_at && html`<${Pill} kind="bad">disabled<//>`}${!one.password && html`<${Pill} kind="warn">no password yet<//>`}
        ${one.totp && html`<${Pill} kind="good">second factor<//>`}${one.broker_login && html`<${Pill}>broker login<//>`}</span>` },
    { key: "seen", title: "Last here", align: "end", wide: true, render: (one) => html`<span class="soft nowrap"><${Ago} time=${one.seen_at} /></span>` },
  ];
  return html`
    <${Page} title="People" actions=${html`
        <div class="filters"><input data-search type="search" aria-label="Find people" placeholder="Find people" value=${text} onInput=${(event) => setText(event.target.value)} /></div>
        ${mayWrite && html`<${Button} kind="primary" icon="plus" onClick=${() => setDialog({ invite: true })}>Invite<//>`}`}>
      <${Loaded} from=${users}>${({ items }) => items.length === 0
        ? html`<div class="card"><${Empty} title=${text ? "Nobody has this name" : "Nobody yet"} icon="users">Invite somebody: they get a link that is good once, and set a password.<//></div>`
        : html`<${Table} label="People" rows=${items} rowKey=${(one) => one.name} columns=${columns} onOpen=${mayWrite ? (one) => setDialog({ person: one }) : undefined} />`}<//>
      ${dialog?.invite && html`<${Invite} onClose=${() => setDialog(null)} onMade=${(made) => { users.reload(); setDialog({ link: made.link, name: made.name }); }} />`}
      ${dialog?.person && html`<${Person} person=${dialog.person} onClose=${() => setDialog(null)} onChanged=${users.reload} show=${setDialog} />`}
      ${dialog?.link && html`<${LinkDialog} name=${dialog.name} link=${dialog.link} onClose=${() => setDialog(null)} />`}
      ${dialog?.login && html`<${BrokerLoginDialog} login=${dialog.login} onClose=${() => setDialog(null)} />`}
    <//>`;
}

function Invite({ onClose, onMade }) {
  const who = session.get();
  const onPlatform = who.platform && !who.tenant;
  const form = useForm({ name: "", role: "operator" });
  const save = async () => {
    const name = form.values.name.trim().toLowerCase();
    onMade(await post("/users", onPlatform ? { name, platform: true } : { name, role: form.values.role }));
  };
  return html`
    <${Dialog} title=${onPlatform ? "Invite an administrator of the platform" : `Invite somebody to ${who.tenant}`} onClose=${onClose} firm>
      <${Form} submit="Make account and link" onSubmit=${save} onCancel=${onClose}>
        <${Field} label="Name" required autofocus placeholder="ann@acme.example" autocapitalize="none" spellcheck="false" hint="An e-mail address is a good name; nothing is sent to it." ...${form.bind("name")} />
        ${onPlatform ? html`<p class="note">May do everything, in every tenant. To invite somebody to one tenant, choose it at the top first.</p>`
          : html`<${Field} label="Role" as="select" options=${ROLES} ...${form.bind("role")} />`}
      <//>
    <//>`;
}

function Person({ person, onClose, onChanged, show }) {
  const form = useForm({ role: person.role });
  const path = `/users/${encodeURIComponent(person.name)}`;
  const done = (text) => {
    toast(text);
    onChanged();
    onClose();
  };
  const change = async (body, text) => {
    await patch(path, body, person.version);
    done(text);
  };
  const link = async () => show({ link: await post(`${path}/link`), name: person.name });
  const login = async () => {
    const made = await post(`${path}/broker-login`);
    onChanged();
    show({ login: made });
  };
  const sure = (title, text, action) => confirm({ title, text, action, danger: true });
  const disable = async () => {
    if (await sure(`Disable ${person.name}?`, "Signed out everywhere at once; tokens and the broker login do not work meanwhile. Nothing is erased.", "Disable")) await change({ disabled: true }, "Disabled");
  };
  const remove = async () => {
    if (!(await sure(`Delete ${person.name}?`, "The account, its tokens and its broker login end. What it did stays in the audit.", "Delete"))) return;
    await del(path, person.version);
    done("Deleted");
  };
  const noFactor = async () => {
    if (await sure(`Take the second factor of ${person.name} away?`, "For somebody who lost it. From then on the password alone opens the account.", "Take away")) await change({ totp: false }, "Second factor taken away");
  };
  const endLogin = async () => {
    await del(`${path}/broker-login`, null);
    done("Broker login ended");
  };
  return html`
    <${Dialog} title=${person.name} onClose=${onClose}>
      ${person.tenant && html`<${Form} submit="Change role" onSubmit=${() => change({ role: form.values.role }, "Role changed")} disabled=${form.values.role === person.role}>
        <${Field} label="Role" as="select" options=${ROLES} ...${form.bind("role")} /><//>`}
      <hr />
      <div class="rows">
        <div><div><strong>One-time sign-in</strong><p class="hint">For the first time, or a forgotten password.</p></div><${Button} icon="link" onClick=${link}>New link<//></div>
        <div><div><strong>Login at the broker</strong><p class="hint">${person.broker_login ? "Has one; making it again changes its password." : "Read-only, for mosquitto_sub and the like."}</p></div>
          <div class="actions">${person.broker_login && html`<${Button} onClick=${endLogin}>End<//>`}<${Button} icon="key" onClick=${login}>${person.broker_login ? "New password" : "Make"}<//></div></div>
        ${person.totp && html`<div><div><strong>Second factor</strong><p class="hint">If its owner has lost it.</p></div><${Button} kind="danger" onClick=${noFactor}>Take away<//></div>`}
        <div><div><strong>Account</strong><p class="hint">${person.disabled_at ? html`Disabled <${Ago} time=${person.disabled_at} />.` : "Disabling signs out everywhere."}</p></div>
          <div class="actions">${person.disabled_at ? html`<${Button} onClick=${() => change({ disabled: false }, "Enabled")}>Enable<//>` : html`<${Button} onClick=${disable}>Disable<//>`}<${Button} kind="danger" icon="trash" onClick=${remove}>Delete<//></div></div>
      </div>
    <//>`;
}
