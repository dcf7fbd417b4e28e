// Trips: a list to choose from, and the chosen one with its track, stops, gaps and speed. For one device or for all.
import { del, get, post } from "./api.js";
import { DataChart } from "./data-chart.js";
import { WorldMap } from "./map.js";
import { can, readOverview } from "./session.js";
import {
  Button, Card, dateTime, Dialog, duration, Empty, Field, Form, html, Loaded, More, Pill, Table, toast, useData, useEffect, useForm, useMemo,
  useQuery, useRef, useState, value as writeValue,
} from "./ui.js";

const REFRESH_MS = 5000;
const PAGE = 100;
const STATE = { driving: ["good", "driving"], paused: ["warn", "paused"], final: ["", "final"] };

/** Points of an encoded polyline (precision 5) as {lat: [], lon: []}. */
export function decode(text) {
  const track = { lat: [], lon: [] };
  let at = 0;
  let lat = 0;
  let lon = 0;
  const next = () => {
    let result = 0;
    let shift = 0;
    let byte;
    do {
      byte = text.charCodeAt(at++) - 63;
      result |= (byte & 31) << shift;
      shift += 5;
    } while (byte >= 32);
    return result & 1 ? ~(result >> 1) : result >> 1;
  };
  while (at < text.length) {
    lat += next();
    lon += next();
    track.lat.push(lat / 1e5);
    track.lon.push(lon / 1e5);
  }
  return track;
}

/** Reads again a few times: an edit is done within a moment, not at once. */
const soon = (read) => [400, 1000, 2000, 3500].forEach((ms) => setTimeout(read, ms));

export const isOpen = (trip) => trip.state !== "final";
export const km = (value) => (value === null || value === undefined ? "–" : `${value < 10 ? value.toFixed(2) : value.toFixed(1)} km`);
const kmh = (value) => (value === null || value === undefined ? "–" : `${Math.round(value)} km/h`);
const clock = (time) => dateTime(time).slice(11, 16);
const words = (text) => (text ?? "").replaceAll("_", " ");

/** "14:03 – 14:31", with the second day where it ends on another one. */
export const fromTo = (trip) => {
  const [start, end] = [dateTime(trip.start_at), dateTime(trip.end_at)];
  return `${clock(trip.start_at)} – ${start.slice(0, 10) === end.slice(0, 10) ? "" : `${end.slice(5, 10)} `}${isOpen(trip) && trip.state === "driving" ? "now" : clock(trip.end_at)}`;
};

export const TripState = ({ trip }) => {
  const [kind, name] = STATE[trip.state] ?? ["", trip.state];
  return html`<${Pill} kind=${kind}>${name}<//>${trip.micro && !isOpen(trip) && html` <${Pill} title="Too short to count; kept all the same">micro<//>`}`;
};

