// The map without tiles: land, borders, names of countries and a grid of degrees, drawn from outlines that are part of the console.
import { colour } from "./colours.js";

const NAMES = { min: 2.5, max: 8 };
const GRID_FROM_ZOOM = 3;
const STEPS = [30, 10, 5, 2, 1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001];
const GRID_PX = 130;

/** A line in the plane of zoom 0 (256 × 256), with its bounds. */
function flat(L, coordinates) {
  const points = new Float32Array(coordinates.length * 2);
  const box = { x0: Infinity, y0: Infinity, x1: -Infinity, y1: -Infinity };
  coordinates.forEach(([lon, lat], i) => {
    const { x, y } = L.CRS.EPSG3857.latLngToPoint(L.latLng(Math.max(-85.06, Math.min(85.06, lat)), lon), 0);
    points[2 * i] = x;
    points[2 * i + 1] = y;
    box.x0 = Math.min(box.x0, x);
    box.x1 = Math.max(box.x1, x);
    box.y0 = Math.min(box.y0, y);
    box.y1 = Math.max(box.y1, y);
  });
  return { points, ...box };
}

/** Longitudes of a ring that crosses the date line go on instead of jumping; one around a pole is closed along it. */
function unwrapped(ring) {
  let shift = 0;
  const out = ring.map(([lon, lat], i) => {
    if (i && lon - ring[i - 1][0] > 180) shift -= 360;
    else if (i && lon - ring[i - 1][0] < -180) shift += 360;
    return [lon + shift, lat];
  });
  const [first, last] = [out[0], out[out.length - 1]];
  if (Math.abs(last[0] - first[0]) > 180) {
    const pole = first[1] < 0 ? -90 : 90;
    out.push([last[0], pole], [first[0], pole], first);
  }
  return out;
}

/** Rings beyond one side of the world are drawn at the other side as well. */
function bothSides(rings) {
  return rings.flatMap((ring) => {
    const out = [ring];
    if (ring.some(([lon]) => lon > 180)) out.push(ring.map(([lon, lat]) => [lon - 360, lat]));
    if (ring.some(([lon]) => lon < -180)) out.push(ring.map(([lon, lat]) => [lon + 360, lat]));
    return out;
  });
}

const ringsOf = (geometry) => (geometry.type === "Polygon" ? geometry.coordinates : geometry.coordinates.flat());

/** Where a country's name goes: the middle of its largest part, with the width that part has. */
function labelOf(L, feature) {
  const largest = bothSides(ringsOf(feature.geometry).map(unwrapped)).map((ring) => flat(L, ring))
    .reduce((a, b) => ((b.x1 - b.x0) * (b.y1 - b.y0) > (a.x1 - a.x0) * (a.y1 - a.y0) ? b : a));
  const { points } = largest;
  let area = 0;
  let x = 0;
  let y = 0;
  for (let i = 0; i + 3 < points.length; i += 2) {
    const cross = points[i] * points[i + 3] - points[i + 2] * points[i + 1];
    area += cross;
    x += (points[i] + points[i + 2]) * cross;
    y += (points[i + 1] + points[i + 3]) * cross;
  }
  return { name: feature.properties.name, x: x / (3 * area), y: y / (3 * area), width: largest.x1 - largest.x0 };
}

/** Outlines made ready to be drawn, from the topology of world-atlas. */
export function outlinesOf(L, topology) {
  const { feature, mesh } = window.topojson;
  const land = feature(topology, topology.objects.land);
  const shapes = land.features?.map((one) => one.geometry) ?? [land.geometry];
  const borders = mesh(topology, topology.objects.countries, (a, b) => a !== b);
  return {
    land: bothSides(shapes.flatMap(ringsOf).map(unwrapped)).map((ring) => flat(L, ring)),
    borders: borders.coordinates.map((line) => flat(L, line)),
    labels: feature(topology, topology.objects.countries).features.map((one) => labelOf(L, one)),
  };
}

