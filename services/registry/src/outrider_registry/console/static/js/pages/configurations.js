// Configurations: parts of the desired state for many devices, tried before they are stored; and the keys that have a type.
import { all, del, get, post, put } from "../api.js";
import { can } from "../session.js";
import { rangeOf, StateEditor, toRows, toState, toText } from "../state-editor.js";
import {
  Ago, Button, confirm, Dialog, Empty, Field, Form, html, Loaded, Page, Pill, plural, Table, Tabs, toast, useData, useForm, useQuery, useState,
} from "../ui.js";

const KINDS = [["all", "All devices"], ["type", "Devices of a type"], ["tier", "Devices of a tier"], ["tag", "Devices with a tag"]];

export default function Configurations() {
  const [query, setQuery] = useQuery();
  const tab = query.tab ?? "configurations";
  const [editing, setEditing] = useState(null);
  const configurations = useData(() => all("/configurations"), []);
  const keys = useData(() => all("/configuration-keys"), []);
  const mayWrite = can("config:write");
  const reload = () => {
    configurations.reload();
    keys.reload();
  };
  return html`
    <${Page} title="Configurations" note="What many devices should do. They merge by priority into each device's desired state; a device's own wishes win."
      actions=${mayWrite && html`<${Button} kind="primary" icon="plus" onClick=${() => setEditing(tab === "keys" ? { key: {} } : { configuration: {} })}>${tab === "keys" ? "New key" : "New configuration"}<//>`}>
      <${Tabs} label="Configurations and keys" active=${tab} onSelect=${(next) => setQuery({ tab: next === "configurations" ? undefined : next })}
        tabs=${[["configurations", "Configurations", configurations.data?.length], ["keys", "Typed keys", keys.data?.length]]} />
      ${tab === "keys"
        ? html`<${Loaded} from=${keys}>${(found) => html`<${Keys} keys=${found} onOpen=${mayWrite && ((key) => setEditing({ key }))} onNew=${() => setEditing({ key: {} })} />`}<//>`
        : html`<${Loaded} from=${configurations}>${(found) => html`<${List} configurations=${found} onOpen=${(configuration) => setEditing({ configuration })} onNew=${() => setEditing({ configuration: {} })} />`}<//>`}
      ${editing?.configuration && html`<${ConfigurationDialog} key=${editing.configuration.name} configuration=${editing.configuration} keys=${keys.data ?? []} onClose=${() => setEditing(null)} onSaved=${reload} />`}
      ${editing?.key && html`<${KeyDialog} typed=${editing.key} onClose=${() => setEditing(null)} onSaved=${reload} />`}
    <//>`;
}

const applies = (one) => (one.applies_to === "all" ? "all devices" : `${one.applies_to} ${one.selector}`);

function List({ configurations, onOpen, onNew }) {
  if (!configurations.length) {
    return html`<div class="card"><${Empty} title="No configurations yet" icon="config" action=${can("config:write") && html`<${Button} kind="primary" icon="plus" onClick=${onNew}>New configuration<//>`}>
      One for all devices is a good start: how often they send, how much they log.<//></div>`;
  }
  const columns = [
    { key: "name", title: "Name", render: (one) => html`<strong>${one.name}</strong>` },
    { key: "applies", title: "Applies to", render: (one) => html`<${Pill} kind=${one.applies_to === "all" ? "" : "accent"}>${applies(one)}<//>` },
    { key: "priority", title: "Priority", align: "end", render: (one) => one.priority },
    { key: "state", title: "Says", grow: true, wide: true, render: (one) => html`<${Says} state=${one.state} />` },
    { key: "updated", title: "Changed", align: "end", wide: true, render: (one) => html`<span class="soft nowrap"><${Ago} time=${one.updated_at} /></span>` },
  ];
  return html`
    <${Table} label="Configurations, the strongest first" rows=${configurations} rowKey=${(one) => one.name} columns=${columns} onOpen=${onOpen} />
    <p class="hint">The strongest first: higher priorities win; of equal ones a tag wins over a tier, a tier over a type, a type over all.</p>`;
}

/** A state in one line. */
const Says = ({ state }) => html`<span class="says">${Object.entries(state).map(([key, value]) => html`<span class="mono"><span class="soft">${key}</span> ${toText(value)}</span>`)}</span>`;

