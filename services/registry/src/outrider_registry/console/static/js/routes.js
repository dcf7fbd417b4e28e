// Which page is at which path, and what the navigation shows. A page is a module whose default export is a component; it is
// given the parameters of its path, and loaded when it is first looked at.
// `each`: it starts anew for another :id. `anyTenant`: it also works before a platform administrator has chosen a tenant.
const device = () => import("./pages/device.js");
const charts = () => import("./pages/charts.js");
const rejected = () => import("./pages/rejected.js");

export const ROUTES = [
  { path: "/devices", load: () => import("./pages/devices.js") },
  { path: "/devices/:id", load: device, each: true },
  { path: "/devices/:id/:tab", load: device, each: true },
  { path: "/import", load: () => import("./pages/import.js") },
  { path: "/map", load: () => import("./pages/map.js") },
  { path: "/trips", load: () => import("./pages/trips.js") },
  { path: "/charts", load: charts },
  { path: "/charts/:id", load: charts },
  { path: "/claims", load: () => import("./pages/claims.js") },
  { path: "/commands", load: () => import("./pages/commands.js") },
  { path: "/metrics", load: () => import("./pages/metrics.js") },
  { path: "/configurations", load: () => import("./pages/configurations.js") },
  { path: "/rejected", load: rejected },
  { path: "/rejected/:id", load: rejected },
  { path: "/sequences", load: () => import("./pages/sequences.js") },
  { path: "/audit", load: () => import("./pages/audit.js"), anyTenant: true },
  { path: "/users", load: () => import("./pages/users.js"), anyTenant: true },
  { path: "/tokens", load: () => import("./pages/tokens.js"), anyTenant: true },
  { path: "/tenants", load: () => import("./pages/tenants.js"), anyTenant: true },
  { path: "/profile", load: () => import("./pages/profile.js"), anyTenant: true },
];

/** Groups of the navigation: [path, title, icon, scope that it takes]. */
export const NAVIGATION = [
  ["Fleet", [
    ["/devices", "Devices", "devices", "devices:read"],
    ["/map", "Map", "map", "telemetry:read"],
    ["/trips", "Trips", "trips", "trips:read"],
    ["/charts", "Charts", "charts", "charts:read"],
    ["/claims", "Enrolment", "claims", "devices:read"],
    ["/configurations", "Configurations", "config", "config:read"],
    ["/commands", "Commands", "send", "commands:read"],
  ]],
  ["Data", [
    ["/rejected", "Rejected", "rejected", "rejected:read"],
    ["/sequences", "Sequence gaps", "sequences", "telemetry:read"],
    ["/metrics", "Metrics", "metrics", "devices:read"],
  ]],
  ["Administration", [
    ["/users", "People", "users", "users:read"],
    ["/tokens", "API tokens", "tokens", "tokens:read"],
    ["/tenants", "Tenants", "tenants", "platform:read"],
    ["/audit", "Audit", "audit", "audit:read"],
  ]],
];
