// All devices of a map on one canvas: 10,000 are drawn in a few milliseconds, crowds as circles with their number.
import { colour } from "./colours.js";

const CELL_PX = 52;
const CROWD = 6; // more than so many devices in a cell are drawn as one circle
const ORDER = { online: 2, offline: 1, unknown: 0 };

/** A Leaflet layer; `set(devices)`, `move(devices)`, `select(id)`, `paint()`, `bounds()`, `position(id)`. */
export function deviceLayer(L, onOpen) {
  // The canvas renderer of Leaflet places and scales its canvas; what is drawn, and what is under the pointer, is ours.
  const Layer = L.Canvas.extend({
    initialize(options) {
      L.Canvas.prototype.initialize.call(this, options);
      this.devices = new Map();
      this.shown = [];
      this.chosen = null;
      this.paint();
    },

    onAdd(map) {
      this.tip = L.DomUtil.create("div", "map-tip", map.getContainer());
      this.tip.hidden = true;
      L.Canvas.prototype.onAdd.call(this, map);
    },

    onRemove(map) {
      this.tip.remove();
      cancelAnimationFrame(this.frame);
      L.Canvas.prototype.onRemove.call(this, map);
    },

    set(devices) {
      this.devices = new Map();
      this.move(devices);
    },

    move(devices) {
      for (const [id, lat, lon, presence, heading, ts, name] of devices) {
        if (typeof lat !== "number" || typeof lon !== "number") continue;
        const before = this.devices.get(id);
        const { x, y } = L.CRS.EPSG3857.latLngToPoint(L.latLng(lat, lon), 0);
        this.devices.set(id, { id, lat, lon, x, y, presence, heading, ts, name: name || before?.name || id });
      }
      this.later();
    },

    select(id) {
      this.chosen = id ?? null;
      this.later();
    },

    position(id) {
      const found = this.devices.get(id);
      return found && [found.lat, found.lon];
    },

    bounds() {
      return L.latLngBounds([...this.devices.values()].map(({ lat, lon }) => [lat, lon]));
    },

    paint() {
      this.colours = {
        online: colour("--online"), offline: colour("--offline"), unknown: colour("--unknown"),
        edge: colour("--surface"), text: colour("--text"), crowd: colour("--surface"), accent: colour("--accent"),
      };
      this.font = `600 11.5px ${getComputedStyle(document.body).fontFamily}`;
      this.later();
    },

    later() {
      cancelAnimationFrame(this.frame);
      this.frame = requestAnimationFrame(() => this._map && this._bounds && !this._map._animatingZoom && this._update());
    },

    _updatePaths() {
      const { _ctx: context, _map: map, _bounds: bounds } = this;
      const size = bounds.getSize();
      context.clearRect(bounds.min.x, bounds.min.y, size.x, size.y);
      const scale = map.options.crs.scale(map.getZoom()) / map.options.crs.scale(0);
      const origin = map.getPixelOrigin();
      const world = 256 * scale;
      const cells = new Map();
      for (const device of this.devices.values()) {
        let x = device.x * scale - origin.x;
        const y = device.y * scale - origin.y;
        if (x < bounds.min.x) x += Math.ceil((bounds.min.x - x) / world) * world;
        else if (x > bounds.max.x) x -= Math.ceil((x - bounds.max.x) / world) * world;
        if (x < bounds.min.x || x > bounds.max.x || y < bounds.min.y || y > bounds.max.y) continue;
        const key = Math.floor((x + origin.x) / CELL_PX) * 1e6 + Math.floor((y + origin.y) / CELL_PX);
        const cell = cells.get(key);
        if (cell) cell.push([x, y, device]);
        else cells.set(key, [[x, y, device]]);
      }
      this.shown = [];
      const [crowds, points] = grouped([...cells.values()], map.getZoom() < 15);
      points.sort((a, b) => (ORDER[a[2].presence] ?? 0) - (ORDER[b[2].presence] ?? 0));
      const large = map.getZoom() >= 9;
      for (const [x, y, device] of points) this.point(context, x, y, device, large ? 6 : 4.5);
      for (const crowd of crowds) this.crowd(context, crowd);
    },

    point(context, x, y, device, radius) {
      const fill = this.colours[device.presence] ?? this.colours.unknown;
      if (typeof device.heading === "number" && device.presence === "online" && radius > 5) {
        context.save();
        context.translate(x, y);
        context.rotate((device.heading * Math.PI) / 180);
        context.beginPath();
        context.moveTo(0, -radius - 7);
        context.lineTo(4.5, -radius + 1);
        context.lineTo(-4.5, -radius + 1);
        context.closePath();
        context.fillStyle = fill;
        context.fill();
        context.restore();
      }
      context.beginPath();
      context.arc(x, y, radius, 0, 7);
      context.fillStyle = fill;
      context.fill();
      context.lineWidth = 1.5;
      context.strokeStyle = this.colours.edge;
      context.stroke();
      if (device.id === this.chosen) {
        context.beginPath();
        context.arc(x, y, radius + 5, 0, 7);
        context.lineWidth = 2.5;
        context.strokeStyle = this.colours.accent;
        context.stroke();
      }
      this.shown.push({ x, y, radius: radius + 4, device });
    },

    crowd(context, crowd) {
      const radius = radiusOf(crowd.count);
      context.beginPath();
      context.arc(crowd.x, crowd.y, radius, 0, 7);
      context.fillStyle = this.colours.crowd;
      context.fill();
      let from = -Math.PI / 2;
      context.lineWidth = 3;
      for (const state of ["online", "offline", "unknown"]) {
        const part = ((crowd.states[state] ?? 0) / crowd.count) * 2 * Math.PI;
        if (!part) continue;
        context.beginPath();
        context.arc(crowd.x, crowd.y, radius, from, from + part);
        context.strokeStyle = this.colours[state];
        context.stroke();
        from += part;
      }
      context.fillStyle = this.colours.text;
      context.font = this.font;
      context.textAlign = "center";
      context.textBaseline = "middle";
      context.fillText(crowd.count < 1000 ? crowd.count : `${(crowd.count / 1000).toFixed(1)}k`, crowd.x, crowd.y + 0.5);
      this.shown.push({ x: crowd.x, y: crowd.y, radius: radius + 2, crowd });
    },

    under(event) {
      const at = this._map.mouseEventToLayerPoint(event);
      return this.shown.findLast(({ x, y, radius }) => (x - at.x) ** 2 + (y - at.y) ** 2 <= radius * radius);
    },

    _onMouseMove(event) {
      if (!this._map || this._map.dragging.moving() || this._map._animatingZoom) return;
      const found = this.under(event);
      this._container.classList.toggle("leaflet-interactive", Boolean(found));
      this.tip.hidden = !found;
      if (!found) return;
      const { crowd, device } = found;
      this.tip.textContent = crowd
        ? `${crowd.count} devices, ${crowd.states.online ?? 0} online`
        : `${device.name === device.id ? device.id : `${device.name} · ${device.id}`}\n${device.presence ?? "unknown"}${device.ts ? `, ${new Date(device.ts).toLocaleString()}` : ""}`;
      const at = this._map.layerPointToContainerPoint([found.x, found.y]);
      this.tip.style.transform = `translate(${Math.round(at.x + 14)}px, ${Math.round(at.y - 12)}px)`;
    },

    _handleMouseOut() {
      this.tip.hidden = true;
    },

    _onClick(event) {
      const found = this.under(event);
      if (!found || this._map._draggableMoved?.(this)) return;
      L.DomEvent.stop(event);
      this.tip.hidden = true;
      if (found.device) onOpen(found.device.id);
      else this._map.fitBounds(found.crowd.bounds(L), { padding: [60, 60], maxZoom: 16 });
    },
  });
  return new Layer({ padding: 0.3 });
}