function Keys({ keys, onOpen, onNew }) {
  if (!keys.length) {
    return html`<div class="card"><${Empty} title="No typed keys" icon="config" action=${can("config:write") && html`<${Button} kind="primary" icon="plus" onClick=${onNew}>New key<//>`}>
      Any key may hold anything. Give one a type, and values that do not fit are refused.<//></div>`;
  }
  const columns = [
    { key: "key", title: "Key", render: (one) => html`<strong class="mono">${one.key}</strong>` },
    { key: "type", title: "Type", render: (one) => html`<${Pill}>${one.type}<//>` },
    { key: "range", title: "Allowed", render: (one) => html`<span class="soft">${one.choices ? one.choices.map(toText).join(", ") : rangeOf(one)}</span>` },
    { key: "description", title: "What it does", grow: true, wide: true },
  ];
  return html`<${Table} label="Typed keys" rows=${keys} rowKey=${(one) => one.key} columns=${columns} onOpen=${onOpen || undefined} />`;
}

function ConfigurationDialog({ configuration, keys, onClose, onSaved }) {
  const isNew = !configuration.name;
  const form = useForm({ name: configuration.name ?? "", applies_to: configuration.applies_to ?? "all", selector: configuration.selector ?? "", priority: String(configuration.priority ?? 0) });
  const [list, setList] = useState(isNew ? toRows({ interval_s: 30 }) : toRows(configuration.state));
  const [preview, setPreview] = useState(null);
  const { values } = form;
  const mayWrite = can("config:write");
  const names = useData(async () => ({ tag: (await get("/tags")).map((one) => one.name), type: (await get("/types")).map((one) => one.name), tier: ["esp32", "pi", "phone", "obd"] }), []);
  const body = () => ({
    name: values.name.trim(), applies_to: values.applies_to, selector: values.applies_to === "all" ? "" : values.selector.trim(),
    priority: Number(values.priority), state: toState(list, keys),
  });
  const change = (next) => {
    setPreview(null);
    setList(next);
  };
  const tryIt = async () => setPreview(await post("/configurations/preview", { configuration: { ...body(), name: values.name.trim() || "preview" } }));
  const save = async () => {
    const { name, ...rest } = body();
    if (isNew) await post("/configurations", { name, ...rest });
    else await put(`/configurations/${name}`, rest, configuration.version);
    toast("Stored. Devices get it now.");
    onSaved();
    onClose();
  };
  const remove = async () => {
    if (!(await confirm({ title: `Delete ${configuration.name}?`, text: "Its devices fall back to what the other configurations say.", action: "Delete", danger: true }))) return;
    await del(`/configurations/${configuration.name}`, configuration.version);
    toast("Deleted");
    onSaved();
    onClose();
  };
  return html`
    <${Dialog} title=${isNew ? "New configuration" : configuration.name} onClose=${onClose} firm wide>
      <${Form} submit=${isNew ? "Store" : "Store changes"} onSubmit=${save} onCancel=${onClose} disabled=${!mayWrite}>
        <div class="form-row">
          ${isNew && html`<${Field} label="Name" required autofocus pattern="[a-z0-9][a-z0-9\\-]{0,62}" title="Lower-case letters, digits and dashes" placeholder="slow-when-parked" autocapitalize="none" ...${form.bind("name")} />`}
          <${Field} label="Applies to" as="select" options=${KINDS} ...${form.bind("applies_to")} />
          ${values.applies_to !== "all" && html`<${Field} label=${{ type: "Type", tier: "Tier", tag: "Tag" }[values.applies_to]} required list="selectors" autocapitalize="none" ...${form.bind("selector")} />`}
          <${Field} label="Priority" type="number" step="1" required hint="Higher ones win." ...${form.bind("priority")} />
        </div>
        <datalist id="selectors">${(names.data?.[values.applies_to] ?? []).map((name) => html`<option value=${name} />`)}</datalist>
        <div class="field"><span class="field-label">Desired state</span><${StateEditor} list=${list} keys=${keys} onChange=${change} /></div>
        <div class="actions">
          <${Button} icon="play" onClick=${tryIt}>Preview<//>
          ${!isNew && mayWrite && html`<${Button} kind="danger" icon="trash" onClick=${remove}>Delete<//>`}
        </div>
        ${preview && html`<${Preview} preview=${preview} />`}
      <//>
    <//>`;
}

