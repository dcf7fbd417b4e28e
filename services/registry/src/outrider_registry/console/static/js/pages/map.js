// Where everything is, live. Click a device for what it is, again to open it.
import { get, live } from "../api.js";
import { WorldMap } from "../map.js";
import { overview } from "../session.js";
import { OpenTrip } from "../trips.js";
import {
  Ago, Button, count, Empty, html, Icon, navigate, Page, Presence, Problem, Spinner, Tags, useData, useEffect, useMemo, useQuery, useRef, useShared, useState,
} from "../ui.js";

const STATES = [["online", "Online"], ["offline", "Offline"], ["unknown", "Never seen"]];
const FOUND = 8;

export default function FleetMap() {
  const [query, setQuery] = useQuery();
  const control = useRef(null);
  const known = useRef(new Map()); // newest entry of every device: what is drawn is a part of it
  const [connected, setConnected] = useState(false);
  const [counts, setCounts] = useState({});
  const [text, setText] = useState("");
  const [track, setTrack] = useState(undefined); // of the chosen device's open trip
  const figures = useShared(overview);
  const loaded = useData(async (signal) => {
    const { devices } = await get("/map", undefined, { signal });
    known.current = new Map(devices.map((entry) => [entry[0], entry]));
    return devices;
  }, []);
  const hidden = useMemo(() => new Set((query.hide ?? "").split(",").filter(Boolean)), [query.hide]);
  const shown = useMemo(() => loaded.data && [...known.current.values()].filter((entry) => !hidden.has(entry[3])), [loaded.data, hidden]);
  const hiddenNow = useRef(hidden);
  hiddenNow.current = hidden;

  const recount = () => {
    const sums = {};
    for (const entry of known.current.values()) sums[entry[3]] = (sums[entry[3]] ?? 0) + 1;
    setCounts(sums);
  };
  useEffect(recount, [loaded.data]);
  useEffect(() => live(null, {
    up: setConnected,
    fleet: (events) => {
      const moved = [];
      for (const event of Array.isArray(events) ? events : events.devices ?? [events]) {
        const entry = merge(known.current.get(event.id), event);
        if (!entry) continue;
        known.current.set(entry[0], entry);
        if (!hiddenNow.current.has(entry[3])) moved.push(entry);
      }
      control.current?.moveAll(moved);
      recount();
    },
  }), []);

  const words = text.trim().toLowerCase().split(/\s+/).filter(Boolean);
  const found = words.length ? [...known.current.values()].filter(([id, , , , , , name]) => words.every((word) => `${id} ${name ?? ""}`.toLowerCase().includes(word))) : [];
  const choose = (id) => setQuery({ device: id });
  const go = (id) => {
    choose(id);
    control.current?.focus(id);
    setText("");
  };
  const toggle = (state) => {
    const next = new Set(hidden);
    if (!next.delete(state)) next.add(state);
    setQuery({ hide: [...next].join(",") });
  };
  return html`
    <${Page} title="Map" flush actions=${html`<span class=${connected ? "live on" : "live"}><i aria-hidden="true"></i>${connected ? "Live" : "Connecting …"}</span>`}>
      ${loaded.error && html`<${Problem} error=${loaded.error} retry=${loaded.reload} />`}
      <div class="map-frame">
        <${WorldMap} devices=${shown} track=${track} fitTrack=${false} onOpen=${choose} selected=${query.device} control=${(parts) => { control.current = parts; }} label="Map of all devices" />
        <div class="map-panel">
          <div class="search"><${Icon} name="search" size=${16} />
            <input data-search type="search" aria-label="Find on the map" placeholder="Find on the map" value=${text} autocomplete="off" onInput=${(event) => setText(event.target.value)}
              onKeyDown=${(event) => { if (event.key === "Enter" && found.length) go(found[0][0]); if (event.key === "Escape") setText(""); }} /></div>
          ${words.length > 0 && html`
            <ul class="map-found">${found.slice(0, FOUND).map(([id, , , presence, , , name]) => html`
              <li key=${id}><button type="button" onClick=${() => go(id)}><${Presence} state=${presence} /><span>${id}</span>${name && name !== id && html`<span class="faint">${name}</span>`}</button></li>`)}
              ${found.length > FOUND && html`<li class="faint">and ${count(found.length - FOUND)} more</li>`}
              ${found.length === 0 && html`<li class="faint">No device with a position fits.</li>`}
            </ul>`}
        </div>
        <div class="map-legend" role="group" aria-label="Shown on the map">
          ${STATES.map(([state, title]) => html`
            <button type="button" key=${state} aria-pressed=${hidden.has(state) ? "false" : "true"} onClick=${() => toggle(state)}>
              <${Presence} state=${state} title=${title} />${title}<strong>${count(counts[state] ?? 0)}</strong></button>`)}
          ${figures?.open_trips > 0 && html`<button type="button" onClick=${() => navigate("/trips?state=driving,paused")}>Open trips<strong>${count(figures.open_trips)}</strong></button>`}
          <button type="button" onClick=${() => control.current?.fit("devices")}>Show all</button>
        </div>
        ${loaded.data === undefined && !loaded.error && html`<div class="map-wait"><${Spinner} /></div>`}
        ${loaded.data?.length === 0 && html`<div class="map-wait"><div class="card"><${Empty} title="No positions yet" icon="map">Devices appear once they send latitude and longitude, or have a fixed place.<//></div></div>`}
        ${query.device && html`<${Chosen} key=${query.device} id=${query.device} entry=${known.current.get(query.device)} onTrack=${setTrack} onClose=${() => choose(undefined)} />`}
      </div>
    <//>`;
}

/** What an event changes of the entry [id, lat, lon, presence, heading, ts_ms, name]; null for a device without a position. */
function merge(before, event) {
  const lat = event.lat ?? before?.[1];
  const lon = event.lon ?? before?.[2];
  if (typeof lat !== "number" || typeof lon !== "number") return null;
  return [event.id, lat, lon, event.presence ?? before?.[3] ?? "unknown", event.heading ?? before?.[4] ?? null, event.ts_ms ?? event.ts ?? before?.[5], event.name ?? before?.[6] ?? ""];
}

/** The device that was clicked. */
function Chosen({ id, entry, onTrack, onClose }) {
  const device = useData((signal) => get(`/devices/${id}`, undefined, { signal }), [id], { every: 10000 });
  const one = device.data;
  return html`
    <aside class="map-chosen card" aria-label=${`Device ${id}`}>
      <header class="card-head"><h2>${one?.name || id}</h2><button type="button" class="button quiet square" aria-label="Close" onClick=${onClose}><${Icon} name="close" /></button></header>
      ${device.error && html`<p class="hint bad">${device.error.message}</p>`}
      ${one && html`
        <p><${Presence} text state=${one.presence?.state} status=${one.status} /> <span class="soft">· <${Ago} time=${one.presence?.seen_at} /></span></p>
        <p class="soft">${[id, one.type, one.tier, one.location].filter(Boolean).join(" · ")}</p>
        <${Tags} tags=${one.tags} />`}
      <${OpenTrip} device=${id} onTrack=${onTrack} />
      ${entry && html`<p class="mono faint">${entry[1].toFixed(5)}, ${entry[2].toFixed(5)}</p>`}
      <${Button} kind="primary" onClick=${() => navigate(`/devices/${id}`)}>Open device<//>
    </aside>`;
}
