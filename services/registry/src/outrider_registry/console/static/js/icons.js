// The console's own line icons, 24 × 24, drawn with the text's colour.
import { html } from "./core.js";

const PATHS = {
  devices: "M4 7.5 12 3l8 4.5v9L12 21l-8-4.5zM4 7.5l8 4.5 8-4.5M12 12v9",
  map: "M12 21s7-6.1 7-11.2A7 7 0 0 0 5 9.8C5 14.9 12 21 12 21zM12 12.300a2.5 2.5 0 1 0 0-5 2.5 2.5 0 0 0 0 5z",
  trips: "M6 20a2.5 2.5 0 1 0 0-5 2.5 2.5 0 0 0 0 5zM18 9a2.5 2.5 0 1 0 0-5 2.5 2.5 0 0 0 0 5zM18 9v3.500a3 3 0 0 1-3 3H8.5",
  charts: "M4 4v16h16M7.5 15l3.5-4.5 3 2.500L19 7",
  claims: "M15 9a4.5 4.5 0 1 0-4.3 4.500L13 16h2v2h2v2h4v-3.300l-6.2-6.2",
  config: "M4 7h9M19 7h1M4 12h3M13 12h7M4 17h9M19 17h1M16 5v4M10 10v4M16 15v4",
  rejected: "M12 3 2.5 20h19zM12 10v4.500M12 17.300v.1",
  sequences: "M4 12h3.500M11 12h2M16.5 12H20M4 6h9M16.5 6H20M4 18h16",
  metrics: "M4 19h16M6.5 19v-6M12 19V5M17.5 19v-9",
  audit: "M12 3l7.5 3v5.500c0 4.6-3.1 8-7.5 9.5-4.4-1.5-7.5-4.9-7.5-9.500V6zM9 12l2.2 2.200L15.3 10",
  users: "M9 11a3.5 3.5 0 1 0 0-7 3.5 3.5 0 0 0 0 7zM2.5 20a6.5 6.5 0 0 1 13 0M16 4.300a3.5 3.5 0 0 1 0 6.400M18 14.500a6.5 6.5 0 0 1 3.5 5.5",
  tenants: "M4 21V6l8-3v18M12 9l8 2.500V21M2.5 21h19M7 9.500h2M7 13h2M7 16.500h2M15.5 14h1.500M15.5 17.500h1.5",
  tokens: "M8 7l-5 5 5 5M16 7l5 5-5 5M13.5 4.500l-3 15",
  profile: "M12 12a4 4 0 1 0 0-8 4 4 0 0 0 0 8zM4.5 20.500a7.5 7.5 0 0 1 15 0",
  search: "M11 18a7 7 0 1 0 0-14 7 7 0 0 0 0 14zM20.5 20.5 16 16",
  plus: "M12 5v14M5 12h14",
  close: "M6 6l12 12M18 6 6 18",
  check: "M4.5 12.500l5 5 10-11",
  menu: "M4 7h16M4 12h16M4 17h16",
  stop: "M8.2 3h7.600L21 8.200v7.600L15.8 21H8.200L3 15.800V8.200zM12 8v4.800M12 16v.1",
  play: "M7 4.500v15l12-7.500z",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  edit: "M4 20h4L19.5 8.500l-4-4L4 16zM13.5 6.500l4 4",
  trash: "M4.5 7h15M9.5 7V4.500h5V7M6.5 7l1 13h9l1-13M10 11v5.500M14 11v5.5",
  upload: "M12 16V4M7 9l5-5 5 5M4 17v3h16v-3",
  download: "M12 4v12M7 11l5 5 5-5M4 17v3h16v-3",
  refresh: "M20 12a8 8 0 1 1-2.5-5.800M20 3.500V8h-4.5",
  sun: "M12 16.500a4.5 4.5 0 1 0 0-9 4.5 4.5 0 0 0 0 9zM12 2v2.500M12 19.500V22M2 12h2.500M19.5 12H22M4.9 4.900l1.8 1.800M17.3 17.300l1.8 1.800M19.1 4.900l-1.8 1.800M6.7 17.300l-1.8 1.8",
  moon: "M20 14.500A8.5 8.5 0 0 1 9.5 4a8.5 8.5 0 1 0 10.5 10.500z",
  auto: "M12 3.500a8.5 8.5 0 1 0 0 17zM12 3.500a8.5 8.5 0 0 1 0 17",
  more: "M5 12v.1M12 12v.1M19 12v.1",
  chevron: "M9 5l7 7-7 7",
  down: "M6 9l6 6 6-6",
  out: "M14 4H5v16h9M10 12h11M17 8l4 4-4 4",
  external: "M14 4h6v6M20 4l-9 9M18 14v6H4V6h6",
  key: "M14.5 14a5.5 5.5 0 1 0-5.2-3.700L3 16.600V21h4v-2.500h2.500V16l1.7-1.700a5.5 5.5 0 0 0 3.3-.3zM16 8v.1",
  info: "M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18zM12 11v5.500M12 7.500v.1",
  filter: "M4 5h16l-6.5 7.500V19l-3-1.500v-5z",
  clock: "M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18zM12 7v5.300l3.5 2",
  link: "M10 14a4 4 0 0 0 5.7 0l3.6-3.600a4 4 0 0 0-5.7-5.700L12 6.300M14 10a4 4 0 0 0-5.7 0l-3.6 3.600a4 4 0 0 0 5.7 5.700l1.6-1.6",
  send: "M21 3 10 14M21 3l-6.5 18-4.5-7-7-4.500z",
};

/** An icon by name. Decorative: give the control around it a label. */
export const Icon = ({ name, size = 18 }) => html`
  <svg class="icon" width=${size} height=${size} viewBox="0 0 24 24" aria-hidden="true"><path d=${PATHS[name]} /></svg>`;

/** The mark of Outrider. */
export const Logo = ({ size = 28 }) => html`
  <svg class="logo" width=${size} height=${size} viewBox="0 0 32 32" role="img" aria-label="Outrider">
    <rect class="logo-ground" width="32" height="32" rx="8" />
    <g fill="none" stroke="#fff" stroke-width="2.6" stroke-linecap="round">
      <path d="M8.2 22.600a9.5 9.5 0 0 1 0-13.2" opacity=".45" />
      <path d="M12.6 19.400a5 5 0 0 1 0-6.8" opacity=".75" />
      <path d="M17.5 16h2.2" />
    </g>
    <circle cx="23.6" cy="16" r="3.2" fill="#fff" />
  </svg>`;