/** What is unsure about a trip, in a word or two. */
function Doubts({ trip }) {
  return html`
    ${trip.gaps > 0 && html`<${Pill} kind="warn" title="Silences within the trip">${trip.gaps} ${trip.gaps === 1 ? "gap" : "gaps"}<//> `}
    ${typeof trip.confidence === "number" && html`<span class=${trip.confidence < 0.6 ? "soft" : "faint"} title="How sure it is that this is one trip">${Math.round(trip.confidence * 100)} %</span>`}`;
}

/** The list and the chosen trip. `device` undefined: of all devices. `range` [from, to] in ms; `empty` is shown where there is none. */
export function Trips({ device, range, tools, empty }) {
  const [query, setQuery] = useQuery();
  const micro = query.micro === "1";
  const [older, setOlder] = useState(null);
  const [marked, setMarked] = useState([]);
  const ask = { device, from: new Date(range[0]).toISOString(), to: new Date(range[1]).toISOString(), micro: micro ? undefined : false, state: query.state ? query.state.split(",") : undefined, limit: PAGE };
  const key = JSON.stringify(ask);
  const first = useData((signal) => get("/trips", ask, { signal }), [key], { every: REFRESH_MS });
  useEffect(() => {
    setOlder(null);
    setMarked([]);
  }, [device, range[0], micro, query.state]);
  const detail = useRef();
  const choose = (trip) => setQuery({ trip: trip.id });
  // on a phone the trip is below the list
  const reveal = () => matchMedia("(max-width: 1080px)").matches && detail.current?.scrollIntoView({ block: "start" });
  const mark = (trip, on) => setMarked((now) => (on ? [...now, trip] : now.filter((one) => one.id !== trip.id)));
  const merge = async () => {
    await post("/trips/merge", { ids: marked.map((one) => one.id) });
    toast("Merged; the list follows in a moment");
    setMarked([]);
    soon(first.reload);
  };
  const several = new Set(marked.map((one) => one.device)).size > 1;
  const columns = [
    ...(can("trips:write") ? [{ key: "mark", title: "", width: "1%", render: (trip) => html`
      <input type="checkbox" aria-label=${`Mark ${trip.device} ${fromTo(trip)}`} checked=${marked.some((one) => one.id === trip.id)} onChange=${(event) => mark(trip, event.target.checked)} />` }] : []),
    { key: "when", title: "When", render: (trip) => html`<span class="two-lines nowrap"><strong>${fromTo(trip)}</strong><span>${device ? dateTime(trip.start_at).slice(0, 10) : html`<${TripState} trip=${trip} />`}</span></span>` },
    ...(device ? [] : [{ key: "device", title: "Device", render: (trip) => html`<a href=${`/devices/${trip.device}/trips?trip=${trip.id}`}>${trip.device}</a>` }]),
    { key: "km", title: "Distance", align: "end", render: (trip) => html`<span class="nowrap value">${km(trip.distance_km)}</span>` },
    { key: "duration", title: "Duration", align: "end", wide: true, keep: true, render: (trip) => html`<span class="nowrap">${duration(trip.duration_s)}</span>` },
    { key: "parts", title: "Moving / idle / stop", wide: true, render: (trip) => html`<${Parts} trip=${trip} />` },
    { key: "max", title: "Max", align: "end", wide: true, render: (trip) => html`<span class="nowrap">${kmh(trip.max_speed_kmh)}</span>` },
    ...(device ? [{ key: "state", title: "State", render: (trip) => html`<span class="nowrap"><${TripState} trip=${trip} /></span>` }] : []),
    { key: "doubts", title: "", wide: true, render: (trip) => html`<span class="nowrap"><${Doubts} trip=${trip} /></span>` },
  ];
  const shown = query.trip;
  const narrow = shown ? columns.filter((column) => !column.wide || column.keep) : columns;
  return html`
    <div class="toolbar">
      ${tools}
      <${Field} as="check" label="Also very short ones" value=${micro} onValue=${(on) => setQuery({ micro: on ? "1" : undefined })} />
      ${marked.length > 0 && html`<span class="actions">
        <${Button} kind="primary" disabled=${marked.length < 2 || several} onClick=${merge}>Merge ${marked.length}<//>
        <${Button} onClick=${() => setMarked([])}>Unmark<//>
        ${several && html`<span class="hint">Only trips of one device.</span>`}</span>`}
    </div>
    <div class=${shown ? "columns trips" : ""}>
      <div class="stack">
        <${Loaded} from=${first}>${(found) => {
          const rows = [...found.items, ...(older?.items ?? []).filter((one) => !found.items.some((other) => other.id === one.id))];
          const next = older ? older.next : found.next;
          const more = async () => {
            const page = await get("/trips", { ...ask, cursor: next });
            setOlder((now) => ({ items: [...(now?.items ?? []), ...page.items], next: page.next }));
          };
          if (!rows.length) return html`<div class="card">${empty ?? html`<${Empty} title="No trips here" icon="trips">A trip appears as soon as a device with positions or speed drives.<//>`}</div>`;
          return html`<${Sums} rows=${rows} all=${!next} />
            <${Table} label="Trips" columns=${narrow} rows=${rows} onOpen=${choose} selected=${(trip) => trip.id === shown} /><${More} next=${next} onMore=${more} />`;
        }}<//>
        ${device && html`<${Edits} device=${device} onUndone=${() => soon(first.reload)} again=${first.data} />`}
      </div>
      ${shown && html`<div class="stack trip-detail" ref=${detail}><${One} key=${shown} id=${shown} link=${!device} onFound=${reveal} onEdited=${() => soon(first.reload)} onClose=${() => setQuery({ trip: undefined })} /></div>`}
    </div>`;
}

function Sums({ rows, all }) {
  const sum = (name) => rows.reduce((total, one) => total + (one[name] ?? 0), 0);
  return html`<p class="soft trip-sums"><strong>${rows.length}${all ? "" : "+"}</strong> ${rows.length === 1 ? "trip" : "trips"} · <strong>${km(sum("distance_km"))}</strong> · <strong>${duration(sum("moving_s"))}</strong> moving</p>`;
}

/** How the time of a trip divides, as one bar. */
function Parts({ trip }) {
  const parts = [["moving", trip.moving_s], ["idle", trip.idle_s], ["stop", trip.stop_s]].filter(([, seconds]) => seconds > 0);
  const title = parts.map(([name, seconds]) => `${name} ${duration(seconds)}`).join(", ");
  return html`<span class="trip-parts" role="img" aria-label=${title} title=${title}>${parts.map(([name, seconds]) => html`<i key=${name} class=${name} style=${{ flexGrow: seconds }}></i>`)}</span>`;
}

/** One trip: map, speed, figures, stops, gaps. */
function One({ id, link, onFound, onEdited, onClose }) {
  const [every, setEvery] = useState(REFRESH_MS);
  const trip = useData((signal) => get(`/trips/${id}`, undefined, { signal }), [id], { every });
  const map = useRef();
  const [splitting, setSplitting] = useState(false);
  const found = trip.data;
  const open = !found || isOpen(found);
  useEffect(() => setEvery(open ? REFRESH_MS : 30000), [open]);
  useEffect(() => { if (found) onFound(); }, [Boolean(found)]);
  const track = useMemo(() => found && trackOf(found), [found?.rev, found?.end_at, found?.track]);
  const definition = useMemo(() => found && {
    series: [{ device: found.device, metric: "speed_kmh" }], aggregation: "max",
    range: { from: found.start_at, to: new Date(new Date(found.end_at).getTime() + 1000).toISOString() },
  }, [found?.device, found?.start_at, found?.end_at]);
  const gone = trip.error?.status === 404;
  if (gone) return html`<div class="card"><${Empty} title="This trip has changed" icon="trips" action=${html`<${Button} onClick=${onClose}>Close<//>`}>Late data or an edit made other trips of it. Choose one of the list.<//></div>`;
  return html`<${Loaded} from=${trip}>${(one) => html`
    <${Card} title=${html`${link && html`<a href=${`/devices/${one.device}/trips?trip=${one.id}`}>${one.device}</a> `}${dateTime(one.start_at).slice(0, 10)} ${fromTo(one)}`} actions=${html`
        <${TripState} trip=${one} />
        ${can("trips:write") && html`<${Button} kind="small" onClick=${() => setSplitting(true)}>Split …<//>`}
        <${Button} kind="quiet" icon="close" label="Close" onClick=${onClose} />`}>
      ${track?.lat.length > 0
        ? html`<${WorldMap} track=${track} fit=${`${id} ${open ? Math.floor(track.lat.length / 20) : ""}`} height=${300} label="Track of the trip" control=${(parts) => { map.current = parts; }} />`
        : html`<p class="note">It has no positions.</p>`}
      <${Figures} trip=${one} />
    <//>
    <${Card} title="Speed"><${DataChart} definition=${definition} names=${false} height=${180} live=${false} /><//>
    <${Moments} trip=${one} onShow=${(at) => map.current?.map.setView(at, 16)} />
    ${link && html`<${Edits} device=${one.device} again=${one} onUndone=${onEdited} />`}
    ${splitting && html`<${SplitDialog} trip=${one} onClose=${() => setSplitting(false)} onDone=${() => { setSplitting(false); soon(trip.reload); onEdited(); }} />`}`}<//>`;
}