const radiusOf = (count) => 11 + Math.min(13, Math.log2(count) * 1.6);

/** Cells that hold a crowd become circles, which take in what they would hide: smaller circles and single devices. */
function grouped(cells, crowding) {
  const crowds = [];
  const points = [];
  const near = (x, y, extra) => crowds.find((crowd) => Math.hypot(crowd.x - x, crowd.y - y) < radiusOf(crowd.count) + extra);
  for (const cell of cells.sort((a, b) => b.length - a.length)) {
    if (!crowding || cell.length <= CROWD) {
      points.push(...cell);
      continue;
    }
    const crowd = crowdOf(cell);
    const larger = near(crowd.x, crowd.y, radiusOf(crowd.count) - 3);
    if (larger) join(larger, cell);
    else crowds.push(crowd);
  }
  return [crowds, points.filter(([x, y, device]) => {
    const crowd = near(x, y, 0);
    if (crowd) join(crowd, [[x, y, device]]);
    return !crowd;
  })];
}

function join(crowd, cell) {
  crowd.cell.push(...cell);
  crowd.count += cell.length;
  for (const [, , { presence }] of cell) crowd.states[presence] = (crowd.states[presence] ?? 0) + 1;
}

function crowdOf(cell) {
  const crowd = {
    x: cell.reduce((sum, [x]) => sum + x, 0) / cell.length, y: cell.reduce((sum, [, y]) => sum + y, 0) / cell.length, count: 0, states: {}, cell: [],
    bounds: (L) => L.latLngBounds(crowd.cell.map(([, , { lat, lon }]) => [lat, lon])),
  };
  join(crowd, cell);
  return crowd;
}
