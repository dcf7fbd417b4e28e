// Adding and editing a device, and showing a secret that is shown once.
import { del, get, patch, post } from "./api.js";
import { can, readOverview } from "./session.js";
import { Button, Code, confirm, Dialog, Field, Form, html, Icon, navigate, toast, useEffect, useForm, useState } from "./ui.js";

const TEXTS = ["name", "type", "tier", "serial", "gateway", "owner", "location", "firmware", "hardware"];
const blank = { id: "", tags: "", latitude: "", longitude: "", secret: true, ...Object.fromEntries(TEXTS.map((name) => [name, ""])) };

const toForm = (device) => device
  ? { ...blank, ...Object.fromEntries(TEXTS.map((name) => [name, device[name] ?? ""])), id: device.id, tags: device.tags.join(", "), latitude: device.latitude ?? "", longitude: device.longitude ?? "" }
  : blank;

function toBody(values) {
  const place = (text) => {
    if (String(text).trim() === "") return null;
    const number = Number(String(text).replace(",", "."));
    if (Number.isNaN(number)) throw new Error(`“${text}” is not a coordinate; write degrees such as 52.52.`);
    return number;
  };
  const body = Object.fromEntries(TEXTS.map((name) => [name, values[name].trim()]));
  return {
    ...body,
    serial: body.serial || null,
    gateway: body.gateway || null,
    tags: values.tags.split(/[\s,;]+/).filter(Boolean),
    latitude: place(values.latitude),
    longitude: place(values.longitude),
  };
}

/** A dialog to add a device, or to edit `device`; `onSaved(device)` once it is stored. */
export function DeviceDialog({ device, onClose, onSaved }) {
  const form = useForm(toForm(device));
  const [known, setKnown] = useState({ tags: [], types: [] });
  const [issued, setIssued] = useState(null);
  useEffect(() => {
    Promise.all([get("/tags"), get("/types")]).then(([tags, types]) => setKnown({ tags, types }), () => undefined);
  }, []);
  const save = async () => {
    const body = toBody(form.values);
    if (device) {
      const before = toBody(toForm(device));
      const changes = Object.fromEntries(Object.entries(body).filter(([name, value]) => JSON.stringify(value) !== JSON.stringify(before[name])));
      const saved = Object.keys(changes).length ? await patch(`/devices/${device.id}`, changes, device.version) : device;
      toast("Saved");
      onSaved?.(saved);
      onClose();
      return;
    }
    const saved = await post("/devices", { id: form.values.id.trim(), ...body });
    if (form.values.secret && can("credentials:write") && !saved.gateway) {
      setIssued({ device: saved, credential: await post(`/devices/${saved.id}/credentials`) });
      return;
    }
    toast(`${saved.id} is registered`);
    onClose();
    onSaved?.(saved);
  };
  const remove = async () => {
    const sure = await confirm({
      title: `Remove ${device.id}?`, action: "Remove", danger: true,
      text: "It loses its identity, desired state and commands, and is thrown out. What it has measured stays. To only keep it out, disable it.",
    });
    if (!sure) return;
    await del(`/devices/${device.id}`, device.version);
    toast(`${device.id} is removed`);
    onClose();
    readOverview().catch(() => undefined);
    navigate("/devices");
  };
  if (issued) {
    const done = () => {
      onClose();
      onSaved?.(issued.device);
    };
    return html`<${SecretDialog} title=${`${issued.device.id} is registered`} credential=${issued.credential} onClose=${done} />`;
  }
  return html`
    <${Dialog} title=${device ? `Edit ${device.id}` : "Add a device"} onClose=${onClose} firm>
      <${Form} submit=${device ? "Save" : "Add device"} onSubmit=${save} onCancel=${onClose}>
        <div class="form-row">
          ${!device && html`<${Field} label="Id" required autofocus pattern="[a-z0-9][a-z0-9\\-]{0,62}" autocapitalize="none" spellcheck="false" placeholder="van-7"
            title="Lower-case letters, digits and dashes" hint="Its name in topics; it cannot change." ...${form.bind("id")} />`}
          <${Field} label="Name" maxlength="200" placeholder="Blue van, Berlin" hint=${device ? undefined : "For people; optional."} ...${form.bind("name")} />
        </div>
        <div class="form-row">
          <${Field} label="Type" list="known-types" placeholder="van" autocapitalize="none" ...${form.bind("type")} />
          <${Field} label="Tier" list="known-tiers" placeholder="esp32" autocapitalize="none" ...${form.bind("tier")} />
        </div>
        <${Field} label="Tags" placeholder="berlin, cold-chain" autocapitalize="none" hint="Separated by commas or spaces. Configurations can apply to a tag." ...${form.bind("tags")} />
        <div class="form-row">
          <${Field} label="Serial number" maxlength="128" ...${form.bind("serial")} />
          <${Field} label="Gateway" placeholder="pi-3" autocapitalize="none" hint="The device that publishes for this one." ...${form.bind("gateway")} />
        </div>
        <details class="details" open=${Boolean(device?.location || device?.latitude || device?.owner)}>
          <summary>Place, owner, versions</summary>
          <div class="form">
            <${Field} label="Place, in words" maxlength="200" ...${form.bind("location")} />
            <div class="form-row">
              <${Field} label="Latitude" inputmode="decimal" placeholder="52.5200" hint="Of a device that stands still." ...${form.bind("latitude")} />
              <${Field} label="Longitude" inputmode="decimal" placeholder="13.4050" ...${form.bind("longitude")} />
            </div>
            <div class="form-row">
              <${Field} label="Owner" maxlength="200" ...${form.bind("owner")} />
              <${Field} label="Hardware" maxlength="200" ...${form.bind("hardware")} />
              <${Field} label="Firmware" maxlength="200" ...${form.bind("firmware")} />
            </div>
          </div>
        </details>
        ${!device && can("credentials:write") && html`<${Field} as="check" label="Give it a secret now" hint="Shown once, for a device that you set up by hand. Without one, let it enrol with a claim." ...${form.bind("secret")} />`}
        ${device && html`<div><${Button} kind="danger" icon="trash" onClick=${remove}>Remove device<//></div>`}
        <datalist id="known-types">${known.types.map((one) => html`<option value=${one.name} />`)}</datalist>
        <datalist id="known-tiers">${["esp32", "pi", "phone", "obd"].map((name) => html`<option value=${name} />`)}</datalist>
      <//>
    <//>`;
}

