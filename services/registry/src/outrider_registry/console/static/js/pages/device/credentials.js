// How the device proves who it is: secrets and certificates by generation. Secrets are shown once, when they are made.
import { get, post, session } from "../../api.js";
import { can } from "../../session.js";
import { Ago, Button, Card, Code, confirm, dateTime, Dialog, Empty, Field, Form, html, Loaded, Pill, Table, toast, useData, useForm, useState } from "../../ui.js";

const STATE = { active: "good", delivered: "info", replaced: "", revoked: "bad", expired: "warn" };

export function Credentials({ device, now }) {
  const found = useData((signal) => get(`/devices/${device.id}/credentials`, undefined, { signal }), [device.id, now.presence?.state], { every: 10000 });
  const [secret, setSecret] = useState(null);
  const [signing, setSigning] = useState(false);
  const list = (data) => (Array.isArray(data) ? data : data.items);
  const columns = [
    { key: "generation", title: "Generation", align: "end" },
    { key: "kind", title: "Kind" },
    { key: "state", title: "State", render: (row) => html`<${Pill} kind=${STATE[row.state]}>${row.state}<//>` },
    { key: "issued_at", title: "Issued", render: (row) => html`<${Ago} time=${row.issued_at} />` },
    { key: "rotates_at", title: "Renewed", wide: true, render: (row) => row.state === "active" && html`<${Ago} time=${row.rotates_at} />` },
    { key: "grace_until", title: "Works until", wide: true, render: (row) => row.grace_until && dateTime(row.grace_until) },
    { key: "last_used_at", title: "Last used", wide: true, render: (row) => row.last_used_at && html`<${Ago} time=${row.last_used_at} />` },
    { key: "key_id", title: "Master key", wide: true, render: (row) => html`<code>${row.key_id}</code>` },
  ];
  const issue = async () => { setSecret(await post(`/devices/${device.id}/credentials`)); await found.reload(); };
  const rotate = async () => {
    await post(`/devices/${device.id}/credentials/rotate`, { now: false });
    toast("The new secret goes out when the device is online; the old one works meanwhile");
    await found.reload();
  };
  const rotateNow = async () => {
    const sure = await confirm({ title: "A new secret at once?", action: "Make it", danger: true, text: "The old secret ends now. Put the new one on the device yourself: it is shown once." });
    if (!sure) return;
    setSecret(await post(`/devices/${device.id}/credentials/rotate`, { now: true }));
    await found.reload();
  };
  const revoke = async () => {
    const sure = await confirm({ title: "Revoke all credentials?", action: "Revoke", danger: true, text: "The device is thrown out and needs a new claim or a new secret." });
    if (!sure) return;
    await post(`/devices/${device.id}/credentials/revoke`, {});
    toast("Revoked");
    await found.reload();
  };
  if (device.gateway) return html`<${Card} title="Credentials"><${Empty} title="It needs none" icon="key"><a href=${`/devices/${device.gateway}`}>${device.gateway}</a> publishes for this device, with its own.<//><//>`;
  return html`<${Loaded} from=${found}>${(data) => {
    const rows = list(data);
    const live = rows.some((row) => row.state === "active" && row.kind === "secret");
    const actions = can("credentials:write") && html`
      ${live ? html`<${Button} icon="refresh" onClick=${rotate}>Rotate<//><${Button} onClick=${rotateNow}>New secret now<//>` : html`<${Button} kind="primary" icon="key" onClick=${issue}>Issue a secret<//>`}
      <${Button} onClick=${() => setSigning(true)}>Sign a certificate<//>
      ${rows.some((row) => row.state === "active") && html`<${Button} kind="danger" onClick=${revoke}>Revoke<//>`}`;
    return html`
      <${Card} title="Credentials" actions=${actions}>
        ${rows.length ? html`<${Table} label="Credentials" columns=${columns} rows=${rows} rowKey=${(row) => row.generation} />`
          : html`<${Empty} title="No credential" icon="key">The device cannot connect yet. Issue a secret, or let it enrol with a claim.<//>`}
        <p class="hint">A secret is renewed by itself: it is sent, the device confirms, and only then the broker switches.</p>
      <//>
      ${secret && html`<${Secret} credential=${secret} onClose=${() => setSecret(null)} />`}
      ${signing && html`<${Sign} device=${device} onClose=${() => { setSigning(false); found.reload(); }} />`}`;
  }}<//>`;
}

function Secret({ credential, onClose }) {
  const url = credential.url ?? credential.mqtt?.url;
  const { hostname, port } = url ? new URL(url.replace(/^mqtts?:/, "http:")) : {};
  const topic = credential.topics?.telemetry ?? `fleet/v1/${session.get().tenant}/${credential.username}/telemetry`;
  return html`
    <${Dialog} title=${`Secret of ${credential.username}`} onClose=${onClose} firm wide footer=${html`<${Button} kind="primary" onClick=${onClose}>I have it<//>`}>
      <p>It is shown once and stored nowhere.</p>
      <${Code}>${credential.secret}<//>
      ${hostname && html`<p>Try it:</p><${Code} wrap>${`mosquitto_pub -h ${hostname} -p ${port || 1883} -u ${credential.username} -P ${credential.secret} -q 1 -t ${topic} -m '{"temp_c":21.5}'`}<//>`}
    <//>`;
}

function Sign({ device, onClose }) {
  const form = useForm({ csr: "" });
  const [made, setMade] = useState(null);
  const send = async () => setMade(await post(`/devices/${device.id}/certificate`, { csr: form.values.csr }));
  return html`
    <${Dialog} title="Sign a certificate request" onClose=${onClose} firm wide>
      ${made
        ? html`<p>Serial ${made.serial}, good until ${dateTime(made.expires_at)}.</p><${Code}>${made.certificate + (made.chain ?? "")}<//>`
        : html`
          <p class="note">The device's key never leaves it. The request's common name must be <code>${device.id}</code>.</p>
          <${Form} submit="Sign" onSubmit=${send} onCancel=${onClose}><${Field} as="textarea" label="Request (PEM)" rows="10" required ...${form.bind("csr")} /><//>`}
    <//>`;
}
