// Tenants, for administrators of the platform.
import { del, get, patch, post, session } from "../api.js";
import { actIn } from "../session.js";
import { Ago, Button, confirm, count, Dialog, Empty, Field, Form, html, Loaded, navigate, Page, Pill, Table, toast, useData, useForm, useState } from "../ui.js";

export default function Tenants() {
  const [editing, setEditing] = useState(null);
  const tenants = useData((signal) => get("/tenants", { limit: 500 }, { signal }), []);
  const look = async (tenant) => {
    await actIn(tenant.name);
    navigate("/devices");
  };
  const columns = [
    { key: "name", title: "Tenant", grow: true, render: (one) => html`<span class="two-lines"><strong>${one.title || one.name}</strong><span class="mono">${one.name}</span></span>` },
    { key: "state", title: "", render: (one) => html`<span class="tags">${one.disabled_at && html`<${Pill} kind="bad">disabled<//>`}${one.name === session.get().tenant && html`<${Pill} kind="accent">you are here<//>`}</span>` },
    { key: "devices", title: "Devices", align: "end", render: (one) => count(one.devices) },
    { key: "users", title: "People", align: "end", wide: true, render: (one) => count(one.users) },
    { key: "created", title: "Made", align: "end", wide: true, render: (one) => html`<span class="soft nowrap"><${Ago} time=${one.created_at} /></span>` },
    { key: "look", title: "", class: "actions-cell", render: (one) => html`<${Button} kind="small" onClick=${() => look(one)}>Look inside<//>` },
  ];
  return html`
    <${Page} title="Tenants" note="Each owns its devices, people and data; none sees another's." actions=${html`<${Button} kind="primary" icon="plus" onClick=${() => setEditing({})}>New tenant<//>`}>
      <${Loaded} from=${tenants}>${({ items }) => items.length === 0
        ? html`<div class="card"><${Empty} title="No tenants yet" icon="tenants" action=${html`<${Button} kind="primary" icon="plus" onClick=${() => setEditing({})}>New tenant<//>`}>Make the first one, then invite people and add devices.<//></div>`
        : html`<${Table} label="Tenants" rows=${items} rowKey=${(one) => one.name} columns=${columns} onOpen=${setEditing} />`}<//>
      ${editing && html`<${TenantDialog} key=${editing.name} tenant=${editing} onClose=${() => setEditing(null)} onSaved=${tenants.reload} />`}
    <//>`;
}

function TenantDialog({ tenant, onClose, onSaved }) {
  const isNew = !tenant.name;
  const form = useForm({ name: tenant.name ?? "", title: tenant.title ?? "" });
  const done = (text) => {
    toast(text);
    onSaved();
    onClose();
  };
  const save = async () => {
    const title = form.values.title.trim();
    if (isNew) await post("/tenants", { name: form.values.name.trim(), title });
    else await patch(`/tenants/${tenant.name}`, { title }, tenant.version);
    done(isNew ? "Made" : "Saved");
  };
  const switch_ = async (disabled) => {
    if (disabled && !(await confirm({ title: `Disable ${tenant.name}?`, text: "Its devices are thrown out and refused, its people signed out. Nothing is erased.", action: "Disable", danger: true }))) return;
    await patch(`/tenants/${tenant.name}`, { disabled }, tenant.version);
    done(disabled ? "Disabled" : "Enabled");
  };
  const remove = async () => {
    if (!(await confirm({ title: `Delete ${tenant.name}?`, text: "Only a tenant without devices and people can be deleted.", action: "Delete", danger: true }))) return;
    await del(`/tenants/${tenant.name}`, tenant.version);
    if (session.get().tenant === tenant.name) await actIn(null);
    done("Deleted");
  };
  return html`
    <${Dialog} title=${isNew ? "New tenant" : tenant.title || tenant.name} onClose=${onClose} firm>
      <${Form} submit=${isNew ? "Make tenant" : "Save"} onSubmit=${save} onCancel=${onClose}>
        ${isNew && html`<${Field} label="Name" required autofocus pattern="[a-z0-9][a-z0-9\\-]{0,62}" title="Lower-case letters, digits and dashes" placeholder="acme" autocapitalize="none" hint="A part of every topic; it cannot change." ...${form.bind("name")} />`}
        <${Field} label="Title" maxlength="200" placeholder="Acme Logistics" ...${form.bind("title")} />
      <//>
      ${!isNew && html`<hr /><div class="actions">
        ${tenant.disabled_at ? html`<${Button} onClick=${() => switch_(false)}>Enable<//>` : html`<${Button} onClick=${() => switch_(true)}>Disable<//>`}
        <${Button} kind="danger" icon="trash" onClick=${remove}>Delete<//></div>`}
    <//>`;
}