/** A Leaflet layer with the outlines; `paint()` takes the theme's colours, `covered` hides all but the grid. */
export function groundLayer(L, outlines) {
  const Layer = L.Canvas.extend({
    initialize(options) {
      L.Canvas.prototype.initialize.call(this, options);
      this.paint();
    },

    paint() {
      this.colours = Object.fromEntries(["land", "coast", "border", "name", "grid"].map((name) => [name, colour(`--map-${name}`)]));
      this.family = getComputedStyle(document.body).fontFamily;
      if (this._map && this._bounds) this._update();
    },

    _onMouseMove() {},
    _onClick() {},
    _handleMouseOut() {},

    _updatePaths() {
      const { _ctx: context, _map: map, _bounds: bounds } = this;
      const zoom = map.getZoom();
      const origin = map.getPixelOrigin();
      const view = { scale: 2 ** zoom, dx: -origin.x, dy: -origin.y, bounds };
      context.clearRect(bounds.min.x, bounds.min.y, bounds.getSize().x, bounds.getSize().y);
      context.lineJoin = "round";
      this.trace(context, outlines.land, view);
      context.fillStyle = this.colours.land;
      context.fill();
      context.strokeStyle = this.colours.coast;
      context.lineWidth = 0.9;
      context.stroke();
      this.trace(context, outlines.borders, view);
      context.strokeStyle = this.colours.border;
      context.lineWidth = 0.8;
      context.stroke();
      if (zoom >= GRID_FROM_ZOOM) this.grid(context, view);
      if (zoom >= NAMES.min && zoom <= NAMES.max) this.names(context, view, zoom);
    },

    trace(context, lines, { scale, dx, dy, bounds: { min, max } }) {
      context.beginPath();
      for (const { points, x0, y0, x1, y1 } of lines) {
        if (x1 * scale + dx < min.x || x0 * scale + dx > max.x || y1 * scale + dy < min.y || y0 * scale + dy > max.y) continue;
        if ((x1 - x0) * scale < 0.6 && (y1 - y0) * scale < 0.6) continue;
        let px = points[0] * scale + dx;
        let py = points[1] * scale + dy;
        context.moveTo(px, py);
        for (let i = 2; i < points.length; i += 2) {
          const x = points[i] * scale + dx;
          const y = points[i + 1] * scale + dy;
          if (Math.abs(x - px) + Math.abs(y - py) < 0.8 && i + 2 < points.length) continue;
          context.lineTo(x, y);
          px = x;
          py = y;
        }
      }
    },

    names(context, { scale, dx, dy, bounds: { min, max } }, zoom) {
      context.font = `500 ${Math.min(13, 9 + zoom / 2)}px ${this.family}`;
      context.textAlign = "center";
      context.textBaseline = "middle";
      context.fillStyle = this.colours.name;
      for (const { name, x, y, width } of outlines.labels) {
        const [px, py] = [x * scale + dx, y * scale + dy];
        if (px < min.x || px > max.x || py < min.y || py > max.y) continue;
        if (context.measureText(name).width < width * scale * 0.9) context.fillText(name, px, py);
      }
    },

    grid(context, { scale, bounds: { min, max } }) {
      const map = this._map;
      const step = STEPS.findLast((degrees) => (degrees / 360) * 256 * scale >= GRID_PX) ?? STEPS[0];
      const [northWest, southEast] = [map.layerPointToLatLng(min), map.layerPointToLatLng(max)];
      const shown = map.containerPointToLayerPoint([0, map.getSize().y]);
      const digits = step < 1 ? String(step).length - 2 : 0;
      context.strokeStyle = this.colours.grid;
      context.fillStyle = this.colours.name;
      context.lineWidth = 1;
      context.font = `10px ${this.family}`;
      context.textBaseline = "bottom";
      context.beginPath();
      for (let lon = Math.ceil(northWest.lng / step) * step; lon <= southEast.lng; lon += step) {
        const x = Math.round(map.latLngToLayerPoint([0, lon]).x) + 0.5;
        context.moveTo(x, min.y);
        context.lineTo(x, max.y);
        context.textAlign = "left";
        const text = ((((lon + 180) % 360) + 360) % 360) - 180;
        if (x > shown.x + 120) context.fillText(`${Math.abs(text).toFixed(digits)}° ${text < 0 ? "W" : "E"}`, x + 4, shown.y - 4);
      }
      for (let lat = Math.ceil(southEast.lat / step) * step; lat <= northWest.lat; lat += step) {
        const y = Math.round(map.latLngToLayerPoint([lat, 0]).y) + 0.5;
        context.moveTo(min.x, y);
        context.lineTo(max.x, y);
        context.textAlign = "left";
        context.fillText(`${Math.abs(lat).toFixed(digits)}° ${lat < 0 ? "S" : "N"}`, shown.x + 6, y - 3);
      }
      context.stroke();
    },
  });
  return new Layer({ pane: "ground", padding: 0.35 });
}