const trackOf = (trip) => ({
  ...decode(trip.track),
  stops: trip.stop_list.filter((one) => typeof one.lat === "number").map((one) => [one.lat, one.lon, `stop ${clock(one.start_ms)}, ${duration((one.end_ms - one.start_ms) / 1000)}`]),
});

function Figures({ trip }) {
  const { more } = trip;
  const change = (name, unit) => typeof more[`${name}_start_${unit}`] === "number" && typeof more[`${name}_end_${unit}`] === "number"
    && `${writeValue(more[`${name}_start_${unit}`])} → ${writeValue(more[`${name}_end_${unit}`])} %`;
  const sources = [["GPS", more.distance_gps_km], ["speed", more.distance_speed_km], ["odometer", more.distance_odometer_km]].filter(([, v]) => typeof v === "number");
  const filtered = Object.entries(more.filtered ?? {}).filter(([, n]) => n > 0).map(([name, n]) => `${n} ${words(name)}`);
  const facts = [
    ["Distance", html`<strong>${km(trip.distance_km)}</strong>${typeof trip.distance_uncertainty_km === "number" && html` <span class="soft">± ${km(trip.distance_uncertainty_km)}</span>`}`],
    ["Measured by", sources.map(([name, v]) => `${name} ${km(v)}`).join(" · ")],
    ["Duration", html`${duration(trip.duration_s)} <span class="soft">${[["moving", trip.moving_s], ["idle", trip.idle_s], ["in stops", trip.stop_s]].filter(([, seconds]) => seconds >= 1).map(([name, seconds]) => `· ${name} ${duration(seconds)} `)}</span>`],
    ["Speed", `${kmh(trip.avg_speed_kmh)} on average, ${kmh(trip.max_speed_kmh)} at most`],
    ["Battery", change("soc", "pct")], ["Fuel", change("fuel", "pct")], ["Engine", typeof more.max_rpm === "number" && `${Math.round(more.max_rpm)} rpm at most`],
    ["Started because", words(trip.start_reason)], ["Ended because", isOpen(trip) ? "" : words(trip.end_reason)],
    ["Recognised by", html`${words(trip.evidence)}${typeof trip.confidence === "number" && html` <span class="soft">· ${Math.round(trip.confidence * 100)} % sure</span>`}`],
    ["Left out", filtered.join(", ")], ["Not believed", (more.distrusted ?? []).map(words).join(", ")], ["Revision", trip.rev],
  ].filter(([, what]) => what !== null && what !== undefined && what !== "" && what !== false);
  return html`<dl class="facts trip-facts">${facts.map(([name, what]) => html`<dt key=${name}>${name}</dt><dd>${what}</dd>`)}</dl>`;
}

