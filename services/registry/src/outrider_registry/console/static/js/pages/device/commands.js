// Orders to the device, and what became of them.
import { get, post, session } from "../../api.js";
import { can, stop } from "../../session.js";
import { Ago, Button, Card, dateTime, Dialog, Empty, Field, Form, html, Loaded, Pill, Table, toast, useData, useEffect, useForm, useShared, useState } from "../../ui.js";

/** What a person fills in for each kind: [name, label, default, hint, as]. */
const KINDS = {
  reboot: { title: "Reboot", fields: [["delay_s", "Delay", "0", "Seconds until it restarts."]] },
  "get-logs": { title: "Get logs", fields: [["lines", "Lines", "100", "At most so many, the newest."]] },
  "set-interval": { title: "Set interval", fields: [["interval_s", "Interval", "30", "Seconds between measurements."]] },
  "run-diagnostics": { title: "Run diagnostics", fields: [] },
};
const STATE = { succeeded: "good", failed: "bad", rejected: "bad", expired: "warn", timed_out: "warn", canceled: "", queued: "info", sent: "info", accepted: "info", running: "info" };
const OPEN = new Set(["queued", "sent", "accepted", "running"]);
const mayCancel = new Set(["queued", "sent"]);

export const CommandState = ({ state }) => html`<${Pill} kind=${STATE[state] ?? ""}>${state.replace("_", " ")}<//>`;

export function Commands({ device, now }) {
  const commands = useData((signal) => get(`/devices/${device.id}/commands`, { limit: 100 }, { signal }), [device.id], { every: 15000 });
  const [shown, setShown] = useState(null);
  useEffect(() => { if (now.command) commands.reload(); }, [now.command]);
  const open = shown && (commands.data?.items ?? []).find((one) => one.id === shown.id);
  const columns = [
    { key: "name", title: "Command", render: (row) => html`<code>${row.name}</code>` },
    { key: "params", title: "Parameters", wide: true, render: (row) => Object.keys(row.params ?? {}).length > 0 && html`<code class="json">${JSON.stringify(row.params)}</code>` },
    { key: "state", title: "State", render: (row) => html`<${CommandState} state=${row.state} />` },
    { key: "result", title: "Result", grow: true, wide: true, render: (row) => row.result !== null && html`<code class="json clip">${JSON.stringify(row.result)}</code>` },
    { key: "by", title: "By", wide: true, render: (row) => row.created_by?.replace(/^(user|token):/, "") },
    { key: "created_at", title: "Sent", align: "end", render: (row) => html`<${Ago} time=${row.created_at} />` },
  ];
  return html`
    ${can("commands:write") && html`<${Send} device=${device} onSent=${commands.reload} />`}
    <${Card} title="Commands"><${Loaded} from=${commands}>${(found) => found.items.length
      ? html`<${Table} label="Commands" columns=${columns} rows=${found.items} onOpen=${setShown} />`
      : html`<${Empty} title="No command yet" icon="send">What is sent to this device is listed here, with its result.<//>`}<//><//>
    ${open && html`<${One} command=${open} onClose=${() => setShown(null)} reload=${commands.reload} />`}`;
}

function Send({ device, onSent }) {
  const standing = useShared(stop);
  const form = useForm({ kind: "reboot", name: "", params: "{}", expires_s: "3600", delay_s: "0", lines: "100", interval_s: "30" });
  const { kind } = form.values;
  const custom = kind === "custom";
  const send = async () => {
    const params = custom ? JSON.parse(form.values.params || "{}") : Object.fromEntries(KINDS[kind].fields.map(([name]) => [name, Number(form.values[name])]));
    const made = await post(`/devices/${device.id}/commands`, { name: custom ? form.values.name : kind, params, expires_s: Number(form.values.expires_s) });
    toast(made.state === "queued" && device.presence?.state !== "online" ? "It goes out when the device is online" : "Sent");
    await onSent();
  };
  const child = device.gateway ? ` It goes to its gateway, ${device.gateway}.` : "";
  return html`
    <${Card} title="Send a command">
      ${standing
        ? html`<p class="note warn">An emergency stop is in force: nothing can be sent until it ends.</p>`
        : html`
          <${Form} submit="Send" onSubmit=${send}>
            <div class="fields">
              <${Field} as="select" label="Command" options=${[...Object.entries(KINDS).map(([name, one]) => [name, one.title]), ["custom", "Another …"]]} ...${form.bind("kind")} />
              ${custom
                ? html`<${Field} label="Name" required pattern="[a-z0-9][a-z0-9-]*" maxlength="63" ...${form.bind("name")} />
                    <${Field} label="Parameters" hint="A JSON object." class="grow" ...${form.bind("params")} />`
                : KINDS[kind].fields.map(([name, label, , hint]) => html`<${Field} key=${name} label=${label} hint=${hint} type="number" min="0" step="any" required ...${form.bind(name)} />`)}
              <${Field} label="Expires after" hint="Seconds in which it must be started." type="number" min="1" required ...${form.bind("expires_s")} />
            </div>
          <//>
          <p class="hint">Carried out at most once; it ends in exactly one state.${child}</p>`}
    <//>`;
}

function One({ command, onClose, reload }) {
  const times = [["Created", command.created_at], ["Sent", command.sent_at], ["Accepted", command.accepted_at], ["Finished", command.finished_at], [OPEN.has(command.state) ? "Expires" : null, command.expires_at]];
  const cancel = async () => {
    await post(`/commands/${command.id}/cancel`);
    toast("Canceled");
    await reload();
    onClose();
  };
  return html`
    <${Dialog} title=${command.name} onClose=${onClose} wide
      footer=${can("commands:write") && mayCancel.has(command.state) && session.get() && html`<${Button} kind="danger" onClick=${cancel}>Cancel the command<//>`}>
      <p><${CommandState} state=${command.state} /> <span class="soft">by ${command.created_by}</span></p>
      <dl class="facts">
        <dt>Id</dt><dd><code>${command.id}</code></dd>
        ${times.filter(([name, time]) => name && time).map(([name, time]) => html`<dt>${name}</dt><dd>${dateTime(time)}</dd>`)}
        <dt>Parameters</dt><dd><pre class="json">${JSON.stringify(command.params, null, 2)}</pre></dd>
        ${command.result !== null && html`<dt>Result</dt><dd><pre class="json">${JSON.stringify(command.result, null, 2)}</pre></dd>`}
      </dl>
    <//>`;
}
