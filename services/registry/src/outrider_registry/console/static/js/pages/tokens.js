// API tokens: for programs; each has some of its owner's scopes and an end.
import { del, get, post, session } from "../api.js";
import { can } from "../session.js";
import {
  Ago, Button, Code, confirm, Dialog, Empty, Field, Form, html, Icon, Loaded, Page, Pill, Table, toast, useData, useForm, useQuery, useState,
} from "../ui.js";

export default function Tokens() {
  const [query, setQuery] = useQuery();
  const [making, setMaking] = useState(false);
  const [made, setMade] = useState(null);
  const everybody = query.all === "true";
  const tokens = useData((signal) => get("/tokens", { all: everybody || undefined, limit: 500 }, { signal }), [everybody]);
  const end = async (token) => {
    if (!(await confirm({ title: `End the token ${token.name}?`, text: "What uses it is refused from now on.", action: "End", danger: true }))) return;
    await del(`/tokens/${token.id}`, null);
    toast("Ended");
    await tokens.reload();
  };
  const over = (token) => token.revoked_at || new Date(token.expires_at) < new Date();
  const columns = [
    { key: "name", title: "Name", render: (one) => html`<span class="two-lines"><strong>${one.name}</strong>${everybody && html`<span>${one.owner}</span>`}</span>` },
    { key: "scopes", title: "May", grow: true, wide: true, render: (one) => html`<span class="tags">${one.scopes.map((scope) => html`<span class="tag mono">${scope}</span>`)}</span>` },
    { key: "used", title: "Last used", align: "end", wide: true, render: (one) => html`<span class="soft nowrap"><${Ago} time=${one.last_used_at} /></span>` },
    { key: "ends", title: "Ends", align: "end", render: (one) => one.revoked_at ? html`<${Pill}>ended<//>` : over(one) ? html`<${Pill}>expired<//>` : html`<span class="soft nowrap"><${Ago} time=${one.expires_at} /></span>` },
    { key: "actions", title: "", class: "actions-cell", render: (one) => !over(one) && html`<${Button} kind="quiet small" onClick=${() => end(one)}>End<//>` },
  ];
  return html`
    <${Page} title="API tokens" note="For programs and the outrider command. Shown once; ends by itself, and with its owner."
      actions=${html`${can("users:read") && html`<${Field} as="check" label="Of everybody" value=${everybody} onValue=${(on) => setQuery({ all: on ? "true" : undefined })} />`}
        <${Button} kind="primary" icon="plus" onClick=${() => setMaking(true)}>New token<//>`}>
      <${Loaded} from=${tokens}>${({ items }) => items.length === 0
        ? html`<div class="card"><${Empty} title="No tokens" icon="tokens" action=${html`<${Button} kind="primary" icon="plus" onClick=${() => setMaking(true)}>New token<//>`}>A token has no more than your own rights.<//></div>`
        : html`<${Table} label="API tokens" rows=${items} columns=${columns} />`}<//>
      ${making && html`<${TokenDialog} onClose=${() => setMaking(false)} onMade=${(token) => { setMaking(false); setMade(token); tokens.reload(); }} />`}
      ${made && html`<${Dialog} title=${made.name} onClose=${() => setMade(null)} firm footer=${html`<${Button} kind="primary" onClick=${() => setMade(null)}>I have kept it<//>`}>
        <p class="once"><${Icon} name="key" />The token is shown this once.</p>
        <${Code} wrap>${made.token}<//>
        <div class="field"><span class="field-label">Try it</span><${Code}>${`curl -H 'Authorization: Bearer ${made.token}' \\\n  ${session.get().url}/api/v1/session`}<//></div>
      <//>`}
    <//>`;
}

function TokenDialog({ onClose, onMade }) {
  const scopes = [...session.get().scopes].sort();
  const form = useForm({ name: "", days: "90", scopes: new Set(scopes.filter((scope) => ["devices:read", "telemetry:read"].includes(scope))) });
  const { values } = form;
  const toggle = (scope) => {
    const next = new Set(values.scopes);
    if (!next.delete(scope)) next.add(scope);
    form.set({ scopes: next });
  };
  const save = async () => {
    if (!values.scopes.size) throw new Error("Choose at least one thing it may do.");
    onMade(await post("/tokens", { name: values.name.trim(), days: Number(values.days), scopes: [...values.scopes] }));
  };
  return html`
    <${Dialog} title="New token" onClose=${onClose} firm>
      <${Form} submit="Make token" onSubmit=${save} onCancel=${onClose}>
        <div class="form-row">
          <${Field} label="What it is for" required autofocus maxlength="200" placeholder="backup" ...${form.bind("name")} />
          <${Field} label="Good for" as="select" options=${[["7", "7 days"], ["30", "30 days"], ["90", "90 days"], ["365", "1 year"]]} ...${form.bind("days")} />
        </div>
        <fieldset class="scopes"><legend>It may</legend>
          ${scopes.map((scope) => html`<label key=${scope}><input type="checkbox" checked=${values.scopes.has(scope)} onChange=${() => toggle(scope)} /><span class="mono">${scope}</span></label>`)}
        </fieldset>
      <//>
    <//>`;
}