/** Stops and gaps in the order of time. */
function Moments({ trip, onShow }) {
  const rows = momentsOf(trip);
  if (!rows.length) return null;
  const columns = [
    { key: "at", title: "From", render: (one) => html`<span class="nowrap">${dateTime(one.start_ms).slice(11)}</span>` },
    { key: "kind", title: "What", render: (one) => html`<${Pill} kind=${one.kind === "gap" ? "warn" : ""}>${one.kind}<//>` },
    { key: "length", title: "Length", align: "end", render: (one) => html`<span class="nowrap">${duration((one.end_ms - one.start_ms) / 1000)}</span>` },
    { key: "text", title: "", grow: true, render: (one) => html`<span class="soft">${textOf(one)}</span>` },
  ];
  return html`<${Card} title="Stops and gaps"><${Table} label="Stops and gaps" columns=${columns} rows=${rows} rowKey=${(one) => `${one.kind} ${one.start_ms}`}
    onOpen=${(one) => typeof one.lat === "number" && onShow([one.lat, one.lon])} /><//>`;
}

const momentsOf = (trip) => [...trip.stop_list.map((one) => ({ ...one, kind: "stop" })), ...trip.gap_list.map((one) => ({ ...one, kind: "gap" }))].sort((a, b) => a.start_ms - b.start_ms);