/** Host and port of an address such as mqtt://broker:1884. */
export function hostAndPort(url) {
  const [, scheme, host, port] = /^(\w+):\/\/(?:[^@/]*@)?(\[[^\]]+\]|[^:/]+)(?::(\d+))?/.exec(url ?? "") ?? [];
  return { host: host ?? "HOST", port: port ?? (scheme === "mqtts" ? "8883" : "1883") };
}

/** A new secret, shown once, with the command that uses it. `credential` is what POST …/credentials or …/rotate answered. */
export function SecretDialog({ title, credential, onClose }) {
  const url = credential.url ?? credential.mqtt?.url;
  const { host, port } = hostAndPort(url);
  const topic = credential.topics?.telemetry;
  return html`
    <${Dialog} title=${title} onClose=${onClose} firm footer=${html`<${Button} kind="primary" onClick=${onClose}>I have kept it<//>`}>
      <p class="once"><${Icon} name="key" />The secret is shown this once. It cannot be read again; a new one can be issued.</p>
      <dl class="facts"><dt>User name</dt><dd class="mono">${credential.username}</dd><dt>Generation</dt><dd>${credential.generation}</dd>${url && html`<dt>Broker</dt><dd class="mono">${url}</dd>`}</dl>
      <div class="field"><span class="field-label">Secret</span><${Code} wrap>${credential.secret}<//></div>
      ${topic && html`<div class="field"><span class="field-label">Try it</span><${Code}>${`mosquitto_pub -h ${host} -p ${port} -u ${credential.username} -P '${credential.secret}' -q 1 \\\n  -t ${topic} -m '{"temp_c":21.5}'`}<//></div>`}
    <//>`;
}
