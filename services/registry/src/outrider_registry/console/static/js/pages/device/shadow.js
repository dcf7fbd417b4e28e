// What the device should do and what it says it does, side by side; its own wishes can be edited here.
import { all, get, patch } from "../../api.js";
import { can } from "../../session.js";
import { Ago, Button, Card, Dialog, Empty, Field, Form, html, Icon, Loaded, Pill, Table, toast, useData, useEffect, useForm, useState } from "../../ui.js";

const text = (v) => (v === undefined ? "" : JSON.stringify(v));
const isSame = (a, b) => JSON.stringify(sorted(a)) === JSON.stringify(sorted(b));
const sorted = (v) => (v && typeof v === "object" && !Array.isArray(v) ? Object.fromEntries(Object.keys(v).sort().map((key) => [key, sorted(v[key])])) : v);

export function Shadow({ device, now }) {
  const shadow = useData((signal) => get(`/devices/${device.id}/shadow`, undefined, { signal }), [device.id]);
  const keys = useData(() => all("/configuration-keys"), []);
  const [edited, setEdited] = useState(null);
  useEffect(() => { if (now.shadow) shadow.reload(); }, [now.shadow]);
  return html`<${Loaded} from=${shadow}>${(found) => {
    const rows = Object.keys({ ...found.desired, ...found.reported }).sort().map((key) => ({ key }));
    const differs = (key) => key in found.desired && !isSame(found.desired[key], found.reported[key]);
    const open = rows.filter(({ key }) => differs(key)).length;
    const columns = [
      { key: "key", title: "Key", render: ({ key }) => html`<code>${key}</code>` },
      { key: "desired", title: "Desired", render: ({ key }) => html`<code class="json">${text(found.desired[key])}</code>` },
      { key: "from", title: "From", wide: true, render: ({ key }) => key in found.desired && html`<span class="soft">${found.sources?.[key] ?? ""}</span>` },
      { key: "reported", title: "Reported", render: ({ key }) => html`<code class="json">${text(found.reported[key])}</code>` },
      { key: "state", title: "", render: ({ key }) => differs(key) ? html`<${Pill} kind="warn">differs<//>` : key in found.desired ? html`<${Pill} kind="good">same<//>` : html`<${Pill}>reported only<//>` },
      { key: "edit", title: "", align: "end", render: ({ key }) => can("config:write") && html`<${Button} kind="quiet" icon="edit" label=${`Change ${key}`} onClick=${() => setEdited(key)} />` },
    ];
    return html`
      <${Card} title="Desired and reported" actions=${can("config:write") && html`<${Button} icon="plus" kind="primary" onClick=${() => setEdited("")}>Set a key<//>`}>
        <p class="note">
          ${open ? html`<${Pill} kind="warn">${open} open<//> the device has not reported this yet` : rows.length ? html`<${Pill} kind="good">in step<//> the device reports what is desired` : ""}
          · desired version ${found.desired_version}${found.desired_at && html`, <${Ago} time=${found.desired_at} />`}
          · reported version ${found.reported_version}${found.reported_at && html`, <${Ago} time=${found.reported_at} />`}
          ${found.published_version !== found.desired_version && html` · <${Pill} kind="info">on its way to the broker<//>`}
        </p>
        ${rows.length ? html`<${Table} label="Desired and reported state" columns=${columns} rows=${rows} rowKey=${(row) => row.key} />`
          : html`<${Empty} title="Nothing desired, nothing reported" icon="config">Set a key here, or make a configuration for many devices.<//>`}
      <//>
      ${edited !== null && html`<${Edit} device=${device} shadow=${found} name=${edited} keys=${keys.data ?? []} onClose=${() => setEdited(null)} onDone=${() => { setEdited(null); shadow.reload(); }} reload=${shadow.reload} />`}`;
  }}<//>`;
}

/** Reads JSON; what is none is a text. */
const parse = (typed) => {
  try {
    return JSON.parse(typed);
  } catch {
    return typed;
  }
};

function Edit({ device, shadow, name, keys, onClose, onDone, reload }) {
  const [version] = useState(shadow.desired_version);
  const form = useForm({ key: name, value: name in shadow.desired ? text(shadow.desired[name]) : "" });
  const [stale, setStale] = useState(false);
  const { key, value } = form.values;
  const typed = keys.find((one) => one.key === key);
  const own = shadow.overrides && key in shadow.overrides;
  const send = async (v) => {
    try {
      await patch(`/devices/${device.id}/shadow`, { overrides: { [key]: v } }, stale ? shadow.desired_version : version);
    } catch (error) {
      if (error.stale) {
        setStale(true);
        await reload();
      }
      throw error;
    }
    toast(v === null ? `${key}: its own wish is gone` : `${key} is desired`);
    onDone();
  };
  const range = typed && [typed.type, typed.minimum !== null && `from ${typed.minimum}`, typed.maximum !== null && `to ${typed.maximum}`, typed.unit, typed.description].filter(Boolean).join(" · ");
  const options = typed?.choices ?? (typed?.type === "boolean" ? [true, false] : null);
  return html`
    <${Dialog} title=${name ? `Change ${name}` : "Set a key"} onClose=${onClose} firm>
      <p class="note">A wish of this device alone; it wins over every configuration.</p>
      ${stale && html`<p class="note warn"><${Icon} name="info" /> Somebody changed it meanwhile: desired is now <code>${text(shadow.desired[key])}</code>. Save again to replace that.</p>`}
      <${Form} submit="Save" onSubmit=${() => send(parse(value))} onCancel=${onClose} disabled=${!key || value === ""}>
        ${name ? "" : html`<${Field} label="Key" required pattern="[a-z][a-z0-9_]*" list="known-keys" autofocus ...${form.bind("key")} />
          <datalist id="known-keys">${keys.map((one) => html`<option value=${one.key}></option>`)}</datalist>`}
        ${options
          ? html`<${Field} as="select" label="Value" hint=${range} options=${["", ...options.map(text)]} ...${form.bind("value")} />`
          : html`<${Field} label="Value" required hint=${range ?? "A number, true, false, a text, or JSON."} autofocus=${Boolean(name)} ...${form.bind("value")} />`}
        ${own && html`<div><${Button} kind="quiet" icon="trash" onClick=${() => send(null)}>Take this device's own wish away<//></div>`}
      <//>
    <//>`;
}