function textOf(one) {
  if (one.kind === "stop") {
    const engine = { true: "engine running", false: "engine off" }[one.engine];
    return [engine, one.silent && "silent"].filter(Boolean).join(" · ");
  }
  const moved = { true: `moved on, ${km(one.distance_km)} in a straight line`, false: "did not move" }[one.moved] ?? "no positions around it";
  return `${moved} · ${Math.round(one.confidence * 100)} % sure that the trip went on`;
}

const inputTime = (ms) => {
  const text = dateTime(ms);
  return `${text.slice(0, 10)}T${text.slice(11)}`;
};

function SplitDialog({ trip, onClose, onDone }) {
  const [start, end] = [new Date(trip.start_at).getTime(), new Date(trip.end_at).getTime()];
  const places = momentsOf(trip).map((one) => [String(Math.round((one.start_ms + one.end_ms) / 2)), `${one.kind} at ${clock(one.start_ms)}, ${duration((one.end_ms - one.start_ms) / 1000)}`]);
  const form = useForm({ place: places[0]?.[0] ?? "", at: inputTime((start + end) / 2) });
  const send = async () => {
    const at = form.values.place ? Number(form.values.place) : new Date(form.values.at).getTime();
    await post(`/trips/${trip.id}/split`, { at: new Date(at).toISOString() });
    toast("Split; the list follows in a moment");
    onDone();
  };
  return html`
    <${Dialog} title="Split this trip" onClose=${onClose} firm>
      <p class="note">The part after that moment becomes a trip of its own. It can be taken back.</p>
      <${Form} submit="Split" onSubmit=${send} onCancel=${onClose}>
        <${Field} as="select" label="Where" options=${[...places, ["", "at another time"]]} ...${form.bind("place")} />
        ${!form.values.place && html`<${Field} type="datetime-local" step="1" label="Time" required min=${inputTime(start)} max=${inputTime(end)} ...${form.bind("at")} />`}
      <//>
    <//>`;
}

/** Merges and splits in force, with a way back. */
function Edits({ device, again, onUndone }) {
  const edits = useData((signal) => get("/trip-edits", { device }, { signal }), [device, again]);
  const standing = (edits.data?.items ?? []).filter((one) => !one.undone_at);
  if (!standing.length) return null;
  const undo = async (edit) => {
    await del(`/trip-edits/${edit.id}`);
    toast("Taken back; the list follows in a moment");
    onUndone();
    await Promise.all([edits.reload(), readOverview()]);
  };
  return html`
    <${Card} title="Changed by operators">
      <div class="rows">${standing.map((one) => html`
        <div key=${one.id}><span>${one.kind === "merge" ? `${one.ids.length} trips merged` : `split at ${dateTime(one.at)}`} <span class="soft">by ${one.actor.replace(/^(user|token):/, "")}, ${dateTime(one.made_at)}</span></span>
          ${can("trips:write") && html`<${Button} kind="small" onClick=${() => undo(one)}>Undo<//>`}</div>`)}</div>
    <//>`;
}

/** The open trip of a device in a line, or nothing; `onTrack` is told its track, undefined where there is none. */
export function OpenTrip({ device, onTrack }) {
  const open = useData(async (signal) => {
    const { items } = await get("/trips", { device, state: ["driving", "paused"], limit: 1 }, { signal });
    return items.length ? get(`/trips/${items[0].id}`, undefined, { signal }) : null;
  }, [device], { every: REFRESH_MS });
  const trip = open.data;
  useEffect(() => onTrack(trip ? trackOf(trip) : undefined), [trip?.track]);
  useEffect(() => () => onTrack(undefined), []);
  if (!trip) return null;
  return html`<p class="open-trip"><${TripState} trip=${trip} /><a href=${`/devices/${device}/trips?trip=${trip.id}`}>since ${clock(trip.start_at)}</a><span>${km(trip.distance_km)} · ${duration(trip.duration_s)}</span></p>`;
}