/** Which devices would change, and how the first of them would. */
function Preview({ preview }) {
  return html`
    <div class="preview" role="status">
      <p><strong>${plural(preview.devices, "device")}</strong> would change${preview.applies_to !== undefined && html`; it applies to ${plural(preview.applies_to, "device")}`}. Nothing is stored yet.</p>
      ${preview.examples.map(({ device, before, after }) => html`
        <div class="preview-device" key=${device}><a href=${`/devices/${device}`} target="_blank">${device}</a>
          <ul>${[...new Set([...Object.keys(before), ...Object.keys(after)])].filter((key) => JSON.stringify(before[key]) !== JSON.stringify(after[key])).map((key) => html`
            <li class="mono"><span class="soft">${key}</span> ${before[key] !== undefined && html`<del>${toText(before[key])}</del>`} ${after[key] !== undefined && html`<ins>${toText(after[key])}</ins>`}</li>`)}</ul></div>`)}
    </div>`;
}

function KeyDialog({ typed, onClose, onSaved }) {
  const isNew = !typed.key;
  const form = useForm({
    key: typed.key ?? "", type: typed.type ?? "integer", minimum: typed.minimum ?? "", maximum: typed.maximum ?? "", unit: typed.unit ?? "", description: typed.description ?? "",
    choices: (typed.choices ?? []).map(toText).join("\n"),
  });
  const { values } = form;
  const bounded = ["integer", "number", "string"].includes(values.type);
  const bound = (text) => (!bounded || String(text).trim() === "" ? null : Number(text));
  const save = async () => {
    const choices = values.choices.split("\n").map((line) => line.trim()).filter(Boolean);
    const read = (line) => {
      if (values.type === "string") return toText(line) === line ? line : JSON.parse(toText(line));
      try {
        return JSON.parse(line);
      } catch {
        throw new Error(`The choice “${line}” is no ${values.type}.`);
      }
    };
    const body = { type: values.type, minimum: bound(values.minimum), maximum: bound(values.maximum), choices: choices.length ? choices.map(read) : null, unit: values.unit.trim(), description: values.description.trim() };
    await put(`/configuration-keys/${values.key.trim()}`, body, isNew ? 0 : typed.version);
    toast("Stored");
    onSaved();
    onClose();
  };
  const remove = async () => {
    await del(`/configuration-keys/${typed.key}`, typed.version);
    toast(`${typed.key} may hold anything again`);
    onSaved();
    onClose();
  };
  return html`
    <${Dialog} title=${isNew ? "New typed key" : typed.key} onClose=${onClose} firm>
      <${Form} onSubmit=${save} onCancel=${onClose}>
        <div class="form-row">
          ${isNew && html`<${Field} label="Key" required autofocus pattern="[a-z][a-z0-9_]{0,62}" title="Lower-case letters, digits and underscores" placeholder="interval_s" autocapitalize="none" ...${form.bind("key")} />`}
          <${Field} label="Type" as="select" options=${["integer", "number", "boolean", "string", "json"]} ...${form.bind("type")} />
          <${Field} label="Unit" maxlength="30" placeholder="s" ...${form.bind("unit")} />
        </div>
        ${bounded && html`<div class="form-row">
          <${Field} label=${values.type === "string" ? "Least characters" : "Minimum"} type="number" step="any" ...${form.bind("minimum")} />
          <${Field} label=${values.type === "string" ? "Most characters" : "Maximum"} type="number" step="any" ...${form.bind("maximum")} /></div>`}
        ${values.type !== "boolean" && html`<${Field} label="Only these values" as="textarea" rows="3" hint="One a line; empty allows all." ...${form.bind("choices")} />`}
        <${Field} label="What it does" maxlength="200" ...${form.bind("description")} />
        ${!isNew && html`<div><${Button} kind="danger" icon="trash" onClick=${remove}>Take its type away<//></div>`}
      <//>
    <//>`;
}
