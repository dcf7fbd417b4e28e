// One device: live values and position, trips, charts, logs, desired and reported state, commands, credentials, audit.
import { get, live, post } from "../api.js";
import { DeviceDialog } from "../device-form.js";
import { can } from "../session.js";
import { Ago, Button, confirm, html, Loaded, navigate, Page, Presence, Tabs, Tags, toast, useData, useEffect, useRef, useState } from "../ui.js";
import { Audit } from "./device/audit.js";
import { Charts } from "./device/charts.js";
import { Commands } from "./device/commands.js";
import { Credentials } from "./device/credentials.js";
import { Live } from "./device/live.js";
import { Records } from "./device/records.js";
import { Shadow } from "./device/shadow.js";
import { Trips } from "./device/trips.js";

const TABS = [
  ["live", "Live", "telemetry:read", Live],
  ["trips", "Trips", "trips:read", Trips],
  ["charts", "Charts", "telemetry:read", Charts],
  ["logs", "Logs and events", "telemetry:read", Records],
  ["shadow", "Desired and reported", "config:read", Shadow],
  ["commands", "Commands", "commands:read", Commands],
  ["credentials", "Credentials", "devices:read", Credentials],
  ["audit", "Audit", "audit:read", Audit],
];

/** Counts of live events by kind, so that what shows commands or shadows reads them again; and the newest values. */
function useLiveDevice(id) {
  const [state, setState] = useState({ up: false, presence: null, shadow: 0, command: 0, latest: null });
  useEffect(() => {
    const count = (kind) => () => setState((now) => ({ ...now, [kind]: now[kind] + 1 }));
    return live(id, {
      up: (up) => setState((now) => ({ ...now, up })),
      presence: (presence) => setState((now) => ({ ...now, presence })),
      latest: (latest) => setState((now) => ({ ...now, latest })),
      shadow: count("shadow"),
      command: count("command"),
    });
  }, [id]);
  return state;
}

export default function Device({ id, tab = "live" }) {
  const device = useData((signal) => get(`/devices/${id}`, undefined, { signal }), [id]);
  const now = useLiveDevice(id);
  const tabs = TABS.filter(([, , scope]) => can(scope));
  const [, , , Shown] = tabs.find(([name]) => name === tab) ?? tabs[0];
  const first = useRef(true);
  useEffect(() => {
    if (first.current) first.current = false;
    else device.reload(); // boots, firmware and status may have changed with the presence
  }, [now.presence?.state, now.presence?.since]);
  return html`<${Loaded} from=${device}>${(found) => html`
    <${Page} title=${found.name || id} note=${html`<${Heading} device=${found} presence=${now.presence} />`} actions=${html`<${Actions} device=${found} reload=${device.reload} />`}>
      <${Tabs} label="Parts of the device" tabs=${tabs.map(([name, title]) => [name, title])} active=${(tabs.find(([name]) => name === tab) ?? tabs[0])[0]}
        onSelect=${(next) => navigate(next === "live" ? `/devices/${id}` : `/devices/${id}/${next}`, { replace: true })} />
      <${Shown} device=${found} now=${now} reload=${device.reload} />
    <//>`}<//>`;
}

function Heading({ device, presence }) {
  const shown = presence ?? device.presence ?? {};
  return html`
    <span class="device-line">
      <${Presence} state=${shown.state} status=${device.status} text />
      ${device.name && html`<code>${device.id}</code>`}
      <span>${shown.state === "online" ? "since" : "last seen"} <${Ago} time=${shown.state === "online" ? shown.since : (shown.seen_at ?? device.presence?.seen_at)} /></span>
      ${shown.state === "offline" && shown.reason && html`<span class="soft">${shown.reason}</span>`}
      <${Tags} tags=${device.tags} />
    </span>`;
}

function Actions({ device, reload }) {
  const [editing, setEditing] = useState(false);
  if (!can("devices:write")) return null;
  const disabled = device.status === "disabled";
  const change = async () => {
    if (!disabled) {
      const sure = await confirm({
        title: `Disable ${device.id}?`, action: "Disable", danger: true,
        text: "It is thrown out at once and refused until it is enabled again. Nothing is erased.",
      });
      if (!sure) return;
    }
    await post(`/devices/${device.id}/${disabled ? "enable" : "disable"}`);
    toast(disabled ? `${device.id} may connect again` : `${device.id} is disabled`);
    await reload();
  };
  return html`
    ${can("commands:write") && html`<${Button} icon="send" onClick=${() => navigate(`/devices/${device.id}/commands`)}>Command<//>`}
    <${Button} icon="edit" onClick=${() => setEditing(true)}>Edit<//>
    <${Button} kind=${disabled ? "primary" : ""} onClick=${change}>${disabled ? "Enable" : "Disable"}<//>
    ${editing && html`<${DeviceDialog} device=${device} onClose=${() => setEditing(false)} onSaved=${reload} />`}`;
}
