// Maps: Leaflet over outlines of the world that are part of the console, so it needs no server of tiles. Where one is set
// (OUTRIDER_MAP_TILES), its tiles lie over them.
import { colour, onTheme } from "./colours.js";
import { asset, html, loadScript, loadStyle, useEffect, useRef, useState } from "./core.js";
import { deviceLayer } from "./map-devices.js";
import { groundLayer, outlinesOf } from "./map-ground.js";

let outlines;

/** Leaflet, and the outlines; fetched once. */
async function load() {
  await Promise.all([loadScript("../vendor/leaflet.js"), loadScript("../vendor/topojson.js"), loadStyle("../vendor/leaflet.css")]);
  outlines ??= fetch(asset("vendor/countries.json")).then(async (response) => outlinesOf(window.L, await response.json()));
  return [window.L, await outlines];
}

/**
 * A map.
 *
 * `devices`: [[id, lat, lon, presence, heading|null, ts_ms, name]…] as GET /map gives them; `onOpen(id)` for a click on one.
 * `track`: {lat: [], lon: []} draws a line with its start and end, and points at its `stops`: [[lat, lon, text]…].
 * `fit`: show all of it at first (and again when `fit` changes); `fitTrack` false: a new track leaves the view as it is.
 * `control(map)` is given {move(entry), moveAll(entries), focus(id), fit("devices")} for live positions without rendering again.
 */
export function WorldMap({ devices, track, onOpen, control, height, fit = true, fitTrack = true, label = "Map", selected }) {
  const box = useRef();
  const parts = useRef(null);
  const open = useRef(onOpen);
  open.current = onOpen;
  const [problem, setProblem] = useState(null);
  const [ready, setReady] = useState(false);

  useEffect(() => {
    let ended = false;
    let undo = () => undefined;
    load().then(([L, world]) => {
      if (ended) return;
      parts.current = build(L, world, box.current, (id) => open.current?.(id));
      undo = onTheme(parts.current.paint);
      control?.(parts.current);
      setReady(true);
    }, setProblem);
    return () => {
      ended = true;
      undo();
      parts.current?.map.remove();
      parts.current = null;
    };
  }, []);
  useEffect(() => {
    if (!ready) return;
    parts.current.setDevices(devices ?? []);
    if (!fit || !devices?.length || parts.current.fitted || (track && fitTrack)) return;
    parts.current.fit();
    if (selected) parts.current.focus(selected);
  }, [ready, devices]);
  useEffect(() => {
    if (!ready) return;
    parts.current.setTrack(track);
    if (fit && fitTrack && track?.lat?.length) parts.current.fit();
  }, [ready, track, fit]);
  useEffect(() => {
    if (ready) parts.current.select(selected);
  }, [ready, selected]);

  if (problem) return html`<p class="hint bad">${problem.message}</p>`;
  return html`<div class="map" ref=${box} role="application" aria-label=${label} style=${height ? { height: `${height}px` } : undefined}></div>`;
}

/** A text for Leaflet, which takes strings for markup. */
function written(text) {
  const element = document.createElement("span");
  element.textContent = text;
  return element;
}

function build(L, world, element, onOpen) {
  const map = L.map(element, {
    center: [25, 10], zoom: 2, minZoom: 1, maxZoom: 18, attributionControl: false, zoomSnap: 0.5,
    maxBounds: [[-85, -200], [85, 200]], maxBoundsViscosity: 0.7,
  });
  L.control.scale({ imperial: false }).addTo(map);
  const ground = map.createPane("ground");
  ground.style.zIndex = 150; // below tiles, which hide it where they are
  const outline = groundLayer(L, world).addTo(map);
  const tiles = document.querySelector("meta[name=map-tiles]");
  if (tiles?.content) {
    L.tileLayer(tiles.content, { maxZoom: 19, referrerPolicy: "origin" }).addTo(map);
    const { attribution } = tiles.dataset;
    if (attribution) L.control.attribution({ prefix: false }).addAttribution(attribution.replace(/[<>&]/g, "")).addTo(map);
  }
  const layer = deviceLayer(L, onOpen).addTo(map);
  const trackLayer = L.layerGroup().addTo(map);
  let track;

  const drawTrack = () => {
    trackLayer.clearLayers();
    if (!track?.lat?.length) return;
    const points = track.lat.map((lat, i) => [lat, track.lon[i]]);
    const line = L.polyline(points, { color: colour("--accent"), weight: 3.5, opacity: 0.9, interactive: false });
    L.polyline(points, { color: colour("--surface"), weight: 6.5, opacity: 0.7, interactive: false }).addTo(trackLayer);
    line.addTo(trackLayer);
    for (const [lat, lon, text] of track.stops ?? []) {
      L.circleMarker([lat, lon], { radius: 5, color: colour("--warn"), weight: 2, fillColor: colour("--surface"), fillOpacity: 1 }).bindTooltip(written(text)).addTo(trackLayer);
    }
    const end = (at, fill) => L.circleMarker(at, { radius: 5.5, color: colour("--surface"), weight: 2, fillColor: fill, fillOpacity: 1, interactive: false }).addTo(trackLayer);
    end(points[0], colour("--text-soft"));
    end(points[points.length - 1], colour("--accent"));
  };
  const paint = () => {
    outline.paint();
    layer.paint();
    drawTrack();
  };
  paint();

  const parts = {
    map,
    fitted: false,
    paint,
    setDevices: (devices) => layer.set(devices),
    setTrack(next) {
      track = next;
      drawTrack();
    },
    select: (id) => layer.select(id),
    move: (entry) => layer.move([entry]),
    moveAll: (entries) => layer.move(entries),
    focus(id) {
      const at = layer.position(id);
      if (at) map.setView(at, Math.max(map.getZoom(), 12));
      layer.select(id);
    },
    fit(what = "track") {
      const bounds = what === "track" && track?.lat?.length ? L.latLngBounds(track.lat.map((lat, i) => [lat, track.lon[i]])) : layer.bounds();
      if (!bounds?.isValid()) return;
      parts.fitted = true;
      map.fitBounds(bounds, { padding: [36, 36], maxZoom: 14, animate: false });
    },
  };
  const observer = new ResizeObserver(() => map.invalidateSize({ animate: false }));
  observer.observe(element);
  map.on("unload", () => observer.disconnect());
  return parts;
}
